// What the browser tests share: headway as a process, Chromium, and what must be true of every page.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const { chromium } = createRequire(resolve(process.env.PLAYWRIGHT_FOLDER, "package.json"))("playwright-core");

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });

/** A running headway; `admin` is its admin listener's origin. */
export class Headway {
  static async demo(admin = "127.0.0.1:0", duration = "0") {
    const args = ["demo", "--duration", duration, "--listen", "127.0.0.1:0", "--admin", admin, "--fake-gpu"];
    const child = spawn(process.env.HEADWAY, args);
    const printed = await until("the demo's address", collector(child.stdout), /admin at (http:\/\/[0-9.:]+)/);
    return new Headway(child, printed[1]);
  }

  /** `headway serve` of a configuration, whose file it writes; `port` is that of the admin listener. */
  static async serve(text) {
    const file = join(mkdtempSync(join(tmpdir(), "headway-")), "headway.yaml");
    writeFileSync(file, text);
    const child = spawn(process.env.HEADWAY, ["serve", "--config", file], { env: { ...process.env, NO_COLOR: "1" } });
    const said = collector(child.stderr);
    const [, admin] = await until("its address", said, / admin address=([0-9.:]+)/);
    const [, port] = said().match(/ serving address=[0-9.]+:(\d+)/);
    return Object.assign(new Headway(child, `http://${admin}`), { file, port });
  }

  constructor(child, admin) {
    Object.assign(this, { child, admin });
    // A test that fails leaves nothing behind.
    process.once("exit", () => child.kill("SIGKILL"));
  }

  async end() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill("SIGKILL");
    await once(this.child, "exit");
  }
}

/** All that a stream has said so far. */
function collector(stream) {
  let text = "";
  stream.on("data", (part) => (text += part));
  return () => text;
}

async function until(what, said, pattern) {
  for (let waited = 0; waited < 30_000; waited += 20) {
    const found = said().match(pattern);
    if (found) return found;
    await new Promise((done) => setTimeout(done, 20));
  }
  throw new Error(`waited in vain for ${what}: ${said()}`);
}

/** A simulated NIM with a quick engine that tells its own times; its port. */
export async function nim(...faults) {
  const args = ["nim", "--profile", "h100-latency", "--listen", "127.0.0.1:0", "--model", "m", "--request-metrics"];
  const child = spawn(process.env.HEADWAY, [...args, ...faults.flatMap((fault) => ["--fault", fault])]);
  process.once("exit", () => child.kill("SIGKILL"));
  const [, port] = await until("the NIM's address", collector(child.stdout), /http:\/\/127\.0\.0\.1:(\d+)/);
  // A child that is waited for would keep the test runner from ending.
  child.unref();
  for (const pipe of child.stdio) pipe?.unref?.();
  return Number(port);
}

/** What stands between headway and an engine: adds delays on the ways there and back, and can lead elsewhere. */
export class Relay {
  static async start(engine) {
    const relay = new Relay();
    relay.set({ engine });
    relay.server = createServer((near) => relay.join(near)).listen(0, "127.0.0.1");
    await once(relay.server, "listening");
    relay.port = relay.server.address().port;
    relay.server.unref();
    return relay;
  }

  connections = new Set();

  /** For what comes from now on; connections of before are closed. */
  set({ engine, there = 0, back = 0 }) {
    Object.assign(this, { engine, there, back });
    for (const socket of this.connections) socket.destroy();
  }

  join(near) {
    const far = connect(this.engine, "127.0.0.1");
    const pass = (from, to, late) => {
      this.connections.add(from);
      from.setNoDelay(true);
      from.on("data", (bytes) => setTimeout(() => to.writable && to.write(bytes), late));
      from.on("error", () => to.destroy());
      from.on("close", () => { this.connections.delete(from); to.destroy(); });
    };
    pass(near, far, this.there);
    pass(far, near, this.back);
  }
}

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** A page, and everything that must not happen on it. */
export async function open(browser, headway, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`error: ${error.stack}`));
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && wrong.push(`console: ${message.text()}`));
  page.on("request", (request) => new URL(request.url()).origin !== headway.admin && wrong.push(`elsewhere: ${request.url()}`));
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  await page.goto(headway.admin);
  const check = async (allowed = /^$/) => {
    const violations = await page.evaluate(() => window.violations);
    assert.deepEqual([...wrong.filter((one) => !allowed.test(one)), ...violations], []);
  };
  return { page, context, check };
}

/** The page has drawn what it was told. */
export const drawn = (page) => page.waitForSelector("html[data-tick][data-connection=live]", { timeout: 30_000 });
