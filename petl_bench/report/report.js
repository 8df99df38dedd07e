const charts = JSON.parse(document.getElementById("charts").textContent);
const NARROW_PIXELS = 560;
const COARSE = matchMedia("(pointer: coarse)").matches; // fingers, not a mouse

// Theme: plotly takes colours by value, so they are read from the style sheet at each drawing.

function theme() {
  const style = getComputedStyle(document.documentElement);
  const series = [...Array(8).keys()].map((number) => `series${number}`);
  const names = ["card", "ink", "faded", "line", "accent", "beaten", ...series];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function themedTrace(trace, colours) {
  if (trace.meta === "band") return { ...trace, line: { ...trace.line, color: colours.card } };
  const roles = { frontier: "accent", best: "accent", beaten: "beaten", published: "faded" };
  const colour = colours[roles[trace.meta] ?? trace.meta];
  if (!colour) return trace;
  const themed = structuredClone(trace);
  themed.marker = { ...trace.marker, color: colour };
  themed.line = { ...trace.line, color: colour };
  if (trace.error_y) themed.error_y = { ...trace.error_y, color: colour };
  const faded = trace.meta === "beaten" || trace.meta === "published";
  themed.textfont = { color: colours[faded ? "faded" : "ink"], size: 12 };
  return themed;
}

function themedLayout(layout, colours, narrow) {
  const themed = structuredClone(layout);
  const axis = { gridcolor: colours.line, linecolor: colours.line, zerolinecolor: colours.line };
  // On a touch screen a drag scrolls the page, so the chart must not take it for a zoom.
  const fixed = { fixedrange: COARSE };
  const spike = { spikecolor: colours.faded, spikethickness: 1, spikedash: "solid" };
  for (const name of ["xaxis", "yaxis"]) {
    themed[name] = { ...axis, ...fixed, ...spike, ...themed[name] };
    themed[name].title = { ...themed[name].title, font: { size: 12.5, color: colours.faded } };
  }
  for (const note of themed.annotations ?? []) {
    if (narrow) note.text = note.text.replace("  ", "<br>");
    note.font = { size: narrow ? 11 : 12, color: note.yref === "paper" ? colours.faded : colours.ink };
  }
  return {
    ...themed,
    dragmode: COARSE ? false : "zoom",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colours.ink },
    hoverlabel: { align: "left", bgcolor: colours.card, bordercolor: colours.line, font: { color: colours.ink } },
  };
}

// Drawing

const CONFIG = {
  displaylogo: false,
  displayModeBar: COARSE ? false : "hover",
  modeBarButtons: [["toImage", "resetScale2d"]],
};

async function draw(div, key) {
  const colours = theme();
  const narrow = div.clientWidth < NARROW_PIXELS;
  const data = charts[key].data.map((trace) => themedTrace(trace, colours));
  const layout = { ...themedLayout(charts[key].layout, colours, narrow), width: div.clientWidth };
  await Plotly.newPlot(div, data, layout, CONFIG);
  if (data.some(hasLabels)) await Plotly.relayout(div, { annotations: labelsOf(div, data, colours.faded) });
  div.dataset.drawn = key;
}

function drawAll() {
  return Promise.all([...document.querySelectorAll(".chart")].map((div) => {
    const select = document.querySelector(`select[data-draws="${div.id}"]`);
    return draw(div, select ? select.value : div.id);
  }));
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
