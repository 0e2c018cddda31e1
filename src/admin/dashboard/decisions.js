// The latest decisions, each of which opens into where its time went and what it was chosen from.

import { h, mark } from "./dom.js";
import * as format from "./format.js";
import { ask } from "./stream.js";

const view = { list: "ended", held: null, open: null, detail: null, asking: null };

const LISTS = {
  ended: ["Ended", "No request has ended yet."],
  missed: ["Missed, failed or turned away", "None of the last 1,000 decisions missed a promise, failed or was turned away."],
  under_way: ["Under way", "No request is under way."],
};

export function decisions(picture, colors, again) {
  const rows = view.held ?? picture.decisions[view.list];
  if (view.open !== null && view.detail && !view.detail.decision?.waterfall) fetchDetail(rows.find((one) => one.number === view.open), again);
  const choose = (list) => () => { Object.assign(view, { list, held: null, open: null }); again(); };
  const tab = (list) => h("button", { type: "button", class: "quiet", key: list, "aria-pressed": String(view.list === list), onclick: choose(list) }, LISTS[list][0]);
  const hold = () => { view.held = view.held ? null : rows; again(); };
  const head = (text) => h("th", { scope: "col" }, text);
  return [
    h("div", { class: "tools", role: "toolbar", "aria-label": "Which decisions" },
      Object.keys(LISTS).map(tab),
      h("button", { key: "hold", type: "button", class: "quiet", "aria-pressed": String(view.held !== null), onclick: hold }, view.held ? "Held: let it run" : "Hold the list")),
    rows.length === 0
      ? h("p", { class: "notice" }, LISTS[view.list][1])
      : h("table", { class: "card decisions", key: "table" },
        h("caption", { class: "hidden" }, "Decisions, the newest first"),
        h("thead", null, h("tr", null, head("Time"), head("Route"), head("Sent to"), head("Why"), head("Prompt"), head("TTFT"), head("ITL"), head("End to end"), head("Promise"), head(h("span", { class: "hidden" }, "More")))),
        h("tbody", null, rows.flatMap((one) => row(one, rows, picture, colors, again)))),
  ];
}

function row(one, rows, picture, colors, again) {
  const cell = (label, ...content) => h("td", { "data-label": label }, content);
  const open = view.open === one.number;
  // A held row may have ended since.
  const happened = (open && view.detail?.decision?.happened) || one.happened;
  const toggle = () => {
    view.open = open ? null : one.number;
    view.detail = null;
    // What is being read must not move away.
    view.held = open ? null : rows;
    if (!open) fetchDetail(one, again);
    again();
  };
  const shown = h("tr", { key: one.number, class: open ? "open" : null },
    h("th", { scope: "row" }, format.time(one.at)),
    cell("Route", one.route),
    cell("Sent to", one.backend ? [h("i", { class: "swatch", vars: { color: `var(--${colors.of(one.backend)})` } }), one.backend] : h("span", { class: "over" }, one.turned_away === "wait" ? "waits" : "turned away")),
    cell("Why", format.words(one.reason ?? one.cause)),
    cell("Prompt", `${format.short(one.input_tokens)} tok`),
    cell("TTFT", format.latency(happened?.ttft_ms)),
    cell("ITL", format.latency(happened?.itl_ms)),
    cell("End to end", format.latency(happened?.e2e_ms)),
    cell("Promise", kept(one, happened)),
    h("td", { class: "action" }, h("button", { type: "button", class: "quiet", "aria-expanded": String(open), "aria-label": `Decision ${one.number}, ${open ? "close" : "open"}`, onclick: toggle }, open ? "close" : "open")));
  if (!open) return [shown];
  return [shown, h("tr", { key: `${one.number} detail`, class: "detail" }, h("td", { colspan: "10" }, detail(one, picture, colors)))];
}

function kept(one, happened) {
  const [kind, word] = one.turned_away ? ["bad", one.turned_away === "wait" ? "waits" : "turned away"]
    : !happened ? ["idle", "under way"]
    : happened.outcome !== "complete" ? ["bad", format.words(happened.outcome)]
    : happened.kept === undefined ? ["idle", "not judged"]
    : happened.kept ? ["good", "kept"] : ["bad", "missed"];
  return h("span", { class: `state ${kind}` }, mark(kind), word);
}

/** Asks for everything about a decision; draws when the answer is another than before. */
async function fetchDetail(one, again) {
  if (!one || view.asking === one.number) return;
  const number = (view.asking = one.number);
  const before = JSON.stringify(view.detail);
  try {
    if (!one.request_id) throw new Error("this request has no id");
    const { decisions } = await ask(`/api/v1/decisions?request_id=${encodeURIComponent(one.request_id)}`);
    view.detail = { number, decision: decisions.find((other) => other.number === number) };
  } catch (error) {
    view.detail = { number, problem: error.message };
  }
  view.asking = null;
  if (JSON.stringify(view.detail) !== before) again();
}

function detail(one, picture, colors) {
  const known = view.detail?.number === one.number ? view.detail : null;
  if (!known) return h("p", { class: "notice" }, "Asking for it…");
  if (known.problem) return h("p", { class: "problem", role: "alert" }, `It cannot be shown: ${known.problem}.`);
  if (!known.decision) return h("p", { class: "notice" }, "It is no longer among the last 1,000 decisions.");
  const { decision } = known;
  return h("div", { class: "opened" },
    h("p", { class: "ids" }, "Request ", h("code", null, decision.request_id), trace(decision, picture), load(decision.load)),
    waterfall(decision),
    candidates(decision, colors));
}

/** How busy the chosen backend was when it was chosen. */
function load(of) {
  if (!of) return null;
  const facts = [
    of.gpu_utilization !== undefined && `GPU ${format.percent(of.gpu_utilization)}`,
    of.kv_cache_ratio !== undefined && `KV cache ${format.percent(of.kv_cache_ratio)}`,
    of.running !== undefined && `${format.count(of.running)} running`,
    of.waiting !== undefined && `${format.count(of.waiting)} waiting`,
  ];
  return ` · the backend when it was chosen: ${facts.filter(Boolean).join(", ")}`;
}

function trace(decision, picture) {
  const id = decision.exchange?.trace_id;
  if (!id || !picture.trace_url) return id ? [" · trace ", h("code", null, id)] : null;
  return [" · ", h("a", { href: picture.trace_url.replaceAll("{trace_id}", id), rel: "noreferrer", target: "_blank" }, "its trace")];
}

const PHASES = {
  upload: ["upload", "the client sending the request", "muted"],
  headway: ["headway", "reading it, deciding", "warn"],
  queue: ["queue", "waiting for a place", "series-4"],
  connect: ["connect", "getting a connection", "series-3"],
  send: ["send", "the backend taking the request", "series-3"],
  backend_wait: ["backend wait", "until the first token, or until it failed: network or model", "series-1"],
  engine_queue: ["engine queue", "of that, waiting in the engine, by its own word", "series-4"],
  engine_prefill: ["engine prefill", "of that, the prompt, by the engine's own word", "series-1"],
  decode: ["decode", "from the first to the last token", "series-2"],
  body: ["body", "from its head until it was whole", "series-2"],
  client_back_pressure: ["back-pressure", "of that, waiting for the client to read", "bad"],
};

function waterfall({ waterfall: stretches = [], exchange }) {
  if (stretches.length === 0) return h("p", { class: "notice" }, exchange ? "It reached no backend." : "The request has not ended, or is no longer among the last 1,000.");
  const begin = Math.min(0, ...stretches.map((one) => one.start_ms));
  const end = Math.max(...stretches.map((one) => one.start_ms + one.duration_ms), 0.001);
  const part = (ms) => `${(ms / (end - begin)) * 100}%`;
  return h("table", { class: "waterfall" },
    h("caption", null, "Where the time went"),
    h("tbody", null, stretches.map((one) => {
      const [name, meaning, color] = PHASES[one.phase] ?? [one.phase, "", "muted"];
      return h("tr", null,
        h("th", { scope: "row", title: meaning }, name, one.backend && ` on ${one.backend}`),
        h("td", { class: "took" }, format.latency(one.pending_ms ?? one.duration_ms)),
        h("td", { class: "lane", "aria-hidden": "true" }, h("i", { vars: { from: part(one.start_ms - begin), wide: part(one.duration_ms), color: `var(--${color})` } })));
    })));
}

const VERDICTS = { keeps: ["good", "keeps"], may_keep: ["warn", "may keep"], misses: ["bad", "misses"], full: ["pause", "full"] };

function candidates(decision, colors) {
  const list = decision.candidates ?? [];
  if (list.length === 0) return h("p", { class: "notice" }, "There was nothing to choose from.");
  const head = (text) => h("th", { scope: "col" }, text);
  const forecast = (one) => (one ? [format.latency(one.expected_ms), h("small", null, `≤ ${format.latency(one.bound_ms)}`)] : format.NONE);
  const cell = (label, ...content) => h("td", { "data-label": label }, content);
  return h("table", { class: "candidates" },
    h("caption", null, "What it was chosen from"),
    h("thead", null, h("tr", null, head("Backend"), head("Expected to"), head("TTFT"), head("ITL"), head("End to end"), head("Headroom"), head("Price of 1,000"), head("In flight"), head("Prefix hit"))),
    h("tbody", null, list.map((one) => {
      const [kind, word] = VERDICTS[one.verdict] ?? ["idle", one.verdict];
      const chosen = one.backend === decision.backend;
      return h("tr", { class: chosen ? "chosen" : null },
        h("th", { scope: "row" }, h("i", { class: "swatch", vars: { color: `var(--${colors.of(one.backend)})` } }), one.backend, chosen && h("span", { class: "chip" }, "chosen")),
        cell("Expected to", h("span", { class: `state ${kind}` }, mark(kind), word)),
        cell("TTFT", forecast(one.ttft)), cell("ITL", forecast(one.itl)), cell("End to end", forecast(one.e2e)),
        cell("Headroom", format.percent(one.headroom)),
        cell("Price of 1,000", format.moneyOfThousand(one.price)),
        cell("In flight", format.count(one.in_flight)),
        cell("Prefix hit", one.prefix_tokens > 0 ? `${format.short(one.prefix_tokens)} tok` : format.NONE));
    })));
}
