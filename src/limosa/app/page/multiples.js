// Small multiples: all series as sparklines, searched by name, drawn when they come into sight.

import { colour, count, element, shade } from "./values.js";

const AT_ONCE = 60;
const ROWS = 160; // of the end of each series

// sources: {section, grid, search, more, count}; draw(i) gives {values, forecast} of a series, choose(i) opens it.
export class Multiples {
  constructor(sources, draw, choose) {
    Object.assign(this, sources, { draw, choose, shown: AT_ONCE, names: [] });
    this.search.addEventListener("input", () => { this.shown = AT_ONCE; this.fill(); });
    this.more.addEventListener("click", () => { this.shown += AT_ONCE; this.fill(); });
    this.sight = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) if (isIntersecting) this.paint(target);
    }, { rootMargin: "200px" });
  }

  set(names) {
    this.names = names;
    this.shown = AT_ONCE;
    this.search.value = "";
    this.section.hidden = names.length < 2;
    this.fill();
  }

  fill() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (name) => words.every((word) => name.toLowerCase().includes(word));
    const found = this.names.map((name, i) => i).filter((i) => fits(this.names[i]));
    this.sight.disconnect();
    this.grid.replaceChildren(...found.slice(0, this.shown).map((i) => this.cell(i)));
    for (const cell of this.grid.children) this.sight.observe(cell);
    this.more.hidden = found.length <= this.shown;
    this.count.textContent = `${count(Math.min(found.length, this.shown))} of ${count(found.length)} series`;
    this.select(this.chosen);
  }

  cell(i) {
    const open = () => this.choose(i);
    return element("button", { type: "button", class: "cell", "data-series": i, onclick: open, title: this.names[i] },
      element("canvas", { "aria-hidden": "true" }), element("span", {}, this.names[i]));
  }

  select(index) {
    this.chosen = index;
    for (const cell of this.grid.children) cell.setAttribute("aria-pressed", String(Number(cell.dataset.series) === index));
  }

  repaint() {
    for (const cell of this.grid.children) {
      this.sight.unobserve(cell);
      this.sight.observe(cell);
    }
  }

  paint(cell) {
    const canvas = cell.querySelector("canvas");
    const { values, forecast } = this.draw(Number(cell.dataset.series), ROWS);
    const ratio = devicePixelRatio;
    const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
    Object.assign(canvas, { width, height });
    const ctx = canvas.getContext("2d");
    const all = [...values, ...(forecast ? [...forecast.low, ...forecast.high] : [])].filter((one) => one !== null);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const steps = values.length + (forecast ? forecast.median.length : 0) - 1;
    const x = (i) => 1 + (i / Math.max(1, steps)) * (width - 2);
    const y = (value) => height - 2 - ((value - low) / (high - low || 1)) * (height - 4);
    const line = (column, first, style) => {
      ctx.strokeStyle = style;
      ctx.lineWidth = 1.25 * ratio;
      ctx.beginPath();
      let pen = false;
      column.forEach((value, i) => {
        if (value === null) { pen = false; return; }
        if (pen) ctx.lineTo(x(first + i), y(value));
        else ctx.moveTo(x(first + i), y(value));
        pen = true;
      });
      ctx.stroke();
    };
    if (forecast && forecast.median[0] !== null) {
      ctx.fillStyle = shade("band", 0.25);
      ctx.beginPath();
      forecast.high.forEach((value, i) => ctx.lineTo(x(values.length + i), y(value)));
      forecast.low.toReversed().forEach((value, i) => ctx.lineTo(x(values.length + forecast.low.length - 1 - i), y(value)));
      ctx.fill();
      line(forecast.median, values.length, colour("median"));
    }
    line(values, 0, colour("history"));
  }
}
