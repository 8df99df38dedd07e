"use strict";

// Names of points: each beside its point and nearer to it than to any other, or farther off and
// tied to it by a line; where it covers no point, no line and no other name. Else the hover has it.

const DIRECTIONS = [[1, 0], [-1, 0], [0, -1], [0, 1], [1, -1], [1, 1], [-1, -1], [-1, 1]];
const NEAR_PIXELS = 9;
const FAR_PIXELS = [20, 28, 38, 50];
const HALF_LINE_PIXELS = 8;
const NEARER = 0.8; // a label's way to its own point, of that to any other
const LEADER_END_PIXELS = 7; // from the point that it leads to

function hasLabels(trace) {
  return trace.type === "scatter" && trace.mode?.endsWith("markers");
}

function between(from, to, margin) {
  return {
    left: Math.min(from.x, to.x) - margin, right: Math.max(from.x, to.x) + margin,
    top: Math.min(from.y, to.y) - margin, bottom: Math.max(from.y, to.y) + margin,
  };
}

// Boxes small enough to follow a sloped line.
function along(from, to, margin = 1) {
  const pieces = Math.max(1, Math.ceil(Math.min(Math.abs(to.x - from.x), Math.abs(to.y - from.y)) / 6));
  const at = (step) => ({
    x: from.x + ((to.x - from.x) * step) / pieces, y: from.y + ((to.y - from.y) * step) / pieces,
  });
  return [...Array(pieces).keys()].map((step) => between(at(step), at(step + 1), margin));
}

function meet(one, other) {
  return one.left < other.right && other.left < one.right
    && one.top < other.bottom && other.top < one.bottom;
}

function distance(box, { x, y }) {
  return Math.hypot(Math.max(box.left - x, x - box.right, 0), Math.max(box.top - y, y - box.bottom, 0));
}

// Where a label could stand, from near to far.
function spots(point, width) {
  const near = DIRECTIONS.map(([across, down]) => ({
    across, x: across * NEAR_PIXELS,
    y: down * (across ? NEAR_PIXELS + 2 : NEAR_PIXELS + HALF_LINE_PIXELS),
  }));
  const far = FAR_PIXELS.flatMap((reach) => DIRECTIONS.map(([across, down]) => ({
    across, x: across * reach, y: down * (across ? reach : reach + HALF_LINE_PIXELS), tied: true,
  })));
  return [...near, ...far].map((spot) => {
    const left = point.x + spot.x - (spot.across < 0 ? width : spot.across > 0 ? 0 : width / 2);
    const middle = point.y + spot.y;
    const box = {
      left, right: left + width, top: middle - HALF_LINE_PIXELS, bottom: middle + HALF_LINE_PIXELS,
    };
    return { ...spot, box, leader: spot.tied ? leader(point, spot) : [] };
  });
}

function leader(point, { across, x, y }) {
  const length = Math.hypot(x, y);
  const start = LEADER_END_PIXELS / length;
  const end = across ? 1 : 1 - HALF_LINE_PIXELS / length;
  return along(
    { x: point.x + x * start, y: point.y + y * start }, { x: point.x + x * end, y: point.y + y * end },
  );
}

function linesOf(data, shapes, xaxis, yaxis) {
  const taken = [];
  for (const { x, y, mode, error_y: bars } of data) {
    const places = x.map((each, at) => ({ x: xaxis.d2p(each), y: yaxis.d2p(y[at]) }));
    if (mode.startsWith("lines")) {
      for (let at = 1; at < places.length; at += 1) taken.push(...along(places[at - 1], places[at]));
    }
    bars?.array.forEach((spread, at) => taken.push(between(
      { x: places[at].x, y: yaxis.d2p(y[at] - spread) }, { x: places[at].x, y: yaxis.d2p(y[at] + spread) }, 2,
    )));
  }
  for (const { type, y0: level } of shapes ?? []) {
    if (type !== "line") continue;
    taken.push(between({ x: 0, y: yaxis.d2p(level) }, { x: xaxis._length, y: yaxis.d2p(level) }, 0));
  }
  return taken;
}

// The annotations of plotly that name the points of a chart that is drawn.
function labelsOf(div, data, leaderColour) {
  const { xaxis, yaxis, shapes } = div._fullLayout;
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const decoder = document.createElement("textarea"); // decodes entities, and makes no elements
  const found = data.filter(hasLabels).flatMap((trace) => trace.x.map((x, at) => ({
    trace, at, x: xaxis.d2p(x), y: yaxis.d2p(trace.y[at]),
    best: trace.meta === "best" || trace.customdata[at][4] === true,
  })));
  const points = found.map((point) => between(point, point, 6));
  const lines = linesOf(data, shapes, xaxis, yaxis);
  const names = []; // and their leaders
  const labels = [];
  for (const point of [...found].sort((a, b) => b.best - a.best || a.y - b.y)) {
    const [label] = point.trace.customdata[point.at];
    decoder.innerHTML = label;
    const others = found.filter((other) => other !== point);
    const foreign = others.map((other) => between(other, other, 6));
    const spot = spots(point, pen.measureText(decoder.value).width + 4).find(({ box, leader: tie, tied }) => (
      box.left >= 0 && box.right <= xaxis._length && box.top >= 0 && box.bottom <= yaxis._length
      && ![...points, ...lines, ...names].some((other) => meet(box, other))
      && !tie.some((piece) => [...foreign, ...names].some((other) => meet(piece, other)))
      && (tied || others.every((other) => distance(box, point) < NEARER * distance(box, other)))
    ));
    if (!spot) continue;
    names.push(spot.box, ...spot.leader);
    labels.push(annotation(point, label, spot, xaxis, leaderColour));
  }
  return labels;
}

function annotation({ trace, at }, text, { across, x, y, tied }, xaxis, leaderColour) {
  const place = xaxis.type === "log" ? Math.log10(trace.x[at]) : trace.x[at];
  const tie = tied
    ? { ax: x, ay: y, arrowhead: 0, arrowwidth: 1, arrowcolor: leaderColour, standoff: LEADER_END_PIXELS }
    : { xshift: x, yshift: -y };
  return {
    x: place, y: trace.y[at], text, font: trace.textfont, showarrow: Boolean(tied),
    xanchor: { "-1": "right", 0: "center", 1: "left" }[across], yanchor: "middle", borderpad: 0, ...tie,
  };
}
