// One card per route: what was promised and how it is kept, latencies over time, where requests go, and what each of
// its backends was expected to do beside what it did.

import * as charts from "./charts.js";
import { h, mark } from "./dom.js";
import * as format from "./format.js";
import { split } from "./split.js";

/** A bound that is missed more often than this is shown as a prediction that is off. */
const OFTEN = 0.2;

/** Which step each chart's cursor is at, by the id of its canvas. */
const cursors = new Map();

export function routes(picture, history, colors, again) {
  if (picture.routes.length === 0) return [h("p", { class: "notice" }, "The configuration has no routes.")];
  return picture.routes.map((route) => card(route, history, colors, again));
}

function card(route, history, colors, again) {
  const promises = route.objectives.filter((one) => one.latency !== "joint");
  const shown = promises.length > 0 ? promises.map((one) => one.latency) : ["ttft", "itl"];
  return h("article", { class: "card route", key: route.name, "aria-label": `Route ${route.name}` },
    h("header", null,
      h("h3", null, route.name),
      h("span", { class: "chip" }, format.words(route.policy)),
      h("p", { class: "facts" }, facts(route))),
    h("div", { class: "body" },
      h("div", { class: "promises" }, promises.length > 0 ? route.objectives.map((one) => promise(one, route)) : unpromised()),
      h("div", { class: "charts" },
        shown.map((latency) => latencyChart(route, latency, history)),
        trafficChart(route, history, colors))),
    split(route, again),
    members(route, colors));
}

function facts(route) {
  const minute = route.last_minute;
  if (minute.requests === 0) return "no requests in the last minute";
  const bad = Object.entries(minute.outcomes).filter(([outcome]) => outcome !== "complete");
  return [
    h("strong", { "data-figure": "rate" }, format.perSecond(route.requests_per_second)),
    ` · ${format.count(route.active)} in flight · last minute ${format.count(minute.outcomes.complete ?? 0)} complete`,
    bad.map(([outcome, many]) => `, ${format.count(many)} ${format.words(outcome)}`),
    route.cost > 0 && ` · cost so far ${format.money(route.cost)}`,
  ];
}

const unpromised = () => h("p", { class: "notice" }, "This route promises nothing (no slo): latencies are measured, none is judged.");

/** A promise: its name, the share that kept it against the share that must, the budget that is left. */
function promise(one, route) {
  const joint = one.latency === "joint";
  const name = joint ? "All promises together" : `${format.LATENCIES[one.latency]} ${format.quantile(one.quantile)} ≤ ${format.latency(one.threshold_ms)}`;
  const empty = one.attainment === undefined;
  const kind = empty ? "idle" : joint ? "none" : one.met ? "good" : "bad";
  return h("section", { class: `promise ${kind}`, key: one.latency, "data-latency": one.latency },
    h("h4", null, name),
    h("p", { class: "attainment" },
      kind !== "none" && mark(kind),
      empty ? h("span", { key: "empty" }, "no samples yet")
        : [h("strong", { "data-figure": "attainment" }, format.percent(one.attainment)), h("span", null, joint || one.met ? "kept" : "missed")]),
    !empty && !joint && meter(one),
    h("p", { class: "detail" }, empty ? `The objective has no samples in the last ${format.age(route.window_s)}.`
      : `${format.count(one.good)} of ${format.count(one.judged)} in ${format.age(route.window_s)}`),
    !empty && !joint && h("dl", { class: "budget" },
      entry("Budget left", format.percent(one.budget_left), `of ${format.age(route.budget_period_s)}`, one.budget_left < 0),
      ["5m", "1h"].map((window) => entry(`Burn ${window}`, format.times(one.burn_rate[window]), null, one.burn_rate[window] > 1))));
}

const entry = (term, value, note, bad) => h("div", null, h("dt", null, term), h("dd", { class: bad ? "over" : null }, value, note && h("small", null, ` ${note}`)));

/** The share of the scale that is taken by what was missed, against what may be missed: full is the whole allowance. */
function meter(one) {
  const allowed = 1 - one.quantile;
  const scale = allowed * 3;
  const [missed, mayMiss] = [1 - one.attainment, allowed].map((share) => `${Math.min(100, (share / scale) * 100)}%`);
  return h("div", { class: "meter", "aria-hidden": "true", vars: { missed, may: mayMiss } }, h("i"), h("b"));
}

function latencyChart(route, latency, history) {
  const id = `chart-${route.name}-${latency}`;
  const columns = history.of(route.name, latency);
  const now = route.last_minute[latency];
  const objective = route.objectives.find((one) => one.latency === latency);
  const summary = now
    ? `p50 ${format.latency(now.p50_ms)} · p95 ${format.latency(now.p95_ms)} · p99 ${format.latency(now.p99_ms)}`
    : "no samples in the last minute";
  const draw = (canvas, cursor) => charts.show(canvas, (surface) => charts.distribution(surface, {
    columns, cursor, steps: history.steps, range: history.range(route.name), at: (step) => history.at(step), promise: objective,
  }));
  const say = (step) => {
    const column = columns.find((one) => one.step === step);
    if (!column) return `${format.time(history.at(step))}: no samples`;
    const { p50_ms, p95_ms, p99_ms, samples } = column.quantiles;
    return `${format.time(history.at(step))}: p50 ${format.latency(p50_ms)}, p95 ${format.latency(p95_ms)}, p99 ${format.latency(p99_ms)} of ${format.count(samples)}`;
  };
  return figure({ id, title: `${format.LATENCIES[latency]} over time`, summary, route, history, draw, say, empty: columns.length === 0 });
}

function trafficChart(route, history, colors) {
  const id = `chart-${route.name}-traffic`;
  const tallies = history.of(route.name, "traffic");
  const pickWhere = (wanted) => (tally) => tally.sent.filter(wanted).reduce((all, one) => all + one.tries, 0);
  const away = (tally) => (tally.outcomes.shed ?? 0) + (tally.outcomes.no_backend ?? 0);
  const minute = route.last_minute.sent ?? [];
  const backends = route.backends.map(({ backend }) => ({ name: backend, color: colors.of(backend), pick: pickWhere((one) => one.backend === backend) }));
  backends.push({ name: "turned away", color: "bad", hatched: true, pick: away });
  const names = [...new Set(tallies.flatMap((tally) => tally.sent.map((one) => one.reason)))].sort(byMeaning);
  const reasons = names.map((reason) => ({ name: format.words(reason), color: reasonColor(reason), hatched: ["median_within_slo", "sacrifice"].includes(reason), pick: pickWhere((one) => one.reason === reason) }));
  const now = { sent: minute, outcomes: route.last_minute.outcomes };
  const draw = (canvas, cursor) => charts.show(canvas, (surface) => charts.traffic(surface, {
    tallies, cursor, range: history.range(route.name), at: (step) => history.at(step), seconds: history.steps.seconds, backends, reasons,
  }));
  const said = (series, tally) => series.filter((one) => one.pick(tally) > 0).map((one) => `${one.name} ${format.count(one.pick(tally))}`).join(", ");
  const say = (step) => {
    const tally = tallies.find((one) => one.step === step);
    return `${format.time(history.at(step))}: ${tally ? `${said(backends, tally)} – ${said(reasons, tally)}` : "no requests"}`;
  };
  const legend = [keys("Where", backends, now), keys("Why", reasons, now)];
  const summary = minute.length > 0 ? "tries that ended, per second" : "no requests in the last minute";
  return figure({ id, title: "Where requests go, and why", summary, route, history, draw, say, empty: tallies.length === 0, legend });
}

const keys = (title, series, now) => h("ul", { class: "legend", "aria-label": `${title}, tries in the last minute` },
  series.filter((one) => one.pick(now) > 0).map((one) => h("li", { key: one.name },
    h("i", { class: one.hatched ? "swatch hatched" : "swatch", vars: { color: `var(--${one.color})` } }), one.name, " ", h("b", null, format.count(one.pick(now))))));

const MEANING = ["cheapest_within_slo", "median_within_slo", "best_effort", "sacrifice", "probe"];
const byMeaning = (a, b) => (MEANING.indexOf(a) + 99) % 99 - (MEANING.indexOf(b) + 99) % 99;
const reasonColor = (reason) => ({ median_within_slo: "warn", best_effort: "bad", sacrifice: "bad", probe: "accent" })[reason] ?? "normal";

function figure({ id, title, summary, route, history, draw, say, empty, legend }) {
  const cursor = cursors.get(id) ?? null;
  const move = (canvas, step) => {
    cursors.set(id, step);
    draw(canvas, step);
    document.getElementById(`${id}-say`).textContent = step === null ? summary : say(step);
  };
  const range = history.range(route.name);
  const key = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    move(event.target, Math.min(range.last, Math.max(range.first, (cursors.get(id) ?? range.last) + by)));
  };
  afterwards.push(() => { const canvas = document.getElementById(id); if (canvas) draw(canvas, cursor); });
  return h("figure", { key: id },
    h("figcaption", null, h("h4", null, title), h("p", { id: `${id}-say`, class: "summary" }, cursor === null ? summary : say(cursor))),
    empty ? h("p", { class: "notice nothing", key: "nothing" }, "Nothing in the last 15 minutes.")
      : h("canvas", { id, key: "canvas", role: "img", tabindex: "0", "aria-label": `${route.name}: ${title}. Left and right arrows read it out step by step.`, "aria-describedby": `${id}-say`,
        onkeydown: key, onblur: (event) => move(event.target, null),
        onpointermove: (event) => move(event.target, charts.stepAt(event.target, range, event.clientX)), onpointerleave: (event) => move(event.target, null) }),
    !empty && legend);
}

/** What to draw once the elements are there. */
const afterwards = [];
export const drawCharts = () => afterwards.splice(0).forEach((draw) => draw());

/** What each backend was expected to do for a usual request of this route, and what it did. */
function members(route, colors) {
  const latencies = route.objectives.filter((one) => one.latency !== "joint").map((one) => one.latency);
  const shown = latencies.length > 0 ? latencies : ["ttft", "itl"];
  const sent = route.last_minute.sent ?? [];
  const all = sent.reduce((sum, one) => sum + one.tries, 0);
  const head = (text, ...more) => h("th", { scope: "col", ...more[0] }, text);
  return h("table", { class: "members" },
    h("caption", null, "Predicted and measured, per backend"),
    h("thead", null, h("tr", null, head("Backend"), head("Tries, last minute"),
      shown.map((latency) => [head(`${format.LATENCIES[latency]} expected`), head("bound"), head("measured"), head("bound missed")]),
      head("Requests"), head("Cost so far"))),
    h("tbody", null, route.backends.map((one) => member(one, shown, sent, all, colors))));
}

function member(one, shown, sent, all, colors) {
  const tries = sent.filter((of) => of.backend === one.backend).reduce((sum, of) => sum + of.tries, 0);
  const cell = (label, ...content) => h("td", { "data-label": label }, content);
  return h("tr", { key: one.backend },
    h("th", { scope: "row" }, h("i", { class: "swatch", vars: { color: `var(--${colors.of(one.backend)})` } }), one.backend),
    cell("Tries, last minute", h("span", { class: "bar", vars: { share: all ? `${(tries / all) * 100}%` : "0%" } }, format.count(tries))),
    shown.map((latency) => {
      const predicted = one.predicted?.[latency];
      const [seen, missed, name] = [one[latency], one.missed[latency], format.LATENCIES[latency]];
      return [
        cell(`${name} expected`, format.latency(predicted?.expected_ms)),
        cell(`${name} bound`, format.latency(predicted?.bound_ms)),
        cell(`${name} measured`, seen?.estimate_ms === undefined ? h("span", { class: "faint" }, "no samples") : format.latency(seen.estimate_ms)),
        h("td", { "data-label": `${name} bound missed`, class: missed > OFTEN ? "over" : null }, format.percent(missed)),
      ];
    }),
    cell("Requests", format.count(one.requests)),
    cell("Cost so far", one.cost > 0 ? format.money(one.cost) : format.NONE));
}
