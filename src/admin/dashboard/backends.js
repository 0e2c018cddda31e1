// One row per backend: its state in a word and a shape, its load, its latencies, its GPU, its price; and a button that
// drains it.

import { h, mark } from "./dom.js";
import * as format from "./format.js";
import { ask } from "./stream.js";

const STATES = {
  ready: ["good", "ready"],
  warming: ["warn", "warming up"],
  down: ["bad", "down"],
  ejected: ["bad", "ejected"],
  probing: ["warn", "probing"],
  draining: ["pause", "draining"],
  unknown: ["idle", "not checked yet"],
};

/** What went wrong when a backend was to be drained or undrained, by its name. */
const problems = new Map();

export function backends(picture, colors, again) {
  if (picture.backends.length === 0) return [h("p", { class: "notice" }, "The configuration has no backends.")];
  const head = (text, kind) => h("th", { scope: "col", class: kind }, text);
  const watched = picture.backends.some((one) => one.gpu !== undefined);
  return [h("table", { class: "card backends" },
    h("caption", { class: "hidden" }, "Backends, their state and load"),
    h("thead", null, h("tr", null, head("Backend"), head("State"), head("In flight"), head("Waiting"), head("Rate"),
      head("TTFT p50 / p95"), head("ITL p50 / p95"), watched && head("GPU"), head("Price"), head("Cost so far"), head(h("span", { class: "hidden" }, "Drain")))),
    h("tbody", null, picture.backends.map((one) => row(one, colors, watched, again))))];
}

function row(one, colors, watched, again) {
  const cell = (label, ...content) => h("td", { "data-label": label }, content);
  const minute = one.last_minute;
  return h("tr", { key: one.name, "data-backend": one.name },
    h("th", { scope: "row" },
      h("i", { class: "swatch", vars: { color: `var(--${colors.of(one.name)})` } }),
      h("span", { class: "name" }, one.name, h("small", one.profile_mismatch ? { class: "bad", title: `It ${one.profile_mismatch}.` } : null, (one.profile_mismatch ? "⚠ " : "") + (one.profile ?? one.running_profile ?? "no profile named")))),
    cell("State", state(one)),
    cell("In flight", load(one)),
    cell("Waiting", waiting(one)),
    cell("Rate", minute.requests === 0 ? h("span", { class: "faint" }, "none in the last minute") : h("span", { class: "whole", "data-figure": "rate" }, format.perSecond(one.requests_per_second))),
    cell("TTFT p50 / p95", pair(minute.ttft)),
    cell("ITL p50 / p95", pair(minute.itl)),
    watched && cell("GPU", gpus(one)),
    cell("Price", price(one.price)),
    cell("Cost so far", one.cost > 0 ? h("span", { "data-figure": "cost" }, format.money(one.cost)) : format.NONE),
    h("td", { class: "action" }, button(one, again), problems.has(one.name) && h("p", { class: "problem", role: "alert" }, problems.get(one.name))));
}

function price(of) {
  const [amount, unit] = format.price(of).split(" per ");
  return [h("span", { class: "price whole" }, amount), unit && h("small", null, `per ${unit}`)];
}

function state(one) {
  const [kind, word] = STATES[one.state] ?? ["idle", one.state];
  const check = one.last_check;
  const faults = one.consecutive_faults > 0 && ` · ${format.count(one.consecutive_faults)} faults in a row`;
  const reason = check ? `${check.result}, ${format.age(check.seconds_ago)} ago` : "no check yet";
  return [
    h("span", { class: `state ${kind}` }, mark(kind), word),
    h("small", null, reason, faults),
    one.buffering && h("small", { class: "warn", title: "Its tokens come in bursts: TTFT is late by what holds them, ITL flatters. What such streams take is not learned." }, mark("warn"), " tokens held back on their way"),
  ];
}

function load(one) {
  const limit = one.max_in_flight;
  const share = limit ? `${Math.min(100, (one.in_flight / limit) * 100)}%` : "0%";
  return [
    h("span", { class: "bar", vars: { share } }, h("span", { "data-figure": "in-flight" }, format.count(one.in_flight)), limit === undefined ? ", no limit" : ` of ${format.count(limit)}`),
    one.demand !== undefined && h("small", { class: one.demand > 1 ? "over" : null, title: "What is asked of it over what it can carry with its routes' promises kept" }, `demand ${format.percent(one.demand)}`),
  ];
}

function waiting(one) {
  const tokens = h("span", { class: "whole" }, `${format.short(one.waiting_tokens)} tokens`);
  if (!one.engine) return tokens;
  const cache = one.engine.kv_cache_ratio;
  return [tokens, h("small", null, `engine: ${format.count(one.engine.running)} running, ${format.count(one.engine.waiting)} waiting`,
    cache !== undefined && `, KV ${format.percent(cache)}`)];
}

const pair = (seen) => h("span", { class: seen ? "whole" : "whole faint" }, seen ? `${format.latency(seen.p50_ms)} / ${format.latency(seen.p95_ms)}` : "no samples");

/** Its GPUs: how busy, and what else is known of them; or why nothing is. */
function gpus(one) {
  if (one.gpu === undefined) return h("span", { class: "faint" }, "not watched");
  const devices = one.gpus ?? [];
  if (devices.length === 0) return [h("span", { class: "faint" }, one.gpu), one.gpu_problem && h("small", null, one.gpu_problem)];
  return [devices.map(gpu), one.gpu !== "nvml" && h("small", null, `by ${one.gpu}`)];
}

function gpu(one) {
  const memory = one.memory_used_bytes !== undefined && `${format.bytes(one.memory_used_bytes)}${one.memory_total_bytes ? ` of ${format.bytes(one.memory_total_bytes)}` : ""}`;
  const facts = [memory, one.power_watts !== undefined && `${format.count(Math.round(one.power_watts))} W`, one.temperature_celsius !== undefined && `${format.count(Math.round(one.temperature_celsius))} °C`];
  const slow = one.throttled && h("small", { class: "over" }, `throttled: ${(one.slowdowns ?? []).map(format.words).join(", ") || "no reason given"}`);
  const share = `${Math.min(100, (one.utilization ?? 0) * 100)}%`;
  return h("div", { key: one.gpu, title: one.model ?? null },
    h("span", { class: "bar", vars: { share } }, one.utilization === undefined ? one.problem ?? "in use: not told" : format.percent(one.utilization)),
    h("small", null, facts.filter(Boolean).join(" · ")), slow);
}

function button(one, again) {
  const verb = one.draining ? "undrain" : "drain";
  const act = async (event) => {
    const pressed = event.currentTarget;
    pressed.disabled = true;
    try {
      await ask(`/api/v1/backends/${encodeURIComponent(one.name)}/${verb}`, "POST");
      problems.delete(one.name);
    } catch (error) {
      problems.set(one.name, `It was not ${verb}ed: ${error.message}`);
    }
    pressed.disabled = false;
    again();
  };
  const title = one.draining ? "Gives it new requests again" : "Gives it no new requests; those under way end in peace";
  return h("button", { type: "button", class: "quiet", title, "aria-label": `${verb} ${one.name}`, onclick: act }, verb);
}
