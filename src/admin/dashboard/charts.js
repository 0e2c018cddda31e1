// The charts, on canvases: distributions of a latency over time, and where requests go and why.

import * as format from "./format.js";

const LEFT = 46;
const RIGHT = 58;
const BOTTOM = 20;
const TOP = 8;

/** What each canvas shows, so that it can be drawn again when it gets another size or theme. */
const drawings = new WeakMap();
const resized = new ResizeObserver((entries) => entries.forEach(({ target }) => drawings.get(target)?.()));

/** Draws on a canvas now, and again whenever its size changes. */
export function show(canvas, draw) {
  if (!drawings.has(canvas)) resized.observe(canvas);
  drawings.set(canvas, () => draw(surface(canvas)));
  drawings.get(canvas)();
}

export const redraw = () => document.querySelectorAll("canvas").forEach((canvas) => drawings.get(canvas)?.());

function surface(canvas) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  pen.font = `11px ${style.fontFamily}`;
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  return { pen, width, height, color };
}

/**
 * A distribution over time: each column is a step, each cell as strong as its share of the column. What is later than
 * promised has another colour and lies above the line of the promise; lines are p50 and p95.
 */
export function distribution(surface, { columns, steps, range, at, promise, cursor }) {
  const { pen, width, height, color } = surface;
  const rows = shownRows(columns, steps, promise);
  const x = (step) => LEFT + ((step - range.first) / range.length) * (width - LEFT - RIGHT);
  const y = (row) => height - BOTTOM - ((row - rows.low) / (rows.high - rows.low)) * (height - BOTTOM - TOP);
  const rowOf = (ms) => Math.log10(ms / steps.lowest_row_ms) * steps.rows_per_decade;
  grid(surface, rows, rowOf, y);
  const visible = columns.filter((column) => column.step >= range.first);
  const [wide, tall] = [x(1) - x(0), Math.abs(y(1) - y(0))];
  const border = promise ? rowOf(promise.threshold_ms) : Infinity;
  for (const column of visible) {
    for (const [row, samples] of column.cells) {
      const share = samples / column.quantiles.samples;
      pen.globalAlpha = 0.12 + 0.88 * Math.sqrt(Math.min(1, share * 2.5));
      pen.fillStyle = color(row + 0.5 >= border ? "late" : "early");
      pen.fillRect(x(column.step) + 0.5, y(Math.max(row, rows.low) + 1) + 0.5, Math.max(1, wide - 1), Math.max(1, tall - 0.5));
    }
  }
  pen.globalAlpha = 1;
  timeAxis(surface, range, at, x);
  const lines = [["p50", 1.25], ["p95", 2]];
  for (const [quantile, weight] of lines) quantileLine(surface, visible, range, x, (c) => y(rowOf(c.quantiles[`${quantile}_ms`])), weight);
  labels(surface, visible.at(-1), (ms) => y(rowOf(ms)));
  if (promise) promiseLine(surface, y(border), promise);
  if (cursor !== null) cursorLine(surface, x(cursor + 0.5), TOP);
}

/** From the lowest to the highest row in use, the promise included, with a little room; at least half a decade. */
function shownRows(columns, steps, promise) {
  const used = columns.map((column) => column.cells.at(-1)[0]);
  if (columns.length > 0) used.push(lowestOfNote(columns));
  if (promise) used.push(Math.floor(Math.log10(promise.threshold_ms / steps.lowest_row_ms) * steps.rows_per_decade));
  if (used.length === 0) used.push(steps.rows_per_decade * 3);
  const [low, high] = [Math.min(...used) - 1, Math.max(...used) + 3];
  const missing = Math.max(0, steps.rows_per_decade / 2 - (high - low));
  return { low: low - Math.floor(missing / 2), high: high + Math.ceil(missing / 2) };
}

/** The row below which one sample of two hundred lies: fewer do not stretch the picture, and are drawn at its foot. */
function lowestOfNote(columns) {
  const byRow = new Map();
  for (const column of columns) for (const [row, samples] of column.cells) byRow.set(row, (byRow.get(row) ?? 0) + samples);
  let left = columns.reduce((all, column) => all + column.quantiles.samples, 0) / 200;
  return [...byRow].sort(([a], [b]) => a - b).find(([, samples]) => (left -= samples) < 0)[0];
}

function grid({ pen, width, height, color }, rows, rowOf, y) {
  pen.strokeStyle = color("rule");
  pen.fillStyle = color("muted");
  pen.lineWidth = 1;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  let last = Infinity;
  for (let decade = -1; decade < 6; decade++) {
    for (const step of [1, 2, 5]) {
      const ms = step * 10 ** decade;
      const row = rowOf(ms);
      if (row < rows.low || row > rows.high || last - y(row) < 16) continue;
      last = y(row);
      pen.beginPath();
      pen.moveTo(LEFT, Math.round(last) + 0.5);
      pen.lineTo(width - RIGHT, Math.round(last) + 0.5);
      pen.stroke();
      pen.fillText(ms >= 1_000 ? `${ms / 1_000} s` : `${ms} ms`, LEFT - 6, last);
    }
  }
}

function timeAxis({ pen, width, height, color }, range, at, x) {
  pen.fillStyle = color("muted");
  pen.textBaseline = "alphabetic";
  const [begin, end] = [at(range.first), at(range.last + 1)];
  const apart = [30, 60, 120, 300].map((s) => s * 1_000).find((ms) => ((end - begin) / ms) * 62 <= width - LEFT - RIGHT) ?? 300_000;
  const stepOf = (time) => range.first + ((time - begin) / (end - begin)) * range.length;
  const text = apart < 60_000 ? format.time : format.minute;
  pen.strokeStyle = color("rule");
  for (let time = Math.ceil(begin / apart) * apart; time < end; time += apart) {
    const place = x(stepOf(time));
    if (place > width - RIGHT - 14 || place < LEFT + 4) continue;
    pen.textAlign = "center";
    pen.fillText(text(time), place, height - 5);
    pen.beginPath();
    pen.moveTo(Math.round(place) + 0.5, height - BOTTOM);
    pen.lineTo(Math.round(place) + 0.5, height - BOTTOM + 4);
    pen.stroke();
  }
  pen.textAlign = "left";
  pen.fillText("now", width - RIGHT + 6, height - 5);
}

/** A line through the columns, broken where there is none. */
function quantileLine({ pen, color }, columns, range, x, y, weight) {
  pen.beginPath();
  let before = null;
  for (const column of columns) {
    const [left, right, level] = [x(column.step), x(column.step + 1), y(column)];
    if (before === column.step - 1) pen.lineTo(left, level);
    else pen.moveTo(left, level);
    pen.lineTo(right, level);
    before = column.step;
  }
  pen.lineJoin = "round";
  // A halo keeps the line apart from the cells beneath it.
  pen.strokeStyle = color("card");
  pen.lineWidth = weight + 2.5;
  pen.stroke();
  pen.strokeStyle = color("ink");
  pen.lineWidth = weight;
  pen.stroke();
}

function labels({ pen, width, color }, column, y) {
  if (!column) return;
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  pen.fillStyle = color("ink");
  const at = { p50: y(column.quantiles.p50_ms), p95: y(column.quantiles.p95_ms) };
  const apart = Math.max(0, 12 - (at.p50 - at.p95)) / 2;
  pen.fillText("p50", width - RIGHT + 6, at.p50 + apart);
  pen.fillText("p95", width - RIGHT + 6, at.p95 - apart);
}

function promiseLine({ pen, width, color }, y, promise) {
  pen.strokeStyle = color("bad");
  pen.lineWidth = 1.5;
  pen.setLineDash([5, 4]);
  pen.beginPath();
  pen.moveTo(LEFT, Math.round(y) + 0.5);
  pen.lineTo(width - RIGHT, Math.round(y) + 0.5);
  pen.stroke();
  pen.setLineDash([]);
  pen.fillStyle = color("bad");
  pen.textAlign = "left";
  pen.textBaseline = "bottom";
  const text = `promised: ${format.latency(promise.threshold_ms)}`;
  // A halo, since there may be cells beneath.
  pen.strokeStyle = color("card");
  pen.lineWidth = 4;
  pen.strokeText(text, LEFT + 4, y - 3);
  pen.fillText(text, LEFT + 4, y - 3);
}

function cursorLine({ pen, height, color }, x, top) {
  pen.strokeStyle = color("ink");
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(Math.round(x) + 0.5, top);
  pen.lineTo(Math.round(x) + 0.5, height - BOTTOM);
  pen.stroke();
}

/** The height of the strip of reasons below the requests. */
const STRIP = 26;
const BETWEEN = 16;

/**
 * Tries per second, stacked by backend, and below them the shares of the reasons. `series` are `{ name, color, pick }`,
 * where `pick` gives the tries of a tally.
 */
export function traffic(surface, { tallies, range, at, seconds, backends, reasons, cursor }) {
  const { pen, width, height, color } = surface;
  const floor = height - BOTTOM - STRIP - BETWEEN;
  const x = (step) => LEFT + ((step - range.first) / range.length) * (width - LEFT - RIGHT);
  const visible = tallies.filter((tally) => tally.step >= range.first);
  const sum = (tally, series) => series.reduce((all, one) => all + one.pick(tally), 0);
  const most = niceCeiling(Math.max(1, ...visible.map((tally) => sum(tally, backends))) / seconds);
  const y = (rate) => floor - (rate / most) * (floor - TOP);
  rates(surface, most, y);
  const wide = Math.max(1, x(1) - x(0) - 1);
  for (const tally of visible) {
    let [from, below] = [0, 0];
    for (const one of backends) {
      const to = from + one.pick(tally) / seconds;
      fill(surface, one, x(tally.step) + 0.5, y(to), wide, y(from) - y(to));
      from = to;
    }
    const all = sum(tally, reasons);
    for (const one of reasons) {
      const tall = all ? (one.pick(tally) / all) * STRIP : 0;
      fill(surface, one, x(tally.step) + 0.5, height - BOTTOM - below - tall, wide, tall);
      below += tall;
    }
  }
  pen.fillStyle = color("muted");
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  pen.fillText("why", LEFT - 6, height - BOTTOM - STRIP / 2);
  timeAxis(surface, range, at, x);
  if (cursor !== null) cursorLine(surface, x(cursor + 0.5), TOP);
}

function rates({ pen, width, color }, most, y) {
  pen.strokeStyle = color("rule");
  pen.fillStyle = color("muted");
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const rate of [0, most / 2, most]) {
    pen.beginPath();
    pen.moveTo(LEFT, Math.round(y(rate)) + 0.5);
    pen.lineTo(width - RIGHT, Math.round(y(rate)) + 0.5);
    pen.stroke();
    pen.fillText(rate === most ? `${rate}/s` : `${rate}`, LEFT - 6, y(rate));
  }
}

function fill({ pen, color }, { color: name, hatched }, x, y, wide, tall) {
  if (tall <= 0) return;
  pen.fillStyle = color(name);
  pen.fillRect(x, y, wide, tall);
  if (!hatched) return;
  pen.save();
  pen.beginPath();
  pen.rect(x, y, wide, tall);
  pen.clip();
  pen.strokeStyle = color("card");
  pen.lineWidth = 1;
  pen.beginPath();
  for (let at = x - tall; at < x + wide; at += 4) {
    pen.moveTo(at, y + tall);
    pen.lineTo(at + tall, y);
  }
  pen.stroke();
  pen.restore();
}

function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

/** The step under a place of the canvas, for pointers. */
export function stepAt(canvas, range, clientX) {
  const box = canvas.getBoundingClientRect();
  const share = (clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
  return share < 0 || share >= 1 ? null : range.first + Math.floor(share * range.length);
}
