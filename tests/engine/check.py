#!/usr/bin/env python3
"""Everything that headway does with a backend, with llama.cpp's server in the place of a simulated one.

    check.py FOLDER LLAMA_SERVER HEADWAY

FOLDER has the models that model.py writes. Prints what holds; ends with 1 at the first thing that does not.
"""

import json
import sys
import threading
import time

from stage import Answer, Stage, until

WEATHER = [{"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}}}]
SAID = [{"role": "user", "content": "Tell me about trains."}]
# The same answer each time, of a length that is known.
FIXED = {"temperature": 0, "seed": 7, "ignore_eos": True}
CHAT = {"model": "tiny", "messages": SAID, "max_tokens": 24, **FIXED}
LONG = "All work and no play makes a dull boy. "


def holds(what, value, expected=True):
    if value != expected:
        raise AssertionError(f"{what}:\n{value!r:.2000}\ninstead of\n{expected!r:.2000}")
    print(f"  {what}", flush=True)


def plain(chunk):
    """A chunk without what differs from answer to answer: its name, times, what of its prompt was cached."""
    kept = {key: value for key, value in chunk.items() if key not in ("id", "created", "timings")}
    if usage := kept.get("usage"):
        kept["usage"] = {key: value for key, value in usage.items() if key != "prompt_tokens_details"}
    return kept


def number():
    """A request's name: the log is searched for it."""
    number.last += 1
    return {"x-request-id": f"check-{number.last}"}


number.last = 0


def logged(proxy, head):
    return proxy.line(head["x-request-id"])


def asked(proxy, path, body):
    head = number()
    return Answer(proxy.port, path, body, head), logged(proxy, head)


def discovery(proxy, engine):
    print("discovery")
    models = sorted(model["id"] for model in json.loads(proxy_get(proxy, "/v1/models"))["data"])
    holds("both names of the model are offered", models, ["tiny", "tiny-q8"])
    told = proxy.backends()["engine"]["models"]
    holds("a slot's context is known", {one["context_length"] for one in told}, {1024})


def proxy_get(proxy, path):
    from stage import get
    return get(f"http://127.0.0.1:{proxy.port}{path}")


def chat(proxy, engine):
    print("chat")
    usage = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    direct = Answer(engine.port, "/v1/chat/completions", usage)
    through, line = asked(proxy, "/v1/chat/completions", usage)
    expected = [plain(chunk) for chunk in direct.chunks()]
    holds("a stream with usage is the engine's own", [plain(chunk) for chunk in through.chunks()], expected)
    holds("tokens are counted", (line["output_tokens"], line["finish_reason"], line["outcome"]), (24, "length", "complete"))
    unasked, line = asked(proxy, "/v1/chat/completions", {**CHAT, "stream": True})
    holds("usage that was not asked for is taken out", [plain(chunk) for chunk in unasked.chunks()],
          [chunk for chunk in expected if chunk["choices"]])
    holds("and counted all the same", (line["output_tokens"], unasked.events[-1]), (24, "[DONE]"))
    holds("the engine's own times are read", line["engine_prefill_ms"] > 0 and line["engine_itl_ms"] > 0)
    holds("which headway's are not shorter than", line["ttft_ms"] >= line["engine_prefill_ms"])
    whole, line = asked(proxy, "/v1/chat/completions", CHAT)
    holds("an answer in one piece is counted and timed", (line["output_tokens"], line["engine_prefill_ms"] > 0), (24, True))
    _, line = asked(proxy, "/v1/chat/completions", {**CHAT, "stream": True, "n": 2})
    holds("two answers at once have no ITL and are not judged", ("itl_ms" in line, "slo" in line), (False, False))
    one, line = asked(proxy, "/v1/chat/completions", {**CHAT, "stream": True, "max_tokens": 1})
    holds("one token is an answer", (line["outcome"], line["output_tokens"], "itl_ms" in line), ("complete", 1, False))


def tools(proxy, engine):
    print("tools")
    # A random model calls nothing: the grammar lets it talk first. The form of calls is in tests/fixtures/recorded.
    body = {**CHAT, "stream": True, "tools": WEATHER, "tool_choice": "required"}
    answer, line = asked(proxy, "/v1/chat/completions", body)
    holds("a request with tools is answered", (answer.status, line["outcome"], line["output_tokens"]), (200, "complete", 24))


def other_apis(proxy, engine):
    print("other APIs")
    asks = [("/v1/completions", {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 16, **FIXED}),
            ("/v1/responses", {"model": "tiny", "input": "Once upon a time", "max_output_tokens": 16, **FIXED}),
            ("/v1/messages", {"model": "tiny", "messages": SAID, "max_tokens": 16, **FIXED})]
    for path, body in asks:
        for stream in (True, False):
            answer, line = asked(proxy, path, {**body, "stream": stream})
            told = (answer.status, line["outcome"], line["output_tokens"], line.get("finish_reason") is not None)
            holds(f"{path}, stream {stream}", told, (200, "complete", 16, True))
            if stream:
                holds("  with its latencies", line["ttft_ms"] > 0 and line["itl_ms"] > 0)
                holds("  and the engine's, which no message tells", "engine_prefill_ms" in line, path != "/v1/messages")


def errors(proxy, engine):
    print("errors")
    answer, line = asked(proxy, "/v1/chat/completions", {**CHAT, "temperature": "hot"})
    direct = Answer(engine.port, "/v1/chat/completions", {**CHAT, "temperature": "hot"})
    holds("what the engine refuses is passed on", (answer.status, answer.json()), (direct.status, direct.json()))
    print(f"    {answer.status} {line['outcome']} {answer.body[:160]!r}")
    known = line["outcome"] == "backend_rejected" if answer.status < 500 else line["outcome"] == "upstream_error"
    holds("under its name", known)
    # About as many bytes per token as headway has learned: too long for sure.
    answer, line = asked(proxy, "/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": LONG * 400}]})
    holds("a prompt that no slot holds is refused by headway", (answer.status, answer.json()["error"]["code"]),
          (400, "context_length_exceeded"))
    for most in (5_000, -1):
        ask = {**CHAT, "max_tokens": most, "stream": True, "messages": [{"role": "user", "content": LONG * 50}]}
        answer, line = asked(proxy, "/v1/chat/completions", ask)
        told = (answer.status, line["outcome"], line.get("finish_reason"))
        holds(f"max_tokens {most} is served, and cut where the slot ends", told, (200, "complete", "length"))
    # Few bytes and many tokens: only the engine can know.
    dense = "".join(chr(0x4E00 + 7 * index) for index in range(500))
    answer, line = asked(proxy, "/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": dense}]})
    print(f"    {answer.status} {line['outcome']} {answer.body[:160]!r}")
    holds("and by the engine where headway cannot know", (answer.status, line["outcome"]), (400, "backend_rejected"))
    answer, line = asked(proxy, "/v1/embeddings", {"model": "tiny", "input": "a train"})
    holds("what its model cannot do is refused by the engine", (answer.status, line["outcome"]), (501, "backend_rejected"))
    holds("and not held against it", proxy.backends()["engine"]["consecutive_faults"], 0)
    answer, _ = asked(proxy, "/v1/chat/completions", {**CHAT, "model": "other"})
    holds("a model that it would answer for without having it is refused", answer.status, 404)


def idle(engine, pause=0.05):
    return until("the engine to be idle", lambda: engine.processing() == 0, 20, pause)


def leaving(proxy, engine):
    print("clients that leave")
    body = {**CHAT, "stream": True, "max_tokens": 900}
    for what, ask, after in [("within a stream", body, 5), ("an answer in one piece", {**body, "stream": False}, None)]:
        idle(engine)
        head = number()
        if after:
            Answer(proxy.port, "/v1/chat/completions", ask, head, leave_after=after)
        else:
            leave_early(proxy, engine, ask, head)
        begun = time.monotonic()
        # Whatever the engine says to anybody, its metrics included, puts off its looking whether this client is there.
        time.sleep(0 if after else 2.2)
        idle(engine, 0.05 if after else 1.2)
        took = time.monotonic() - begun
        holds(f"{what}: it has stopped within {took * 1e3:.0f} ms", took < 4.0)
        holds("  and the client is to blame", logged(proxy, head)["outcome"], "client_cancelled")
    idle(engine)
    head = number()
    prompt = {**body, "messages": [{"role": "user", "content": LONG * 50}], "max_tokens": 4}
    leave_early(proxy, engine, prompt, head)
    begun = time.monotonic()
    idle(engine)
    holds(f"before the first token: it stops after {(time.monotonic() - begun) * 1e3:.0f} ms", True)
    holds("  and the client is to blame", logged(proxy, head)["outcome"], "client_cancelled")


def leave_early(proxy, engine, body, head):
    """Asks, and leaves when the engine has begun."""
    import socket
    text = json.dumps(body).encode()
    lines = [b"POST /v1/chat/completions HTTP/1.1", b"host: x", b"content-type: application/json",
             f"x-request-id: {head['x-request-id']}".encode(), f"content-length: {len(text)}".encode(), b"", text]
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b"\r\n".join(lines))
        until("the engine to begin", lambda: engine.processing() > 0, 20)


def load(proxy, engine):
    print("load")
    idle(engine)
    body = {**CHAT, "stream": True, "max_tokens": 300}
    clients = [threading.Thread(target=Answer, args=(proxy.port, "/v1/chat/completions", body)) for _ in range(6)]
    for client in clients:
        client.start()

    def told():
        view = proxy.backends()["engine"].get("engine")
        return view and (view["running"], view["waiting"]) == (4.0, 2.0)
    holds("four run and two wait, by the engine's own page", bool(until("the engine's load", told, 20)))
    for client in clients:
        client.join()
    idle(engine)


def silence(stage):
    print("comments while a prompt is read")
    engine = stage.engine("pinging", "f32", "--parallel", "1", "--ctx-size", "8192", "--sse-ping-interval", "1")
    proxy = stage.proxy(backend("engine", engine), route(["engine"]), name="pinging-proxy")
    body = {**CHAT, "stream": True, "messages": [{"role": "user", "content": LONG * 400}], "max_tokens": 4}
    answer, line = asked(proxy, "/v1/chat/completions", body)
    comments = answer.body.count(b"\n:") + answer.body.startswith(b":")
    print(f"    {comments} comments, first token after {line['ttft_ms']:.0f} ms, first byte of the answer before")
    holds("they are no tokens", (line["outcome"], line["output_tokens"], comments > 0), ("complete", 4, True))
    holds("and time to the first token is that of the token", line["ttft_ms"] >= line["engine_prefill_ms"] > 1_000)
    engine.process.kill()
    proxy.process.terminate()


def failing(stage):
    print("an engine that dies")
    dying = stage.engine("dying", "q8", "--parallel", "2", "--ctx-size", "4096")
    other = stage.engine("other", "q8", "--parallel", "2", "--ctx-size", "4096", core=1)
    proxy = stage.proxy(backend("dying", dying, 1) + backend("other", other, 9), route(["dying", "other"]),
                        name="dying-proxy")
    head = number()
    answers = []
    body = {**CHAT, "stream": True, "max_tokens": 1500}
    tokens = threading.Event()

    def read():
        answers.append(Answer(proxy.port, "/v1/chat/completions", body, head, on_event=lambda _: tokens.set()))
    client = threading.Thread(target=read)
    client.start()
    tokens.wait(30)
    [on] = [one for one in (dying, other) if one.processing() > 0]
    on.process.kill()
    client.join()
    line = logged(proxy, head)
    last = json.loads(answers[0].events[-1])
    holds("a stream that it was in the middle of ends with an error", (line["outcome"], last["error"]["code"]),
          ("truncated", "upstream_disconnected"))
    for _ in range(3):
        answer, line = asked(proxy, "/v1/chat/completions", {**CHAT, "stream": True})
        holds("the next is answered by the other", (answer.status, line["outcome"]), (200, "complete"))
    proxy.process.terminate()
    for engine in (dying, other):
        engine.process.kill()


def embeddings(stage):
    print("embeddings")
    engine = stage.engine("embedding", "q8", "--embeddings", "--pooling", "mean", "--ctx-size", "2048")
    proxy = stage.proxy(backend("engine", engine), route(["engine"]), name="embedding-proxy")
    answer, line = asked(proxy, "/v1/embeddings", {"model": "tiny", "input": ["a train", "a plane"]})
    told = (answer.status, len(answer.json()["data"]), line["outcome"], line["input_tokens"] > 0)
    holds("two texts have two", told, (200, 2, "complete", True))
    engine.process.kill()
    proxy.process.terminate()


def backend(name, engine, price=1):
    return (f"  - {{ name: {name}, url: 'http://127.0.0.1:{engine.port}', price: {{ per_gpu_hour: {price} }}, "
            "metrics: { path: /metrics, interval: 3s } }\n")


def route(names):
    return f"  - {{ name: chat, backends: [{', '.join(names)}], slo: {{ ttft: {{ p95: 2s }}, itl: {{ p95: 100ms }} }} }}\n"


def main(folder, server, headway):
    stage = Stage(folder, server, headway)
    try:
        engine = stage.engine("engine", "q8", "--parallel", "4", "--ctx-size", "4096")
        proxy = stage.proxy(backend("engine", engine), route(["engine"]))
        for part in (discovery, chat, tools, other_apis, errors, leaving, load):
            part(proxy, engine)
        engine.process.terminate()
        proxy.process.terminate()
        for part in (silence, failing, embeddings):
            part(stage)
    finally:
        stage.end()
    print("all of it holds")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
