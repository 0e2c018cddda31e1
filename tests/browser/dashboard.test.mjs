// The dashboard in a real browser: the numbers on it, who can use it, and what it does when things go wrong.

import assert from "node:assert/strict";
import { once } from "node:events";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { after, before, test as withoutLimit } from "node:test";

import { Headway, Relay, drawn, freePort, launch, nim, open } from "./stage.mjs";

/** A module of the page's own. Its name alone does not tell Node 18 that it is one, so it is handed over as its text. */
async function ownModule(name) {
  const text = readFileSync(new URL(`../../src/admin/dashboard/${name}`, import.meta.url));
  return import(`data:text/javascript;base64,${text.toString("base64")}`);
}

const format = await ownModule("format.js");
const { follow } = await ownModule("stream.js");

const WIDTHS = [360, 768, 1920];
/** Here rather than by `--test-timeout`, which Node 18 does not know. */
const LIMIT_MS = 300_000;
const test = (name, run) => withoutLimit(name, { timeout: LIMIT_MS }, run);
let browser;
let demo;

before(async () => {
  [browser, demo] = await Promise.all([launch(), Headway.demo()]);
}, { timeout: LIMIT_MS });
after(async () => {
  await Promise.all([browser?.close(), demo?.end()]);
}, { timeout: LIMIT_MS });

/** The events as the API tells them, by tick, for as long as `enough` says no. */
async function events(admin, enough) {
  const byTick = new Map();
  const answer = await fetch(`${admin}/api/v1/events`);
  let text = "";
  for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
    text += part;
    const whole = text.split("\n\n");
    text = whole.pop();
    for (const event of whole) {
      const data = JSON.parse(event.slice(event.indexOf("data: ") + 6));
      byTick.set(data.tick, data);
    }
    if (await enough(byTick)) return byTick;
  }
  throw new Error("the events ended");
}

/** What is written in the page's figures, noted at every tick. */
function noteFigures() {
  window.noted = [];
  const read = (scope, selector) => [...scope.querySelectorAll(selector)].map((one) => one.textContent);
  const note = () => window.noted.push({
    tick: Number(document.documentElement.dataset.tick),
    routes: [...document.querySelectorAll(".route")].map((route) => ({
      rate: read(route, "[data-figure=rate]"),
      attainment: read(route, "[data-figure=attainment]"),
      judged: read(route, ".promise .detail"),
      now: read(route, "figcaption .summary"),
    })),
    backends: [...document.querySelectorAll("[data-backend]")].map((row) => ({
      name: row.dataset.backend,
      inFlight: read(row, "[data-figure=in-flight]"),
      rate: read(row, "[data-figure=rate]"),
      cost: read(row, "[data-figure=cost]"),
    })),
  });
  new MutationObserver(note).observe(document.documentElement, { attributeFilter: ["data-tick"] });
}

/** The same, as the API's numbers would be written. */
function asWritten({ tick, routes, backends }) {
  const window = (route) => format.age(route.window_s);
  const now = (seen) => (seen ? `p50 ${format.latency(seen.p50_ms)} · p95 ${format.latency(seen.p95_ms)} · p99 ${format.latency(seen.p99_ms)}` : "no samples in the last minute");
  return {
    tick,
    routes: routes.map((route) => ({
      rate: route.last_minute.requests > 0 ? [format.perSecond(route.requests_per_second)] : [],
      attainment: route.objectives.filter((one) => one.judged > 0).map((one) => format.percent(one.attainment)),
      judged: route.objectives.map((one) => one.judged > 0
        ? `${format.count(one.good)} of ${format.count(one.judged)} in ${window(route)}`
        : `The objective has no samples in the last ${window(route)}.`),
      now: [
        ...route.objectives.filter((one) => one.latency !== "joint").map((one) => now(route.last_minute[one.latency])),
        route.last_minute.sent ? "tries that ended, per second" : "no requests in the last minute",
      ],
    })),
    backends: backends.map((one) => ({
      name: one.name,
      inFlight: [format.count(one.in_flight)],
      rate: one.last_minute.requests > 0 ? [format.perSecond(one.requests_per_second)] : [],
      cost: one.cost > 0 ? [format.money(one.cost)] : [],
    })),
  };
}

test("the numbers on the page are the API's of the same tick", async () => {
  const { page, context, check } = await open(browser, demo);
  await drawn(page);
  await page.evaluate(noteFigures);
  let noted = [];
  const byTick = await events(demo.admin, async (told) => {
    noted = (await page.evaluate(() => window.noted)).filter((one) => told.has(one.tick));
    return noted.length >= 5;
  });
  for (const one of noted) assert.deepEqual(one, asWritten(byTick.get(one.tick)), `tick ${one.tick}`);
  assert.ok(byTick.get(noted.at(-1).tick).routes.some((route) => route.requests > 0), "the demo has traffic");
  await check();
  await context.close();
});

test("it is light, and there at once", async () => {
  const { page, context } = await open(browser, demo);
  await drawn(page);
  const { paint, bytes, files } = await page.evaluate(() => {
    const loaded = [performance.getEntriesByType("navigation")[0], ...performance.getEntriesByType("resource")].filter((one) => !one.name.includes("/api/"));
    return {
      paint: performance.getEntriesByName("first-contentful-paint")[0].startTime,
      bytes: loaded.reduce((sum, one) => sum + one.encodedBodySize, 0),
      files: loaded.length,
    };
  });
  console.log(`page weight ${(bytes / 1024).toFixed(1)} KiB in ${files} files, first paint after ${paint.toFixed(0)} ms`);
  assert.ok(bytes < 100 * 1024 && files <= 14, `${bytes} bytes in ${files} files`);
  // On a busy machine; on a quiet one it is a small part of that.
  assert.ok(paint < 5_000, `${paint} ms`);
  await context.close();
});

for (const colorScheme of ["light", "dark"]) {
  test(`it fits every width and is readable, ${colorScheme}`, async () => {
    for (const width of WIDTHS) {
      const { page, context, check } = await open(browser, demo, { viewport: { width, height: 900 }, colorScheme });
      await drawn(page);
      await page.locator("button[aria-expanded]").first().click();
      await page.waitForSelector(".opened");
      const [wide, faint] = await page.evaluate(faintTexts);
      assert.ok(wide <= width, `${wide} px wide at ${width}`);
      assert.deepEqual(faint, [], `at ${width}`);
      const rows = page.locator(".backends").getByRole("row", { name: /a100/ });
      assert.equal(await rows.getByRole("rowheader").count(), 1, "a table at every width");
      await check();
      await context.close();
    }
  });
}

/** How wide the page is, and every text whose contrast is below WCAG's AA: 4.5, or 3 for large ones. */
function faintTexts() {
  const parse = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((one) => (one / 255 <= 0.04045 ? one / 255 / 12.92 : ((one / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color[3] === undefined || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, noscript, .hidden")) continue;
    const style = getComputedStyle(element);
    const [one, other] = [luminance(parse(style.color)), luminance(background(element))].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const contrast = (one + 0.05) / (other + 0.05);
    if (contrast < (large ? 3 : 4.5)) faint.push(`${contrast.toFixed(2)} ${element.className} ${element.textContent.slice(0, 40)}`);
  }
  return [document.documentElement.scrollWidth, [...new Set(faint)]];
}

test("everything can be reached and used with the keyboard", async () => {
  const { page, context, check } = await open(browser, demo);
  await drawn(page);
  const walked = [];
  for (let step = 0; step < 30; step++) {
    await page.keyboard.press("Tab");
    const here = await page.evaluate(() => {
      const one = document.activeElement;
      const style = getComputedStyle(one);
      const name = one.getAttribute("aria-label") ?? one.textContent.trim();
      return { tag: one.localName, name, ringed: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2, id: one.id };
    });
    walked.push(here);
    assert.ok(here.name && here.ringed, JSON.stringify(here));
    if (here.id.endsWith("-ttft")) {
      await page.keyboard.press("ArrowLeft");
      assert.match(await page.locator(`[id="${here.id}-say"]`).textContent(), /^\d\d:\d\d:\d\d: /, "arrows read the chart out");
    }
    if (here.name.endsWith(", open")) break;
  }
  const names = walked.map((one) => one.name);
  for (const wanted of [/^Skip to/, /^Theme/, /TTFT over time/, /Where requests go/, /^drain h100-latency/, /^Ended$/, /^Decision \d+, open/]) {
    assert.ok(names.some((name) => wanted.test(name)), `${wanted} in ${names.join(" | ")}`);
  }
  await page.keyboard.press("Enter");
  await page.waitForSelector(".waterfall tbody tr");
  assert.match(await page.locator(".candidates tbody").textContent(), /chosen/);
  // The list stays while it is read, and the focus where it was.
  const tick = Number(await page.evaluate(() => document.documentElement.dataset.tick));
  await page.waitForFunction((before) => Number(document.documentElement.dataset.tick) > before + 1, tick);
  assert.match(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), /^Decision \d+, close$/);
  await page.keyboard.press("Enter");
  await page.waitForSelector(".waterfall", { state: "detached" });
  await check();
  await context.close();
});

/** What is made slow, and the bars that must grow by it: no others may. */
const DELAY_MS = 50;
const SLOW = {
  nothing: [{}, []],
  "the way to the backend": [{ there: DELAY_MS }, ["backend wait"]],
  "the way back": [{ back: DELAY_MS }, ["backend wait"]],
  "the engine": [{ slowEngine: true }, ["backend wait", "engine prefill"]],
  "the client's upload": [{ upload: DELAY_MS }, ["upload"]],
};

test("of what is slow only the own bar of the waterfall grows", async () => {
  // A prompt takes this engine some 15 ms, and the slow one eight times as long.
  const [quick, slow] = await Promise.all([nim(), nim("slow=8")]);
  const relay = await Relay.start(quick);
  const own = await Headway.serve(waterfallConfiguration(relay.port));
  const { page, context, check } = await open(browser, own);
  await drawn(page);
  await page.locator('[data-backend="relayed"]').getByText("ready", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Ended" }).click();
  const least = {};
  for (let round = 0; round < 3; round++) {
    for (const [name, [{ slowEngine, upload = 0, ...ways }]] of Object.entries(SLOW)) {
      relay.set({ engine: slowEngine ? slow : quick, ...ways });
      await stream(own.port, upload);
      for (const [bar, ms] of Object.entries(await newestWaterfall(page, own))) {
        const bars = (least[name] ??= {});
        bars[bar] = Math.min(bars[bar] ?? Infinity, ms);
      }
    }
  }
  for (const [name, [, expected]] of Object.entries(SLOW)) {
    const grown = Object.entries(least[name]).filter(([bar, ms]) => ms - (least.nothing[bar] ?? 0) > DELAY_MS * 0.7);
    assert.deepEqual(grown.map(([bar]) => bar).sort(), expected, `${name}: ${JSON.stringify(least)}`);
  }
  await check();
  await context.close();
  await own.end();
});

const waterfallConfiguration = (port) => `
listeners: [{ address: "127.0.0.1:0" }]
admin: { address: "127.0.0.1:0" }
backends: [{ name: relayed, url: "http://127.0.0.1:${port}", models: [m], health: { path: /v1/health/ready, interval: 60s } }]
routes: [{ name: chat, backends: [relayed] }]
`;

/** One answer of one token; the last byte of the request comes so much later than the others. */
async function stream(port, upload) {
  const body = JSON.stringify({ model: "m", stream: true, max_tokens: 1, messages: [{ role: "user", content: "x" }] });
  const headers = { "content-type": "application/json", "content-length": body.length };
  const asked = request({ port, host: "127.0.0.1", method: "POST", path: "/v1/chat/completions", headers, agent: false });
  asked.write(body.slice(0, -1));
  await new Promise((done) => setTimeout(done, upload));
  asked.end(body.slice(-1));
  const [answer] = await once(asked, "response");
  assert.equal(answer.statusCode, 200);
  await answer.resume().forEach(() => {});
}

/** Milliseconds by bar of the latest decision, read off the page. */
async function newestWaterfall(page, headway) {
  const { decisions } = await (await fetch(`${headway.admin}/api/v1/decisions`)).json();
  const newest = Math.max(...decisions.map((one) => one.number));
  await page.getByRole("button", { name: `Decision ${newest}, open` }).click();
  await page.waitForSelector(".waterfall tbody tr");
  const rows = await page.locator(".waterfall tbody tr").evaluateAll((all) => all.map((one) => [one.querySelector("th").textContent, one.querySelector(".took").textContent]));
  await page.getByRole("button", { name: `Decision ${newest}, close` }).click();
  return Object.fromEntries(rows.map(([name, took]) => [name.replace(/ on relayed$/, ""), milliseconds(took)]));
}

function milliseconds(written) {
  const [, number, unit] = written.match(/^([\d.,]+)\s*(µs|ms|s)$/) ?? assert.fail(`no duration: ${written}`);
  return Number(number.replace(",", "")) * { "µs": 1e-3, ms: 1, s: 1e3 }[unit];
}

test("the theme follows the system until it is chosen, and is remembered", async () => {
  const { page, context } = await open(browser, demo, { colorScheme: "dark" });
  await drawn(page);
  const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const dark = await ground();
  await page.locator("#theme").click();
  assert.notEqual(await ground(), dark, "light was chosen");
  await page.reload();
  await drawn(page);
  assert.notEqual(await ground(), dark, "and is kept");
  await context.close();
});

test("a backend is drained and undrained from the page", async () => {
  const { page, context, check } = await open(browser, demo);
  await drawn(page);
  const row = page.locator('[data-backend="a100"]');
  const state = async () => (await (await fetch(`${demo.admin}/api/v1/backends`)).json()).backends.find((one) => one.name === "a100").state;
  await row.locator("button").click();
  await row.getByText("draining", { exact: true }).waitFor();
  assert.equal(await state(), "draining");
  await page.getByText("backend `a100` is draining").waitFor();
  await row.locator("button").click();
  await row.getByText("ready", { exact: true }).waitFor();
  assert.equal(await state(), "ready");
  await check();
  await context.close();
});

test("a split route shows its groups side by side, and a canary that is rolled back and resumed", async () => {
  const [quick, slow] = await Promise.all([nim(), nim("slow=3")]);
  const backend = (name, port) => `  - { name: ${name}, url: "http://127.0.0.1:${port}", models: [m], health: { slow_start: 0s, eject_slow: false } }`;
  const own = await Headway.serve(`
listeners: [{ address: "127.0.0.1:0" }]
admin: { address: "127.0.0.1:0" }
backends:
${backend("old", quick)}
${backend("new", slow)}
routes:
  - name: chat
    backends: [old]
    split: { canary: { backends: [new], share: 50%, rollback: never } }
    slo: { ttft: { p50: 10s } }
`);
  const { page, context, check } = await open(browser, own, { viewport: { width: 1280, height: 1400 } });
  await drawn(page);
  await page.getByText("Nothing to compare canary by in the last 24 h.").waitFor();
  const answer = async () => {
    const body = JSON.stringify({ model: "m", stream: true, max_tokens: 6, messages: [{ role: "user", content: "Hello" }] });
    const reply = await fetch(`http://127.0.0.1:${own.port}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body });
    assert.equal(reply.status, 200);
    await reply.text();
  };
  for (let round = 0; round < 20; round += 1) await Promise.all(Array.from({ length: 10 }, answer));
  const split = async () => (await (await fetch(`${own.admin}/api/v1/routes`)).json()).routes[0].split;
  const [baseline, canary] = (await split()).groups;
  assert.equal(baseline.requests + canary.requests, 200);
  const figure = page.locator('.split figure[data-latency="ttft"]');
  const row = figure.locator("tbody tr").first();
  await row.waitFor();
  await page.waitForFunction((all) => document.querySelector('[data-group="canary"]').innerText.includes(`${all} requests`), canary.requests);
  const of = canary.differences.latencies.ttft.p50;
  assert.ok(of.clear && of.low_ms > 0, JSON.stringify(of));
  const shown = await row.innerText();
  for (const ms of [baseline.latencies.ttft.p50.value_ms, canary.latencies.ttft.p50.value_ms, of.value_ms, of.low_ms, of.high_ms]) {
    assert.ok(shown.includes(format.latency(ms)), `${format.latency(ms)} in ${shown}`);
  }
  assert.match(await figure.innerText(), /p99[^]*n too small/);
  const line = page.locator('[data-group="canary"]');
  await line.getByRole("button", { name: "roll back" }).click();
  await line.getByText("rolled back", { exact: true }).waitFor();
  await line.getByText(/0 % \(configured: 50\.0 %\)/).waitFor();
  assert.equal((await split()).groups[1].rolled_back.reason, "operator");
  await line.getByRole("button", { name: "resume" }).click();
  await line.getByText("running", { exact: true }).waitFor();
  assert.equal((await split()).groups[1].effective_share, 0.5);
  await check();
  await context.close();
  await own.end();
});

test("it survives a restart of headway, and says so meanwhile", async () => {
  const port = await freePort();
  let own = await Headway.demo(`127.0.0.1:${port}`);
  const { page, context, check } = await open(browser, own);
  await drawn(page);
  await own.end();
  await page.getByText("reconnecting…").waitFor({ timeout: 15_000 });
  own = await Headway.demo(`127.0.0.1:${port}`);
  await page.waitForSelector("html[data-connection=live]", { timeout: 20_000 });
  await page.getByText("3 of 3 backends ready").waitFor({ timeout: 20_000 });
  // The browser itself reports refused connections.
  await check(/ERR_CONNECTION|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE/);
  await context.close();
  await own.end();
});

test("an event that cannot be drawn is reported and the stream begins again; one that breaks is no fault", async (context) => {
  globalThis.sessionStorage ??= { getItem: () => null };
  const event = () => ({ status: 200, ok: true, body: new Blob(["event: whole\ndata: {}\n\n"]).stream() });
  const answers = [event, () => { throw new TypeError("broken"); }, () => ({ status: 401 })];
  context.mock.method(globalThis, "fetch", async () => answers.shift()());
  const { mock } = context.mock.method(console, "error", () => {});
  const states = [];
  const fault = new TypeError("cannot be drawn");
  await follow({ state: (state) => states.push(state), event() { throw fault; } });
  assert.deepEqual(mock.calls.map((call) => call.arguments), [[fault]]);
  assert.deepEqual(states, ["live", "reconnecting", "reconnecting", "refused"]);
});

const configuration = (token) => `
listeners: [{ address: "127.0.0.1:0" }]
admin: { address: "127.0.0.1:0"${token ? `, token: ${token}` : ""} }
backends: [{ name: gone, url: "http://127.0.0.1:9", models: [m] }]
routes:
  - { name: chat, backends: [gone], slo: { ttft: { p95: 300ms } } }
`;

test("it says plainly when there is no data", async () => {
  const own = await Headway.serve(configuration());
  const { page, context, check } = await open(browser, own);
  await drawn(page);
  const text = await page.locator("main").innerText();
  for (const said of [
    "no requests in the last minute", "no samples yet", "The objective has no samples in the last 5 min.", "Nothing in the last 15 minutes.",
    "none in the last minute", "No request has ended yet.", "no price",
  ]) {
    assert.ok(text.includes(said), `${said} in ${text}`);
  }
  assert.ok(!/\d %/.test(text), `a share of nothing: ${text}`);
  await page.getByText("No request can be served").waitFor();
  await page.getByText("backend `gone` is down").waitFor();
  await check();
  await context.close();
  await own.end();
});

test("a refused reload is shown with its place until the file is mended", async () => {
  const own = await Headway.serve(configuration());
  const { page, context, check } = await open(browser, own);
  await drawn(page);
  const before = await page.locator("#config code").textContent();
  appendFileSync(own.file, "listeneers: 1\n");
  await page.getByText(/The new configuration was refused/).waitFor();
  assert.match(await page.locator("#banners pre").textContent(), /headway\.yaml:7:1[^]*listeneers/);
  assert.equal(await page.locator("#config code").textContent(), before, "the old one stays in force");
  writeFileSync(own.file, configuration().replace("300ms", "250ms"));
  await page.getByText(/The new configuration was refused/).waitFor({ state: "detached" });
  await page.getByText("TTFT p95 ≤ 250 ms").waitFor();
  assert.notEqual(await page.locator("#config code").textContent(), before);
  await check();
  await context.close();
  await own.end();
});

test("with a token it asks for it, and keeps it in this tab only", async () => {
  const own = await Headway.serve(configuration("s3cret-of-the-test"));
  const { page, context, check } = await open(browser, own);
  const field = page.getByLabel("Admin token");
  await field.waitFor();
  assert.ok(await field.evaluate((one) => one === document.activeElement));
  await field.fill("wrong");
  await page.keyboard.press("Enter");
  await page.getByText("That token was not taken.").waitFor();
  await field.fill("s3cret-of-the-test");
  await page.keyboard.press("Enter");
  await drawn(page);
  await page.locator('[data-backend="gone"] button').click();
  await page.locator('[data-backend="gone"]').getByText("draining", { exact: true }).waitFor();
  await page.reload();
  await drawn(page);
  const kept = await page.evaluate(() => [JSON.stringify(localStorage), document.cookie, document.body.innerText]);
  assert.ok(kept.every((text) => !text.includes("s3cret-of-the-test")));
  // The browser itself reports refused answers.
  await check(/401 \(Unauthorized\)/);
  await context.close();
  await own.end();
});
