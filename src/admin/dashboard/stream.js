// The event stream, by fetch: an EventSource cannot send the token. It comes back by itself whatever happens.

const KEY = "headway-admin-token";
/** Events come every second: after so long without one the connection is given up. */
const SILENCE_MS = 6_000;
const PAUSES_MS = [250, 500, 1_000, 2_000];

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** What the API answers: its JSON, or an error with its message and `status`. */
export async function ask(path, method = "GET") {
  const headers = { "content-type": "application/json", ...authorization() };
  const answer = await fetch(path, { method, headers, cache: "no-store" });
  const body = await answer.json().catch(() => null);
  if (answer.ok) return body;
  throw Object.assign(new Error(body?.error?.message ?? `the answer was ${answer.status}`), { status: answer.status });
}

/**
 * Follows the events for ever. `on.event(name, data)` gets each; `on.state` hears `live`, `reconnecting`, `refused`
 * (the token is missing or wrong: following ends) or `full` (as many look on as may).
 */
export async function follow(on) {
  for (let failed = 0; ; ) {
    const before = performance.now();
    const end = await once(on).catch(() => "lost");
    if (end === "refused") return on.state("refused");
    // A stream that ended as announced begins again at once, and nobody need notice.
    if (end === "again") { failed = 0; continue; }
    if (performance.now() - before > 5_000) failed = 0;
    on.state(end === "full" ? "full" : "reconnecting");
    await pause(PAUSES_MS[Math.min(failed++, PAUSES_MS.length - 1)]);
  }
}

function authorization() {
  const value = token.get();
  return value ? { authorization: `Bearer ${value}` } : {};
}

async function once(on) {
  const stop = new AbortController();
  let silence = setTimeout(() => stop.abort(), SILENCE_MS);
  try {
    const answer = await fetch("/api/v1/events", { headers: authorization(), cache: "no-store", signal: stop.signal });
    if (answer.status === 401) return "refused";
    if (answer.status === 503) return "full";
    if (!answer.ok) return "lost";
    for await (const { name, data } of events(answer.body)) {
      clearTimeout(silence);
      silence = setTimeout(() => stop.abort(), SILENCE_MS);
      if (name === "again") return "again";
      take(on, name, data);
    }
    return "lost";
  } finally {
    clearTimeout(silence);
    stop.abort();
  }
}

/** A stream that breaks is everyday; an event that cannot be drawn is a fault of ours, to be seen and reported. */
function take(on, name, data) {
  try {
    on.state("live");
    on.event(name, JSON.parse(data));
  } catch (fault) {
    console.error(fault);
    throw fault;
  }
}

/** Our own stream's events: one `event` line, one `data` line, a blank one. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    text += part.value;
    const whole = text.split("\n\n");
    text = whole.pop();
    for (const event of whole) {
      const [first, second] = event.split("\n");
      yield { name: first.slice("event: ".length), data: second.slice("data: ".length) };
    }
  }
}
