// What the verbs answer, arranged by series: forecasts, backtests, incidents.

import { toX } from "./values.js";

// The span of rows of one forecast as the chart draws it.
function fan(table, name, label, time, rows) {
  const take = (column) => rows.map((i) => column[i]);
  const bands = {};
  for (const level of [50, 80, 95]) {
    const low = table[`${name}-lo-${level}`];
    if (low) bands[level] = [take(low), take(table[`${name}-hi-${level}`])];
  }
  return { x: take(table[time]).map(toX), median: take(table[name]), bands, label };
}

const keyOf = (table, ids, i) => ids.map((id) => String(table[id][i])).join("\0");

// The forecast of each series: rows are ordered by series, and each has as many as the horizon.
export class Forecast {
  constructor(table, data, model, horizon) {
    Object.assign(this, { table, time: data.time, model, horizon });
  }

  of(series) {
    const rows = Array.from({ length: this.horizon }, (_, i) => series * this.horizon + i);
    const found = fan(this.table, this.model, this.model, this.time, rows);
    return found.median.some((one) => one !== null) ? found : null;
  }
}

// Forecasts at several cut-offs, by series and cut-off.
export class Backtest {
  constructor(answer, data, models) {
    Object.assign(this, { table: answer.output, scores: answer.result, time: data.time, models, rows: new Map() });
    const { table } = this;
    table.cutoff.forEach((cutoff, i) => {
      const key = keyOf(table, data.id, i);
      if (!this.rows.has(key)) this.rows.set(key, new Map());
      const own = this.rows.get(key);
      const at = toX(cutoff);
      if (!own.has(at)) own.set(at, []);
      own.get(at).push(i);
    });
  }

  cutoffs(key) {
    return [...(this.rows.get(key)?.keys() ?? [])].sort((a, b) => a - b);
  }

  of(key, cutoff, model) {
    return fan(this.table, model, model, this.time, this.rows.get(key).get(cutoff));
  }
}

// Incidents, and the score of each row.
export class Incidents {
  constructor(answer) {
    this.list = answer.result.map((one) => ({ ...one, from: toX(one.start), to: toX(one.end) }));
    const [time] = Object.keys(answer.scores);
    const { score, threshold } = answer.scores;
    this.score = { x: answer.scores[time].map(toX), score, threshold };
  }
}

// The spans of time that an answer's facts speak of; null for a fact without a time.
export function evidence({ facts }) {
  return facts.map(({ times }) => {
    const all = Object.values(times).map(toX);
    return all.length ? { from: Math.min(...all), to: Math.max(...all) } : null;
  });
}
