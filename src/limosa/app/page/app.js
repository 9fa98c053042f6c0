// The page: a file in, what was understood, and what the verbs make of it. Every number comes from the server's routes.

import { Backtest, evidence, Forecast, Incidents } from "./answers.js";
import { get, post, Refused, remove } from "./api.js";
import { Chart } from "./chart.js";
import { asCommand, asCurl, asPython } from "./copying.js";
import { Multiples } from "./multiples.js";
import { drawAnswer, drawIncidents, drawJobs, drawReport, drawRows, drawScores } from "./panels.js";
import { count, element, timeText } from "./values.js";

const $ = (id) => document.getElementById(id);
const LEVELS = "50,80,95";
const STEPS = { s: 60, min: 60, "15min": 96, "30min": 48, h: 48, D: 28, W: 13, MS: 12, ME: 12, QS: 8, QE: 8, YS: 5, YE: 5 };
const TABS = ["forecast", "backtest", "detect", "jobs", "ask"];

const state = { file: null, data: null, series: 0, tab: "forecast", columns: {}, found: {}, last: {}, about: {}, running: {} };

const chart = new Chart({ chart: $("chart"), brush: $("brush"), strip: $("strip"), readout: $("readout"), live: $("live") });
const multiples = new Multiples(
  { section: $("all"), grid: $("grid"), search: $("search"), more: $("more"), count: $("count") },
  (i, rows) => {
    const { y } = rowsOf(i, rows);
    const own = state.found.forecast?.of(i);
    const [low, high] = own?.bands[80] ?? [[], []];
    return { values: y, forecast: own && { median: own.median, low, high } };
  },
  (i) => open(i),
);

// ---- a file ----

async function read(file) {
  Object.assign(state, { file, columns: {}, data: null, found: {}, last: {} });
  await understand();
}

async function understand() {
  const answer = await run("check", "/v1/series", state.columns, "Reading …");
  if (!answer) return;
  drawReport($("report"), answer.report);
  fillColumns(answer);
  const bare = !answer.ids; // other columns may be what is needed, where there are any
  $("welcome").hidden = !bare || answer.names.length > 0;
  $("work").hidden = bare && answer.names.length === 0;
  $("work").classList.toggle("bare", bare);
  $("all").hidden = bare;
  if (bare) {
    const { message, fix } = answer.report.findings.find((one) => one.level === "error");
    fail(`${message}; ${fix}`);
    return;
  }
  const scale = answer.calendar ? 1000 : 1;
  answer.stamps = answer.stamps.map((one) => one / scale);
  if (answer.ids.length === 1 && !answer.names.includes(answer.id[0])) answer.ids = [state.file.name.replace(/\.\w+$/, "")];
  Object.assign(state, { data: answer, found: {}, series: 0 });
  const usual = STEPS[String(answer.freq).split("-")[0]] ?? 24;
  $("horizon").value = Math.max(1, Math.min(usual, Math.floor(answer.report.longest / 4)));
  multiples.set(answer.ids);
  $("replay").hidden = true;
  $("incidents").replaceChildren();
  open(0);
  choose("forecast");
  await forecast();
}

function fillColumns({ names, report }) {
  const own = { id_col: "id", time_col: "time", target_col: "target" };
  for (const [option, role] of Object.entries(own)) {
    const now = report.columns.find(([one]) => one === role)?.[1] ?? "";
    const none = now === "" || option === "id_col" ? [new Option("none", "")] : [];
    $(option).replaceChildren(...none, ...names.map((name) => new Option(name, name)));
    $(option).value = names.includes(now) ? now : "";
  }
  $("columns").hidden = names.length < 2;
}

function rowsOf(i, most = Infinity) {
  const { start, stamps, values } = state.data;
  const from = Math.max(start[i], start[i + 1] - most);
  return { x: stamps.slice(from, start[i + 1]), y: values.slice(from, start[i + 1]) };
}

// ---- the view ----

function open(i) {
  const { ids } = state.data;
  state.series = i;
  $("title").textContent = ids[i];
  $("steps").hidden = ids.length < 2;
  $("place").textContent = `${count(i + 1)} of ${count(ids.length)}`;
  multiples.select(i);
  setCutoffs();
  show();
}

function show(keep = false) {
  const { data, series, tab, found } = state;
  const { x, y } = rowsOf(series);
  const view = {
    x, y, name: data.ids[series], calendar: data.calendar, horizon: Number($("horizon").value) || 1,
    forecast: null, cutoff: null, incidents: null, evidence: null, score: null,
  };
  if (tab === "backtest" && found.backtest && state.cutoffs.length) {
    view.cutoff = state.cutoffs[$("cutoff").value];
    view.forecast = found.backtest.of(data.keys[series], view.cutoff, replayed());
    $("cutoff-label").textContent = `${timeText(view.cutoff, data.calendar)}, ${replayed()}`;
    $("cutoff").setAttribute("aria-valuetext", $("cutoff-label").textContent);
  } else if (tab === "detect" && found.detect) {
    view.incidents = found.detect.list;
    view.score = found.detect.score;
  } else if (tab === "ask") view.evidence = found.ask ?? [];
  else if (tab === "forecast") view.forecast = found.forecast?.of(series) ?? null;
  $("facts").textContent = `${count(x.length)} rows, ${timeText(x[0], data.calendar)} to ${timeText(x.at(-1), data.calendar)}, step ${data.freq}`;
  chart.show(view, keep);
  drawRows($("rows"), view);
  document.querySelector(".rows").hidden = !view.forecast;
}

function choose(tab) {
  state.tab = tab;
  for (const one of TABS) {
    const chosen = one === tab;
    $(`tab-${one}`).setAttribute("aria-selected", String(chosen));
    $(`tab-${one}`).tabIndex = chosen ? 0 : -1;
    $(`panel-${one}`).hidden = !chosen;
  }
  $("csv").disabled = !["forecast", "backtest", "detect"].includes(tab);
  stop();
  if (tab === "jobs") watchJobs();
  if (state.data) show();
}

function setCutoffs() {
  const own = state.found.backtest?.cutoffs(state.data.keys[state.series]) ?? [];
  state.cutoffs = own;
  $("replay").hidden = !own.length;
  $("cutoff").max = Math.max(0, own.length - 1);
  $("cutoff").value = own.length - 1;
}

const replayed = () => {
  const { models } = state.found.backtest;
  return models.includes($("model").value) ? $("model").value : models.at(-1);
};

// ---- requests ----

async function run(name, path, query, words) {
  state.running[name]?.abort();
  const control = new AbortController();
  state.running[name] = control;
  busy(words);
  try {
    const answer = await post(path, state.file, query, { signal: control.signal });
    state.last[name] = query;
    const said = [...new Set(answer.warnings ?? [])];
    busy(null, said.join(" · "));
    return answer;
  } catch (error) {
    if (error.name === "AbortError") return null;
    if (!(error instanceof Refused)) throw error;
    const fewer = /levels up to (\d+)/.exec(error.message);
    if (fewer && query.level) {
      const level = LEVELS.split(",").filter((one) => Number(one) <= Number(fewer[1])).join(",");
      if (level && level !== query.level) return run(name, path, { ...query, level }, words);
    }
    busy(null);
    fail(error.message);
    return null;
  } finally {
    if (state.running[name] === control) delete state.running[name];
  }
}

function busy(words, said = "") {
  for (const place of document.querySelectorAll(".state")) {
    place.textContent = words ?? said;
    place.classList.toggle("busy", words !== null);
  }
  if (words !== null) for (const place of document.querySelectorAll(".error")) place.hidden = true;
}

function fail(words) {
  for (const place of document.querySelectorAll(".error")) {
    place.textContent = words;
    place.hidden = false;
  }
}

const number = (id) => ($(id).value === "" ? null : Number($(id).value));

async function forecast() {
  const horizon = number("horizon");
  const model = $("model").value || "limosa-small";
  const query = { horizon, model, level: LEVELS, context: number("context"), calibrate: $("calibrate").checked ? 4 : null, ...state.columns };
  const answer = await run("forecast", "/v1/forecast", { ...query, orient: "columns" }, `Forecasting ${count(state.data.ids.length)} series …`);
  if (!answer) return;
  const name = Object.keys(answer.model)[0] ?? model;
  state.found.forecast = new Forecast(answer.result, state.data, name, horizon);
  show();
  multiples.repaint();
}

async function backtest() {
  const models = [...document.querySelectorAll("#models input:checked")].map((one) => one.value);
  if (!models.length) return fail("choose at least one model");
  const query = { horizon: number("horizon"), model: models, windows: number("windows"), step: number("step"), level: LEVELS, ...state.columns };
  const answer = await run("backtest", "/v1/backtest", { ...query, orient: "columns" }, "Backtesting …");
  if (!answer) return;
  state.found.backtest = new Backtest(answer, state.data, models);
  drawScores($("scores"), answer.result, models, (model) => { $("model").value = model; show(true); });
  setCutoffs();
  show();
}

async function detect() {
  const query = { model: $("detector").value, risk: number("risk"), ...state.columns };
  const answer = await run("detect", "/v1/detect", { ...query, scores: true, orient: "columns" }, "Finding incidents …");
  if (!answer) return;
  state.found.detect = new Incidents(answer);
  drawIncidents($("incidents"), state.found.detect.list, state.data.calendar, go);
  show(true);
}

// Bring a span into the middle of the chart.
function go({ from, to }) {
  const room = Math.max((to - from) * 3, 40 * (state.data.stamps[1] - state.data.stamps[0]));
  chart.go(from - room, to + room);
}

async function startJob() {
  const verb = $("job-verb").value;
  const model = verb === "adapt" ? { model: $("model").value } : {};
  const horizon = verb === "adapt" ? {} : { horizon: number("horizon") };
  const answer = await run("job", `/v1/${verb}`, { name: $("job-name").value, ...model, ...horizon, ...state.columns }, "Sending …");
  if (answer) watchJobs();
}

async function watchJobs() {
  clearTimeout(state.timer);
  const { jobs } = await get("/v1/jobs");
  drawJobs($("jobs"), jobs, async (job) => { await remove(`/v1/jobs/${job.id}`); watchJobs(); });
  const ended = jobs.filter((job) => job.state === "done").length;
  if (ended !== state.ended) { state.ended = ended; await listModels(); }
  if (jobs.some((job) => ["waiting", "queued", "running"].includes(job.state))) state.timer = setTimeout(watchJobs, 1000);
}

async function ask() {
  const answer = await run("ask", "/v1/ask", { question: $("question").value, ...state.columns }, "Reading the chart …");
  if (!answer) return;
  state.found.ask = evidence(answer.result);
  drawAnswer($("answer"), answer.result, state.found.ask, go);
  show(true);
}

async function listModels() {
  const { models } = await get("/v1/models");
  const detects = (one) => one.what.startsWith("detector");
  const ready = models.filter((one) => one.ready && !detects(one)).map((one) => one.name);
  const now = $("model").value || "limosa-small";
  $("model").replaceChildren(...ready.map((name) => new Option(name, name)));
  $("model").value = ready.includes(now) ? now : ready[0];
  $("models").replaceChildren(...ready.map((name) => element("label", { class: "row" },
    element("input", { type: "checkbox", value: name, checked: name === "naive" || name === "limosa-small" }), name)));
  $("detector").replaceChildren(...models.filter(detects).map((one) => new Option(one.name, one.name)));
  $("detector").value = "pca";
  const describe = () => { $("detector-what").textContent = models.find((one) => one.name === $("detector").value).what.slice(10); };
  $("detector").onchange = describe;
  describe();
}

// ---- replay ----

function stop() {
  clearInterval(state.replay);
  state.replay = null;
  $("play").textContent = "▶";
}

function play() {
  if (state.replay) return stop();
  $("play").textContent = "❚❚";
  const next = () => {
    const at = Number($("cutoff").value);
    $("cutoff").value = at >= state.cutoffs.length - 1 ? 0 : at + 1;
    show();
  };
  next();
  state.replay = setInterval(next, 900);
}

// ---- taking it along ----

function shown() {
  const verb = ["forecast", "backtest", "detect"].includes(state.tab) ? state.tab : "forecast";
  const { orient, scores, ...query } = state.last[verb] ?? {};
  return [verb, query];
}

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function saveCsv() {
  const [verb, query] = shown();
  const table = verb === "backtest" ? "output" : null;
  const text = await post(`/v1/${verb}`, state.file, { ...query, table }, { accept: "text/csv" });
  save(new Blob([text], { type: "text/csv" }), `${verb}.csv`);
}

async function copy(kind, button) {
  const [verb, query] = shown();
  const make = { command: asCommand, python: asPython, curl: asCurl }[kind];
  await navigator.clipboard.writeText(make(verb, state.file.name, query, state.about.token));
  const words = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = words; }, 1200);
}

// ---- wiring ----

function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  if (state.data) { show(true); multiples.repaint(); }
}

function step(by) {
  const all = state.data?.ids.length ?? 0;
  if (all > 1) open((state.series + by + all) % all);
}

const on = (id, event, action) => $(id).addEventListener(event, action);
const submit = (id, action) => $(id).querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); if (state.file) action(); });

on("open", "click", () => $("file").click());
on("choose", "click", () => $("file").click());
on("file", "change", () => { if ($("file").files.length) read($("file").files[0]); $("file").value = ""; });
on("example", "click", example);
on("theme", "click", () => {
  const dark = document.documentElement.dataset.theme !== "dark";
  localStorage.setItem("limosa-theme", dark ? "dark" : "light");
  theme(dark);
});
on("help", "click", () => $("keys").showModal());
on("before", "click", () => step(-1));
on("after", "click", () => step(1));
on("cutoff", "input", () => { stop(); show(); });
on("play", "click", play);
on("csv", "click", () => saveCsv().catch((error) => fail(error.message)));
on("png", "click", async () => save(await chart.picture(), `${state.data.ids[state.series]}.png`));
on("columns", "change", (event) => {
  const option = event.target.id;
  state.columns = { ...state.columns, [option]: event.target.value || null };
  understand();
});
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button.dataset.copy, button));
submit("panel-forecast", forecast);
submit("panel-backtest", backtest);
submit("panel-detect", detect);
submit("panel-jobs", startJob);
submit("panel-ask", ask);
for (const tab of TABS) on(`tab-${tab}`, "click", () => choose(tab));
on("tabs", "keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by) return;
  const there = TABS.filter((tab) => !$(`tab-${tab}`).hidden);
  const next = there[(there.indexOf(state.tab) + by + there.length) % there.length];
  choose(next);
  $(`tab-${next}`).focus();
});
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    o: () => $("file").click(), t: () => $("theme").click(), "?": () => $("keys").showModal(), "/": () => $("search").focus(),
    "[": () => step(-1), "]": () => step(1), f: () => choose("forecast"), b: () => choose("backtest"), i: () => choose("detect"),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
for (const [event, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(event, (drag) => {
    drag.preventDefault();
    document.body.classList.toggle("dropping", over && drag.dataTransfer.types.includes("Files"));
    if (event === "drop" && drag.dataTransfer.files.length) read(drag.dataTransfer.files[0]);
  });
}
addEventListener("unhandledrejection", (event) => { busy(null); fail(event.reason?.message ?? String(event.reason)); });

async function example() {
  const answer = await fetch("/page/bikes.csv");
  await read(new File([await answer.blob()], "bikes.csv"));
}

async function begin() {
  const wish = localStorage.getItem("limosa-theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  theme(wish ? wish === "dark" : system.matches);
  system.addEventListener("change", (event) => { if (!localStorage.getItem("limosa-theme")) theme(event.matches); });
  state.about = await (await fetch("/page/about.json")).json();
  $("about").textContent = `${state.about.version}, on ${location.host}`;
  $("tab-ask").hidden = !state.about.verbs.includes("ask");
  $("tab-jobs").hidden = !state.about.jobs;
  if (state.about.demo) await example();
  await listModels();
}

begin();
