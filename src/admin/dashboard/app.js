// The page: takes each event, describes what it shows, and lets the document follow.

import { backends } from "./backends.js";
import { redraw } from "./charts.js";
import { decisions } from "./decisions.js";
import { h, mark, patch } from "./dom.js";
import * as format from "./format.js";
import { History } from "./history.js";
import { drawCharts, routes } from "./routes.js";
import { follow, token } from "./stream.js";

const history = new History();
const at = (id) => document.getElementById(id);
let picture = null;
let connection = "connecting";

/** Each backend has one colour on the whole page, by its place in the configuration. */
const colors = {
  of: (name) => `series-${(Math.max(0, picture?.backends.findIndex((one) => one.name === name) ?? 0) % 8) + 1}`,
};

function draw() {
  if (!picture) return;
  at("main").hidden = false;
  at("version").textContent = picture.version.version;
  patch(at("status"), status());
  document.title = `headway: ${at("status").textContent}`;
  patch(at("config"), configuration());
  patch(at("banners"), banners());
  patch(at("routes-list"), routes(picture, history, colors, draw));
  patch(at("backends-list"), backends(picture, colors, draw));
  patch(at("decisions-list"), decisions(picture, colors, draw));
  drawCharts();
  document.documentElement.dataset.tick = picture.tick;
}

/** The whole page in one sentence. */
function status() {
  const missing = picture.routes.filter((route) => route.objectives.some((one) => one.met === false)).map((route) => route.name);
  const judged = picture.routes.filter((route) => route.objectives.some((one) => one.met !== undefined)).length;
  const ready = picture.backends.filter((one) => one.state === "ready").length;
  const fleet = `${ready} of ${picture.backends.length} backends ready`;
  if (!picture.ready.ready) return [mark("bad"), picture.ready.draining ? "headway is draining" : "not ready"];
  if (missing.length > 0) return [mark("bad"), `${missing.join(" and ")} ${missing.length > 1 ? "miss their" : "misses its"} promise · ${fleet}`];
  if (judged === 0) return [mark("idle"), `nothing has been judged yet · ${fleet}`];
  return [mark("good"), `${judged === 1 ? "the promise is kept" : "every promise is kept"} · ${fleet}`];
}

function configuration() {
  const { hash, age_s, last_reload } = picture.version.config;
  const how = last_reload.trigger === "start" ? "since the start" : `reload by ${last_reload.trigger} ${last_reload.ok ? "applied" : "refused"}`;
  return [h("span", { class: last_reload.ok ? null : "over" }, "config ", h("code", { title: hash }, hash.slice(0, 8)), ` · ${format.age(age_s)} old · ${how}`)];
}

/** Only the heading is announced: what stands below it changes every second. */
const heading = (kind, text) => h("h2", { role: "alert" }, mark(kind), text);

function banners() {
  const shown = [];
  const { last_reload: last, age_s } = picture.version.config;
  if (!last.ok) {
    shown.push(h("section", { class: "banner bad", key: "reload" },
      heading("bad", "The new configuration was refused"),
      h("p", null, `It was read ${format.age(last.age_s)} ago (asked for by: ${last.trigger}). The one of ${format.age(age_s)} ago stays in force.`),
      h("pre", null, last.errors.join("\n"))));
  }
  const notes = last.notes ?? [];
  if (notes.length > 0) shown.push(h("section", { class: "banner warn", key: "notes" }, heading("warn", "The configuration is in force, but"), h("pre", null, notes.join("\n"))));
  const reasons = picture.ready.reasons;
  if (reasons.length > 0) {
    const kind = picture.ready.ready ? "warn" : "bad";
    shown.push(h("section", { class: `banner ${kind}`, key: "ready" },
      heading(kind, picture.ready.ready ? "Not everything is ready" : "No request can be served"),
      h("ul", null, reasons.map((reason) => h("li", null, reason)))));
  }
  return shown;
}

const CONNECTIONS = {
  live: "live",
  reconnecting: "reconnecting… what is shown is the last that was heard",
  full: "as many dashboards are open as may be; waiting for a place",
  refused: "waiting for the token",
};

function connected(state) {
  if (state === connection) return;
  connection = state;
  document.documentElement.dataset.connection = state;
  patch(at("connection"), [mark(state === "live" ? "good" : "warn"), CONNECTIONS[state]]);
  if (state === "refused") askForToken();
}

function askForToken() {
  at("token-problem").textContent = token.get() ? "That token was not taken." : "";
  token.forget();
  at("token").hidden = false;
  at("main").hidden = true;
  at("token-field").focus();
}

at("token").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(at("token-field").value);
  at("token-field").value = "";
  at("token").hidden = true;
  connection = "connecting";
  start();
});

const THEMES = ["auto", "light", "dark"];

function theme(name) {
  document.documentElement.dataset.theme = name;
  const button = at("theme");
  button.textContent = name;
  button.setAttribute("aria-label", `Theme: ${name === "auto" ? "as the system" : name}`);
  redraw();
}

at("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  localStorage.setItem("headway-theme", next);
  theme(next);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
theme(THEMES.includes(localStorage.getItem("headway-theme")) ? localStorage.getItem("headway-theme") : "auto");

const start = () => follow({
  state: connected,
  event(name, data) {
    picture = data;
    history.take(name, data);
    draw();
  },
});
start();
