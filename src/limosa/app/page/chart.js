// The fan chart, its history brush and the score strip: three uPlots over one span of time.

import uPlot from "/page/uplot/uPlot.js";
import { colour, numberText, shade, timeText } from "./values.js";

const LEVELS = [95, 80, 50];
const FADE = { 95: 0.12, 80: 0.16, 50: 0.24 };
const SYNC = "limosa";
const SWATCH = { 95: 0.22, 80: 0.42, 50: 0.7 };
const FONT = "12px system-ui, sans-serif";
const DAY = 86400;
const NONE = [null, null, null, null, null];
const TIMES = [ // from this many seconds between ticks: the label, and what is added where the year or the day changes
  [365 * DAY, "{YYYY}", null, ...NONE, 1],
  [28 * DAY, "{MMM}", "\n{YYYY}", ...NONE, 1],
  [DAY, "{D} {MMM}", "\n{YYYY}", ...NONE, 1],
  [60, "{HH}:{mm}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
];

// A view of one series: x and y of all its rows, what is forecast, incidents; what is absent is null.
// {calendar, x, y, name, horizon, forecast: {x, median, bands: {95: [lo, hi], …}, label}, cutoff, incidents, score}
export class Chart {
  constructor({ chart, brush, strip, readout, live }) {
    Object.assign(this, { chartBox: chart, brushBox: brush, stripBox: strip, readout, live });
    this.plots = [];
    new ResizeObserver(() => this.resize()).observe(chart);
    chart.addEventListener("keydown", (event) => this.key(event));
  }

  // Draw a view; the span stays where it was if `keep`.
  show(view, keep = false) {
    const span = keep && this.view ? this.span() : null;
    this.view = view;
    this.full = aligned(view);
    const x = this.full[0];
    this.ends = [x[0], x.at(-1) === x[0] ? x[0] + 1 : x.at(-1)];
    for (const plot of this.plots) plot.destroy();
    const range = span ?? this.home();
    this.wanted = range;
    this.stripBox.hidden = !view.score;
    const { score } = view;
    this.scores = score && [score.x, score.score, score.threshold];
    const width = this.chartBox.clientWidth;
    this.main = new uPlot(this.mainOptions(range), thinned(this.full, range, width), this.chartBox);
    this.over = new uPlot(this.overOptions(), thinned([x, this.full[1]], this.ends, width), this.brushBox);
    this.strip = score ? new uPlot(this.stripOptions(range), thinned(this.scores, range, width), this.stripBox) : null;
    this.plots = [this.main, this.over, ...(this.strip ? [this.strip] : [])];
    this.addBrush();
    this.mark();
    this.describe();
    this.read(null);
  }

  span() {
    const { min, max } = this.main.scales.x;
    return [min, max];
  }

  // The span that opens: the last rows, and what is forecast.
  home() {
    const { x, horizon, cutoff } = this.view;
    const all = this.full[0];
    const last = cutoff === null || cutoff === undefined ? x.length - 1 : nearest(x, cutoff);
    const from = Math.max(0, last - Math.max(6 * horizon, 60));
    const to = Math.min(all.length - 1, last + Math.max(horizon, 1));
    return [all[from], all[Math.max(to, from + 1)] ?? all[from] + 1];
  }

  go(min, max) {
    const [first, last] = this.ends;
    const least = Math.min((last - first) / 2, 4 * ((last - first) / this.full[0].length));
    const width = Math.min(last - first, Math.max(max - min, least));
    min = Math.max(first, Math.min(min, last - width));
    this.wanted = [min, min + width];
    this.frame ??= requestAnimationFrame(() => this.land());
  }

  // Draw the wanted span, with no more points than can be seen.
  land() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    const [min, max] = this.wanted;
    const width = this.chartBox.clientWidth;
    for (const [plot, columns] of [[this.main, this.full], [this.strip, this.scores]]) {
      plot?.batch(() => {
        plot.setData(thinned(columns, this.wanted, width), false);
        plot.setScale("x", { min, max });
      });
    }
  }

  zoom(factor, at = null) {
    const [min, max] = this.wanted ?? this.span();
    const middle = at ?? (min + max) / 2;
    this.go(middle - (middle - min) * factor, middle + (max - middle) * factor);
  }

  pan(share) {
    const [min, max] = this.wanted ?? this.span();
    this.go(min + (max - min) * share, max + (max - min) * share);
  }

  resize() {
    const width = this.chartBox.clientWidth;
    for (const plot of this.plots) plot.setSize({ width, height: plot.root.parentElement.clientHeight });
    if (this.plots.length) this.mark();
  }

  // ---- what is drawn ----

  axes(size, bottom = true) {
    const { calendar } = this.view;
    const common = { stroke: colour("dim"), font: FONT, grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false } };
    const x = { ...common, show: bottom, size: 34, space: 70 };
    x.values = calendar ? TIMES : (_, splits) => splits.map((one) => numberText(one));
    return [x, { ...common, size, values: (_, splits) => splits.map(axisText) }];
  }

  base(height, more) {
    return {
      width: this.chartBox.clientWidth,
      height,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      legend: { show: false },
      padding: [10, 20, 0, 0],
      ...more,
    };
  }

  mainOptions([min, max]) {
    const { view } = this;
    const line = { points: { show: false }, spanGaps: false };
    const fan = view.forecast
      ? [
          ...LEVELS.flatMap(() => [{ ...line }, { ...line }]),
          { ...line, stroke: colour("median"), width: 2.25 },
        ]
      : [];
    const few = view.x.length < 120;
    return this.base(this.chartBox.clientHeight, {
      scales: { x: { time: view.calendar, min, max }, y: { range: (_, low, high) => padded(low, high) } },
      axes: this.axes(58),
      series: [{}, { ...line, stroke: colour("history"), width: 1.25, points: { show: few, size: 4, fill: colour("history") } }, ...fan],
      bands: view.forecast
        ? LEVELS.map((level, i) => ({ series: [3 + 2 * i, 2 + 2 * i], fill: shade("band", FADE[level]) }))
        : [],
      cursor: {
        sync: { key: SYNC, scales: ["x", null] },
        drag: { x: true, y: false, setScale: false },
        points: {
          size: 8,
          width: 2,
          fill: (_, i) => (i === 1 || i === 8 ? colour("card") : "transparent"),
          stroke: (_, i) => (i === 8 ? colour("median") : i === 1 ? colour("history") : "transparent"),
        },
        move: (plot, left, top) => [left < 0 ? left : plot.valToPos(plot.data[0][plot.posToIdx(left)], "x"), top],
        y: false,
        bind: { dblclick: () => () => this.go(...this.home()) },
      },
      hooks: {
        drawClear: [(plot) => this.drawSpans(plot)],
        draw: [(plot) => this.drawCutoff(plot)],
        setCursor: [(plot) => this.read(plot.cursor.idx)],
        setScale: [(_, scale) => scale === "x" && this.mark()],
        setSelect: [(plot) => this.selected(plot)],
        ready: [(plot) => this.addWheel(plot)],
      },
    });
  }

  overOptions() {
    return this.base(this.brushBox.clientHeight, {
      scales: { x: { time: this.view.calendar }, y: { range: (_, low, high) => padded(low, high) } },
      axes: [{ show: false }, { show: false, size: 0 }],
      padding: [2, 20, 2, 58],
      series: [{}, { stroke: colour("dim"), width: 1, points: { show: false } }],
      cursor: { show: false },
      hooks: { drawClear: [(plot) => this.drawSpans(plot)], ready: [() => this.mark()] },
    });
  }

  stripOptions([min, max]) {
    return this.base(this.stripBox.clientHeight, {
      scales: { x: { time: this.view.calendar, min, max }, y: { range: (_, low, high) => [0, Math.max(high, 1e-9) * 1.08] } },
      axes: this.axes(58, false),
      padding: [8, 20, 8, 0],
      series: [
        {},
        { stroke: colour("dim"), width: 1, points: { show: false } },
        { stroke: colour("actual"), width: 1, dash: [5, 4], points: { show: false } },
      ],
      cursor: { sync: { key: SYNC, scales: ["x", null] }, drag: { x: false, y: false }, points: { show: false }, y: false },
      hooks: { drawClear: [(plot) => this.drawSpans(plot)] },
    });
  }

  drawSpans(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    const { incidents, evidence } = this.view;
    ctx.fillStyle = evidence ? shade("band", 0.25) : shade("incident", 0.2);
    for (const { from, to } of (incidents ?? evidence ?? []).filter(Boolean)) {
      const left = plot.valToPos(from, "x", true);
      const width = Math.max(3 * devicePixelRatio, plot.valToPos(to, "x", true) - left);
      const start = Math.max(left, bbox.left);
      const end = Math.min(left + width, bbox.left + bbox.width);
      if (end > start) ctx.fillRect(start, bbox.top, end - start, bbox.height);
    }
    ctx.restore();
  }

  drawCutoff(plot) {
    const { cutoff } = this.view;
    if (cutoff === null || cutoff === undefined) return;
    const { ctx, bbox } = plot;
    const left = Math.round(plot.valToPos(cutoff, "x", true)) + 0.5;
    if (left < bbox.left || left > bbox.left + bbox.width) return;
    ctx.save();
    ctx.strokeStyle = colour("dim");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(left, bbox.top);
    ctx.lineTo(left, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  }

  // ---- what is read ----

  read(index) {
    const { calendar, forecast } = this.view;
    const parts = [];
    const said = (key, label, text) => {
      const part = document.createElement("span");
      const swatch = key ? `<i style="color:${key}"></i>` : "";
      part.innerHTML = `${swatch}${label} <b></b>`;
      part.querySelector("b").textContent = text;
      parts.push(part);
    };
    if (index === null || index === undefined) {
      said(colour("history"), "observed", "");
      if (forecast) {
        said(colour("median"), forecast.label, "median");
        for (const level of [...LEVELS].reverse()) {
          if (forecast.bands[level]) said(shade("band", SWATCH[level]), `${level} %`, "");
        }
      }
      if (this.view.incidents?.length) said(shade("incident", 0.6), "incident", "");
      if (this.view.evidence?.length) said(shade("band", 0.5), "evidence", "");
      if (this.view.score) {
        said(colour("dim"), "anomaly score", "");
        said(colour("actual"), "its threshold", "");
      }
    } else {
      const at = this.main.data.map((column) => column[index]);
      said("", "", timeText(at[0], calendar));
      if (at[1] !== null) said(colour("history"), "observed", numberText(at[1]));
      if (this.strip) said(colour("dim"), "anomaly score", numberText(this.strip.data[1][nearest(this.strip.data[0], at[0])]));
      if (forecast && at[0] >= forecast.x[0] && at[8] !== null) {
        said(colour("median"), forecast.label, numberText(at[8]));
        for (const [i, level] of [...LEVELS.entries()].reverse()) {
          const [low, high] = [at[2 + 2 * i], at[3 + 2 * i]];
          if (low !== null) said(shade("band", SWATCH[level]), `${level} %`, `${numberText(low)} to ${numberText(high)}`);
        }
      }
    }
    this.readout.replaceChildren(...parts);
  }

  describe() {
    const { name, x, calendar, forecast, incidents } = this.view;
    const parts = [`${name}: ${x.length} rows from ${timeText(x[0], calendar)} to ${timeText(x.at(-1), calendar)}`];
    if (forecast) parts.push(`forecast of ${forecast.x.length} steps by ${forecast.label}, median at the end ${numberText(forecast.median.at(-1))}`);
    if (incidents?.length) parts.push(`${incidents.length} incidents`);
    this.chartBox.setAttribute("aria-label", parts.join("; "));
  }

  // ---- how it is moved ----

  key(event) {
    const plot = this.main;
    if (!plot || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const x = this.full[0];
    if (steps) {
      const [min, max] = this.span();
      const now = plot.cursor.idx === null || plot.cursor.idx === undefined ? max : plot.data[0][plot.cursor.idx];
      const index = Math.max(0, Math.min(x.length - 1, nearest(x, now) + steps * (event.shiftKey ? 10 : 1)));
      if (x[index] < min || x[index] > max) {
        this.go(x[index] - (max - min) / 2, x[index] + (max - min) / 2);
        this.land();
      }
      plot.setCursor({ left: plot.valToPos(x[index], "x"), top: plot.over.clientHeight / 2 });
      this.live.textContent = Array.from(this.readout.children, (part) => part.textContent.trim()).join(", ");
    } else if (event.key === "+" || event.key === "=") this.zoom(0.7);
    else if (event.key === "-" || event.key === "−") this.zoom(1 / 0.7);
    else if (event.key === "0") this.go(...this.home());
    else if (event.key === "Home") this.go(this.ends[0], this.ends[0] + this.span()[1] - this.span()[0]);
    else if (event.key === "End") this.go(this.ends[1] - this.span()[1] + this.span()[0], this.ends[1]);
    else return;
    event.preventDefault();
  }

  addWheel(plot) {
    plot.over.addEventListener("wheel", (event) => {
      event.preventDefault();
      const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
      if (sideways) this.pan((event.deltaX || event.deltaY) / 1000);
      else this.zoom(Math.exp(event.deltaY / 500), plot.posToVal(event.offsetX, "x"));
    }, { passive: false });
  }

  selected(plot) {
    if (plot.select.width > 4) this.go(plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x"));
    if (plot.select.width) plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  }

  addBrush() {
    const over = this.over.over;
    this.window = document.createElement("div");
    this.window.className = "window";
    over.append(this.window);
    const value = (event) => this.over.posToVal(event.clientX - over.getBoundingClientRect().left, "x");
    over.addEventListener("pointerdown", (down) => {
      const [min, max] = this.wanted ?? this.span();
      const edge = this.over.posToVal(9, "x") - this.over.posToVal(0, "x");
      const start = value(down);
      const side = Math.abs(start - min) < edge ? "min" : Math.abs(start - max) < edge ? "max" : start > min && start < max ? "both" : "new";
      over.setPointerCapture(down.pointerId);
      const move = (event) => {
        const now = value(event);
        if (side === "both") this.go(min + now - start, max + now - start);
        else if (side === "min") this.go(Math.min(now, max), max);
        else if (side === "max") this.go(min, Math.max(now, min));
        else this.go(Math.min(start, now), Math.max(start, now));
      };
      const end = () => { over.removeEventListener("pointermove", move); };
      over.addEventListener("pointermove", move);
      over.addEventListener("pointerup", end, { once: true });
      over.addEventListener("pointercancel", end, { once: true });
      if (side === "new") this.go(start - (max - min) / 2, start + (max - min) / 2);
    });
  }

  // Put the window of the brush where the chart looks.
  mark() {
    if (!this.window || !this.over || !this.main) return;
    const [min, max] = this.span();
    if (!this.frame) this.wanted = [min, max];
    const left = this.over.valToPos(min, "x");
    this.window.style.left = `${left}px`;
    this.window.style.width = `${Math.max(4, this.over.valToPos(max, "x") - left)}px`;
  }

  // The chart as a picture, with its name.
  async picture() {
    const own = this.main.ctx.canvas;
    const made = document.createElement("canvas");
    const head = 44 * devicePixelRatio;
    made.width = own.width;
    made.height = own.height + head;
    const ctx = made.getContext("2d");
    ctx.fillStyle = colour("card");
    ctx.fillRect(0, 0, made.width, made.height);
    ctx.fillStyle = colour("ink");
    ctx.font = `600 ${16 * devicePixelRatio}px system-ui, sans-serif`;
    const by = this.view.forecast ? `, ${this.view.forecast.label} with bands of 50, 80 and 95 %` : "";
    ctx.fillText(this.view.name + by, 16 * devicePixelRatio, 28 * devicePixelRatio, made.width - 32 * devicePixelRatio);
    ctx.drawImage(own, 0, head);
    return new Promise((done) => made.toBlob(done, "image/png"));
  }
}

// Columns of the chart over the time of history and forecast: x, y, lo and hi of each level, median.
function aligned({ x, y, forecast }) {
  if (!forecast) return [x, y];
  const ahead = forecast.x.filter((one) => one > x.at(-1));
  const all = ahead.length ? [...x, ...ahead] : x;
  const first = nearest(all, forecast.x[0]);
  const place = (values) => {
    const column = new Array(all.length).fill(null);
    let at = first;
    if (first > 0) column[first - 1] = y[first - 1]; // the fan opens at the last row seen: a single step is seen, too
    forecast.x.forEach((one, i) => {
      while (all[at] < one) at += 1;
      column[at] = values[i];
    });
    return column;
  };
  const nothing = () => new Array(all.length).fill(null);
  const bands = LEVELS.flatMap((level) => (forecast.bands[level] ? forecast.bands[level].map(place) : [nothing(), nothing()]));
  return [all, ahead.length ? [...y, ...new Array(ahead.length).fill(null)] : y, ...bands, place(forecast.median)];
}

// Columns of a span: all rows, or where there are many more than pixels the lowest and highest of each pixel.
function thinned(columns, [min, max], width) {
  const [x, y] = columns;
  const from = Math.max(0, nearest(x, min) - 1);
  const to = Math.min(x.length, nearest(x, max) + 2);
  if (to - from <= 4 * width) return columns.map((column) => column.slice(from, to));
  const kept = [];
  const size = (to - from) / width;
  for (let pixel = 0; pixel < width; pixel += 1) {
    const start = from + Math.floor(pixel * size);
    const end = Math.min(to, from + Math.floor((pixel + 1) * size));
    let low = -1;
    let high = -1;
    for (let i = start; i < end; i += 1) {
      const value = y[i];
      if (value === null) continue;
      if (low < 0 || value < y[low]) low = i;
      if (high < 0 || value > y[high]) high = i;
    }
    if (low < 0) kept.push(start);
    else if (low === high) kept.push(low);
    else kept.push(Math.min(low, high), Math.max(low, high));
  }
  return columns.map((column) => kept.map((i) => column[i]));
}

// The first place whose value is not below `value`; the last if there is none.
function nearest(x, value) {
  let low = 0;
  let high = x.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function padded(low, high) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

function axisText(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${numberText(value / 1e9)}B`;
  if (size >= 1e6) return `${numberText(value / 1e6)}M`;
  return size >= 1e4 ? `${numberText(value / 1e3)}k` : numberText(value);
}
