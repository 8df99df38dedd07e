const charts = JSON.parse(document.getElementById("charts").textContent);
const NARROW_PIXELS = 560;
const COARSE = matchMedia("(pointer: coarse)").matches; // fingers, not a mouse

// Theme: plotly takes colours by value, so they are read from the style sheet at each drawing.

function theme() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

const ROLES = { frontier: "accent", best: "accent", published: "faded" }; // others are their own

function themedTrace(trace, colour) {
  if (!trace.meta) return trace;
  if (trace.meta.band) return themedBand(trace, colour);
  const own = colour(ROLES[trace.meta] ?? trace.meta);
  const themed = structuredClone(trace);
  themed.marker = { ...trace.marker, color: own };
  themed.line = { ...trace.line, color: own };
  if (trace.stackgroup) themed.fillcolor = own;
  if (trace.error_y) themed.error_y = { ...trace.error_y, color: own };
  const faded = trace.meta === "beaten" || trace.meta === "published";
  themed.textfont = { color: colour(faded ? "faded" : "ink"), size: 12 };
  return themed;
}

// A tensor of its category's colour; neighbours differ in opacity, and a line is between them.
function themedBand(trace, colour) {
  const { band, opacity } = trace.meta;
  const alpha = Math.round(255 * opacity).toString(16).padStart(2, "0");
  return { ...trace, fillcolor: colour(band) + alpha, line: { ...trace.line, color: colour("card") } };
}

function themedLayout(layout, colour, narrow) {
  const themed = structuredClone(layout);
  const axis = { gridcolor: colour("line"), linecolor: colour("line"), zerolinecolor: colour("line") };
  // On a touch screen a drag scrolls the page, so the chart must not take it for a zoom.
  const fixed = { fixedrange: COARSE };
  const spike = { spikecolor: colour("faded"), spikethickness: 1, spikedash: "solid" };
  for (const name of ["xaxis", "yaxis"]) {
    themed[name] = { ...axis, ...fixed, ...spike, ...themed[name] };
    themed[name].title = { ...themed[name].title, font: { size: 12.5, color: colour("faded") } };
  }
  for (const note of themed.annotations ?? []) {
    if (narrow) note.text = note.text.replace("  ", "<br>");
    note.font = { size: narrow ? 11 : 12, color: note.yref === "paper" ? colour("faded") : colour("ink") };
  }
  return {
    ...themed,
    dragmode: COARSE ? false : "zoom",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
    hoverlabel: { align: "left", bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
  };
}

// Drawing

const CONFIG = {
  displaylogo: false,
  displayModeBar: COARSE ? false : "hover",
  modeBarButtons: [["toImage", "resetScale2d"]],
};

async function draw(div, key) {
  const colour = theme();
  const narrow = div.clientWidth < NARROW_PIXELS;
  const data = charts[key].data.map((trace) => themedTrace(trace, colour));
  const layout = { ...themedLayout(charts[key].layout, colour, narrow), width: div.clientWidth };
  await Plotly.newPlot(div, data, layout, CONFIG);
  if (data.some(hasLabels)) await Plotly.relayout(div, { annotations: labelsOf(div, data, colour("faded")) });
  div.dataset.drawn = key;
}

function drawAll() {
  return drawWithin(document);
}

// What is shown: a chart in closed details has no width, and is drawn when they open.
function drawWithin(part) {
  const shown = [...part.querySelectorAll(".chart")].filter((div) => div.clientWidth);
  return Promise.all(shown.map((div) => {
    const select = document.querySelector(`select[data-draws="${div.id}"]`);
    return draw(div, select ? select.value : div.id);
  }));
}

for (const details of document.querySelectorAll("details")) {
  details.addEventListener("toggle", () => drawWithin(details));
}

for (const select of document.querySelectorAll("select[data-draws]")) {
  select.addEventListener("change", () => {
    draw(document.getElementById(select.dataset.draws), select.value);
  });
}

let resized = 0;
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return; // a phone's address bar hides and shows
  width = window.innerWidth;
  clearTimeout(resized);
  resized = setTimeout(drawAll, 150);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
drawAll();

// Sorting: numbers by their value, text by the alphabet; what is absent stays last.

function sortKey(row, column) {
  const cell = row.cells[column];
  if (!("number" in cell.dataset)) return cell.textContent.trim();
  return cell.dataset.number === "" ? null : Number(cell.dataset.number);
}

function compared(one, other) {
  return typeof one === "string" ? one.localeCompare(other) : one - other;
}

function sortBy(table, column, sign) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: sortKey(row, column) }));
  rows.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    return sign * compared(a.key, b.key);
  });
  body.append(...rows.map(({ row }) => row));
}

// Filtering: rows that hold every word stay.

const FEWEST_ROWS = 5; // below, a filter would be longer than the table

function addFilter(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < FEWEST_ROWS) return;
  const region = table.closest(".scroll");
  const label = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("output");
  label.className = "filter";
  input.type = "search";
  input.placeholder = "words, all of which a row must hold";
  label.append("Filter ", input, count);
  region.before(label);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  addFilter(table);
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", order);
    sortBy(table, column, order === "ascending" ? 1 : -1);
  }));
}
