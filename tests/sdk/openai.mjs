// The OpenAI Node SDK against headway. It reads on after [DONE] and trusts every framing, so that it notices things
// the Python SDK does not. Run by stack.py; the folder that `npm install openai` ran in is given in OPENAI_FOLDER.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import test from "node:test";

const { OpenAI, APIError } = createRequire(process.env.OPENAI_FOLDER + "/")("openai");

let attempts = 0;
const client = new OpenAI({
  baseURL: process.env.HEADWAY_URL + "/v1",
  apiKey: "none",
  timeout: 20_000,
  fetch: (...request) => (attempts++, fetch(...request)),
});
const request = { messages: [{ role: "user", content: "Say something." }], max_tokens: 16 };

// What a program sees of one stream: its text, what it threw, and how often the SDK asked.
async function ask(model, options = {}) {
  const seen = { text: "", error: null };
  attempts = 0;
  try {
    for await (const chunk of await client.chat.completions.create({ ...request, model, stream: true }, options)) {
      seen.text += chunk.choices[0]?.delta?.content ?? "";
    }
  } catch (error) {
    seen.error = error;
  }
  return { ...seen, attempts };
}

for (const model of ["good", "commenting", "no-done", "cut-after-done", "failover-error-first"]) {
  test(`${model} is a whole answer`, async () => {
    const seen = await ask(model);
    assert.deepEqual([seen.text, seen.error, seen.attempts], ["onetwo", null, 1]);
  });
}

test("an answer that is not streamed", async () => {
  const answer = await client.chat.completions.create({ ...request, model: "well" });
  assert.ok(answer.choices[0].message.content);
});

test("completions", async () => {
  let text = "";
  const body = { model: "well", prompt: "Say something.", max_tokens: 4, stream: true };
  for await (const chunk of await client.completions.create(body)) {
    text += chunk.choices[0]?.text ?? "";
  }
  assert.ok(text);
});

const refusals = [
  ["nobody", 404, "model_not_found"],
  ["error-first", 502, "upstream_error"],
  ["error-as-json", 502, "upstream_error"],
  ["busy-first", 503, "upstream_error"],
  ["nothing", 502, "upstream_empty"],
  ["silent", 504, "first_token_timeout"],
  ["429", 429, "upstream_error"],
  ["400", 400, "context_length_exceeded"],
];
for (const [model, status, code] of refusals) {
  test(`${model} is refused with ${status}, once`, async () => {
    const { error, attempts } = await ask(model);
    assert.ok(error instanceof APIError, String(error));
    assert.deepEqual([error.status, error.code, attempts], [status, code, 1]);
  });
}

test("a hint to wait is obeyed", async () => {
  const began = performance.now();
  const { error, attempts } = await ask("429-wait-1", { maxRetries: 1 });
  assert.deepEqual([error.status, attempts], [429, 2]);
  assert.ok(performance.now() - began > 900);
});

test("nobody is told to wait longer than a minute", async () => {
  const { error } = await ask("429-wait-300", { maxRetries: 0 });
  assert.ok(Number(error.headers.get("retry-after") ?? 0) <= 60);
});

const breaks = [
  ["cut-between-events", "upstream_disconnected"],
  ["ended-early", "upstream_disconnected"],
  ["stalling", "idle_timeout"],
  ["error-later", "boom"],
];
for (const [model, code] of breaks) {
  test(`${model} throws an error with a code`, async () => {
    const { text, error, attempts } = await ask(model);
    assert.ok(error instanceof APIError, String(error));
    assert.deepEqual([text, error.code, attempts], ["onetwo", code, 1]);
  });
}

for (const model of ["cut-within-event", "ended-within-event"]) {
  test(`${model} throws, and not for the text of an event`, async () => {
    const { text, error, attempts } = await ask(model);
    assert.ok(error instanceof Error && !(error instanceof SyntaxError), String(error));
    assert.deepEqual([text, attempts], ["onetwo", 1]);
  });
}

test("a client that leaves a stream frees the backend", async () => {
  const stream = await client.chat.completions.create({ ...request, model: "forever", stream: true });
  for await (const _ of stream) break;
  const open = async () => (await (await fetch(process.env.HEADWAY_SEEN_URL)).json()).forever.open;
  const deadline = performance.now() + 10_000;
  while (await open()) assert.ok(performance.now() < deadline, "the backend still streams");
});
