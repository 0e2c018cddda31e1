// What the browser tests share: headway as a process, Chromium, and what must be true of every page.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
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
    const printed = await until("its address", collector(child.stderr), / admin address=([0-9.:]+)/);
    return Object.assign(new Headway(child, `http://${printed[1]}`), { file });
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
