// The groups of a split route: who gets which share, what each was like, and by how much a group differs from the
// baseline, with the interval that the difference lies in.

import { h, mark } from "./dom.js";
import * as format from "./format.js";
import { ask } from "./stream.js";

const QUANTILES = ["p50", "p90", "p95", "p99"];
const LATENCIES = ["ttft", "itl", "e2e"];
const STATES = { baseline: ["none", "baseline"], running: ["good", "running"], rolled_back: ["bad", "rolled back"] };

/** What went wrong when a group was to be rolled back or resumed, by its route and name. */
const problems = new Map();

export function split(route, again) {
  if (!route.split) return null;
  const [baseline, ...others] = route.split.groups;
  return h("section", { class: "split", key: "split", "aria-label": `Split of ${route.name}` },
    h("ul", { class: "groups" }, route.split.groups.map((group) => line(route, group, again))),
    others.map((group) => comparison(route, group, baseline)));
}

/** One group in one line: its state, its share, how much it was asked, and who answered instead. */
function line(route, group, again) {
  const [kind, word] = STATES[group.state] ?? ["idle", group.state];
  const fell = Object.entries(group.fell_over).filter(([, many]) => many > 0);
  return h("li", { key: group.name, "data-group": group.name },
    h("strong", null, group.name), " ",
    kind === "none" ? null : h("span", { class: `state ${kind}` }, mark(kind), word),
    h("span", { "data-figure": "share" }, ` ${format.percent(group.effective_share)}`,
      group.effective_share !== group.share && ` (configured: ${format.percent(group.share)})`),
    h("span", { class: "faint" }, ` · ${format.count(group.requests)} requests · ${group.backends.join(", ")}`),
    fell.length > 0 && h("span", { class: "faint" }, ` · answered by others: ${fell.map(([why, many]) => `${format.count(many)} ${why}`).join(", ")}`),
    LATENCIES.filter((latency) => group.missed[latency]).map((latency) => missed(latency, group.missed[latency])),
    group.rolled_back && h("span", { class: "bad" }, ` · ${reason(group.rolled_back)}`),
    kind !== "none" && button(route, group, again));
}

const missed = (latency, one) => one.judged > 0 && h("span", { class: one.share > one.allowed ? "over" : "faint" },
  ` · ${format.LATENCIES[latency]} missed by ${format.percent(one.share)} of ${format.count(one.judged)}, ${format.percent(one.allowed)} may`);

function reason({ at, reason: why, broken }) {
  if (why === "operator") return `by hand at ${format.time(at)}`;
  return `at ${format.time(at)}: missed ${format.LATENCIES[broken.latency]} in ${format.count(broken.missed)} of ${format.count(broken.judged)}, the baseline in ${format.count(broken.baseline_missed)} of ${format.count(broken.baseline_judged)}`;
}

/** Both distributions, and their differences, per latency. */
function comparison(route, group, baseline) {
  const shown = LATENCIES.filter((latency) => baseline.latencies[latency] && group.latencies[latency]);
  const window = format.age(route.split.window_s);
  if (shown.length === 0) return h("p", { class: "notice", key: `none-${group.name}` }, `Nothing to compare ${group.name} by in the last ${window}.`);
  return h("div", { class: "charts", key: `of-${group.name}` }, shown.map((latency) => figure(latency, group, baseline, window)));
}

function figure(latency, group, baseline, window) {
  const [own, base] = [group.latencies[latency], baseline.latencies[latency]];
  const most = Math.max(...[own, base].flatMap((one) => QUANTILES.map((at) => one[at]?.value_ms ?? 0)), 0.001);
  const differences = group.differences.latencies[latency] ?? {};
  const reach = Math.max(...Object.values(differences).flatMap((one) => [Math.abs(one.low_ms), Math.abs(one.high_ms)]), 0.001);
  const head = (text) => h("th", { scope: "col" }, text);
  return h("figure", { key: latency, "data-latency": latency },
    h("figcaption", null, h("h4", null, `${format.LATENCIES[latency]}: ${group.name} beside the baseline`),
      h("p", { class: "summary" }, `last ${window}, 95 % intervals`)),
    strip("baseline", base, most, "normal"),
    strip(group.name, own, most, "accent"),
    h("table", { class: "differences" },
      h("thead", null, h("tr", null, head("Quantile"), head("baseline"), head(group.name), head("less … more"), head("difference"))),
      h("tbody", null, QUANTILES.map((at) => difference(at, base[at], own[at], differences[at], reach)))));
}

/** A distribution as a line from its median to its p99, with a tick at each quantile. */
function strip(name, one, most, color) {
  const at = (quantile) => `${((one[quantile]?.value_ms ?? 0) / most) * 100}%`;
  const text = QUANTILES.filter((quantile) => one[quantile]).map((quantile) => `${quantile} ${format.latency(one[quantile].value_ms)}`).join(", ");
  return h("div", { class: "strip", key: `strip-${name}`, vars: { color: `var(--${color})` } },
    h("span", null, name, h("small", null, ` ${format.count(one.samples)}`)),
    h("span", { class: "lane", role: "img", "aria-label": `${name}: ${text}` },
      h("i", { class: "range", vars: { from: at("p50"), to: at("p99") } }),
      QUANTILES.map((quantile) => h("i", { class: "tick", key: quantile, title: `${quantile} ${format.latency(one[quantile]?.value_ms)}`, vars: { from: at(quantile) } }))));
}

/** A difference as a point in its interval, on a line whose middle is none. */
function difference(at, base, own, of, reach) {
  const place = (ms) => `${50 + (ms / reach) * 48}%`;
  const kind = !of || !of.clear ? "faint" : of.value_ms > 0 ? "bad" : "good";
  const signed = (ms) => `${ms < 0 ? "−" : "+"}${format.latency(Math.abs(ms))}`;
  return h("tr", { key: at },
    h("th", { scope: "row" }, at),
    h("td", { class: "whole" }, format.latency(base?.value_ms)),
    h("td", { class: "whole" }, format.latency(own?.value_ms)),
    h("td", { class: kind }, of && h("span", { class: "lane", "aria-hidden": "true" },
      h("i", { class: "none" }),
      h("i", { class: "range", vars: { from: place(of.low_ms), to: place(of.high_ms) } }),
      h("i", { class: "point", vars: { from: place(of.value_ms) } }))),
    h("td", { class: `whole ${kind}` }, of ? [signed(of.value_ms), h("small", null, `${signed(of.low_ms)} … ${signed(of.high_ms)}`)] : "n too small"));
}

function button(route, group, again) {
  const verb = group.state === "rolled_back" ? "resume" : "rollback";
  const key = `${route.name}/${group.name}`;
  const act = async (event) => {
    const pressed = event.currentTarget;
    pressed.disabled = true;
    try {
      await ask(`/api/v1/routes/${encodeURIComponent(route.name)}/split/${encodeURIComponent(group.name)}/${verb}`, "POST");
      problems.delete(key);
    } catch (error) {
      problems.set(key, `That was not done: ${error.message}`);
    }
    pressed.disabled = false;
    again();
  };
  const title = verb === "resume" ? "Gives it its share again, and begins the comparison anew" : "Gives it nothing more";
  const word = verb === "resume" ? "resume" : "roll back";
  return [h("button", { type: "button", class: "quiet", title, "aria-label": `${word} ${group.name} of ${route.name}`, onclick: act }, word),
    problems.has(key) && h("span", { class: "problem", role: "alert" }, problems.get(key))];
}
