// Tables and lists beside the chart.

import { count, element, numberText, timeText } from "./values.js";

const MOST = 200; // rows of a table

export function drawReport(place, report) {
  const facts = [];
  if (report.series) {
    facts.push(["series", count(report.series)], ["rows", count(report.rows)], ["from, to", `${report.first} to ${report.last}`.replaceAll(" 00:00:00", "")], ["step", String(report.freq)]);
    if (report.tz) facts.push(["zone", report.tz]);
    if (report.missing) facts.push(["missing", `${count(report.missing)} values, ${count(report.gaps)} rows without any`]);
  }
  const columns = report.columns.map(([role, name, what]) => [role, `${name}: ${what}`]);
  const list = element("dl", {}, ...[...facts, ...columns].flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)]));
  const findings = report.findings.map((one) => {
    const some = one.series.length ? ` (${one.series.slice(0, 3).join(", ")}${one.series.length > 3 ? ` and ${one.series.length - 3} more` : ""})` : "";
    return element("div", { class: one.level === "error" ? "finding bad" : "finding" }, one.message + some, element("small", {}, one.fix));
  });
  place.replaceChildren(list, ...findings);
}

function table(heads, rows) {
  return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "table" },
    element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((one) => element("th", { scope: "col" }, one)))), element("tbody", {}, ...rows)));
}

export function drawRows(place, { forecast, calendar }) {
  if (!forecast) return;
  const levels = [50, 80, 95].filter((level) => forecast.bands[level]);
  const heads = ["time", "median", ...levels.map((level) => `${level} %`)];
  const rows = forecast.x.slice(0, MOST).map((x, i) => element("tr", {},
    element("td", {}, timeText(x, calendar)), element("td", {}, numberText(forecast.median[i])),
    ...levels.map((level) => element("td", {}, `${numberText(forecast.bands[level][0][i])} to ${numberText(forecast.bands[level][1][i])}`))));
  place.replaceChildren(table(heads, rows));
}

// Scores of a backtest: one row a model, the best of each column marked; a name chooses the model.
export function drawScores(place, scores, models, choose) {
  const rows = models.map((model) => {
    const cells = scores.metric.map((_, i) => {
      const best = Math.min(...models.map((one) => scores[one][i] ?? Infinity));
      return element("td", { class: scores[model][i] === best ? "best" : null }, numberText(scores[model][i]));
    });
    return element("tr", {}, element("th", { scope: "row" }, element("button", { type: "button", onclick: () => choose(model), title: "show and forecast with it" }, model)), ...cells);
  });
  place.replaceChildren(table(["lower is better", ...scores.metric], rows));
}

export function drawIncidents(place, list, calendar, go) {
  if (!list.length) return place.replaceChildren(element("p", { class: "quiet" }, "No incident was found."));
  const buttons = list.slice(0, MOST).map((one) => {
    const span = one.from === one.to ? timeText(one.from, calendar) : `${timeText(one.from, calendar)} to ${timeText(one.to, calendar)}`;
    const channels = one.channels.slice(0, 3).map((part) => part.channel).join(", ");
    const more = `${count(one.rows)} row${one.rows > 1 ? "s" : ""}, score ${numberText(one.score)} over ${numberText(one.threshold)}`;
    return element("button", { type: "button", class: "incident", onclick: () => go(one) }, element("b", {}, span), channels, element("br"), element("span", {}, more));
  });
  place.replaceChildren(element("h3", {}, `${count(list.length)} incident${list.length > 1 ? "s" : ""}`), ...buttons);
}

export function drawJobs(place, jobs, cancel) {
  const rows = jobs.toReversed().slice(0, 20).map((job) => {
    const ended = ["done", "failed", "cancelled"].includes(job.state);
    const words = job.error ? `${job.state}: ${job.error.detail ?? job.error}` : `${job.state}${job.note ? `, ${job.note}` : ""}`;
    const bar = ended ? [] : [element("progress", { max: job.total || 1, value: job.total ? job.done : null, "aria-label": `progress of ${job.name}` })];
    const stop = ended ? [] : [element("button", { type: "button", onclick: () => cancel(job) }, "Cancel")];
    return element("div", { class: "job" }, element("div", {}, element("b", {}, `${job.verb} ${job.name}`), ...stop), ...bar, element("span", { class: "quiet" }, words));
  });
  place.replaceChildren(...rows);
}

// An answer, and each of its facts with how it was computed; one that has a time leads there.
export function drawAnswer(place, { answer, facts }, spans, go) {
  const shown = facts.map((fact, i) => element("button", { type: "button", class: "incident evidence", disabled: !spans[i], onclick: () => go(spans[i]) },
    element("b", {}, fact.text), element("span", {}, fact.how)));
  place.replaceChildren(element("p", { class: "answer" }, answer), ...(shown.length ? [element("h3", {}, "Evidence")] : []), ...shown);
}
