"""Backends that answer exactly as their script says, byte for byte: what a simulated NIM is too well behaved for.

A script is what one model's backend does with a request. `Backends` serves every script on a port of its own and
counts, per model, the requests it got (`asked`) and those whose client has not left (`open`); `GET /seen` on any port
tells.
"""

import asyncio
import contextlib
import functools
import json
import threading

END = object()  # The body ends as its framing says.
CUT = object()  # The connection is reset.
STALL = object()  # Nothing more comes until the client leaves.

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
HALF = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"del'


def event(value):
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def chunk(delta, finish=None):
    choice = {"index": 0, "delta": delta, "text": delta.get("content", ""), "logprobs": None, "finish_reason": finish}
    return event({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


def error(code, kind="server_error"):
    return {"error": {"message": "the backend's own words", "type": kind, "param": None, "code": code}}


def whole():
    message = {"role": "assistant", "content": "onetwo"}
    choice = {"index": 0, "message": message, "text": "onetwo", "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


ROLE, ONE, TWO = (chunk({"content": text, "role": "assistant"}) for text in ("", "one", "two"))
STOP = chunk({}, "stop")
TOKENS = [ROLE, ONE, TWO]


class Streamed:
    """A stream, as pieces, pauses and an end; an answer that was not asked to stream is a good whole one."""

    def __init__(self, *steps):
        self.steps = steps

    async def answer(self, writer, streamed):
        if not streamed:
            return await Whole(200, whole()).answer(writer, streamed)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            b"connection: close\r\n\r\n"
        )
        for step in self.steps:
            if step is CUT:
                # What was written goes first: a reset overtakes it.
                await asyncio.sleep(0.05)
                writer.transport.abort()
            elif step is STALL:
                await asyncio.Event().wait()
            elif step is END:
                writer.write(b"0\r\n\r\n")
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                writer.write(b"%x\r\n%s\r\n" % (len(step), step))
                await writer.drain()


class Whole:
    """A status and a body, streamed or not."""

    def __init__(self, status, body, **fields):
        self.status, self.fields = status, fields
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.kind = "text/html" if isinstance(body, bytes) else "application/json"

    async def answer(self, writer, streamed):
        fields = {"content_type": self.kind, "content_length": len(self.body), **self.fields}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {self.status} Said\r\n{lines}\r\n".encode() + self.body)


class HangUp:
    """No answer at all."""

    async def answer(self, writer, streamed):
        writer.transport.abort()


class Forever:
    """Tokens without end."""

    async def answer(self, writer, streamed):
        await Streamed(ROLE, *[step for _ in range(2000) for step in (ONE, 0.02)], END).answer(writer, streamed)


BUSY = error("overloaded", "overloaded_error")
SCRIPTS = {
    "good": Streamed(*TOKENS, STOP, DONE, END),
    "commenting": Streamed(COMMENT, 0.05, COMMENT, ROLE, COMMENT, ONE, 0.05, COMMENT, TWO, STOP, DONE, END),
    "no-done": Streamed(*TOKENS, STOP, END),
    "cut-after-done": Streamed(*TOKENS, STOP, DONE, CUT),
    "error-first": Streamed(event(error("boom")), DONE, END),
    "error-after-role": Streamed(ROLE, event(error("boom")), END),
    "busy-first": Streamed(COMMENT, event(BUSY), DONE, END),
    "error-as-json": Whole(200, error("boom")),
    "empty-stream": Streamed(DONE, END),
    "nothing": Streamed(END),
    "silent": Streamed(STALL),
    "hanging-up": HangUp(),
    "error-later": Streamed(*TOKENS, event(error("boom")), DONE, END),
    "cut-between-events": Streamed(*TOKENS, CUT),
    "cut-within-event": Streamed(*TOKENS, HALF, CUT),
    "ended-early": Streamed(*TOKENS, END),
    "ended-within-event": Streamed(*TOKENS, HALF, END),
    "stalling": Streamed(*TOKENS, STALL),
    "forever": Forever(),
    "429-wait-1": Whole(429, error("rate_limit_exceeded"), retry_after=1),
    "429-wait-300": Whole(429, error("rate_limit_exceeded"), retry_after=300),
    "429": Whole(429, error("rate_limit_exceeded")),
    "503-wait-1": Whole(503, BUSY, retry_after=1),
    "503": Whole(503, BUSY),
    "500": Whole(500, error("boom")),
    "502-html": Whole(502, b"<html>Bad Gateway</html>"),
    "400": Whole(400, error("context_length_exceeded", "invalid_request_error")),
    "404": Whole(404, error("model_not_found", "not_found_error")),
    "422": Whole(422, error(422, "UnprocessableEntityError")),
}


class Backends:
    """All scripts, each on a port of its own, until the block is left."""

    def __init__(self):
        self.seen = {name: {"asked": 0, "open": 0} for name in SCRIPTS}
        self.urls = {}

    def __enter__(self):
        self.ready = threading.Event()
        self.thread = threading.Thread(target=asyncio.run, args=(self.run(),), daemon=True)
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join()

    async def run(self):
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        for name in SCRIPTS:
            server = await asyncio.start_server(functools.partial(self.serve, name), "127.0.0.1", 0)
            self.urls[name] = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
        self.ready.set()
        await self.over.wait()

    async def serve(self, name, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
                body = await reader.readexactly(length)
                if head.startswith("get "):
                    await Whole(200, self.seen).answer(writer, False)
                    await writer.drain()
                else:
                    await self.answer(name, json.loads(body), reader, writer)
                    break
        writer.close()

    async def answer(self, name, request, reader, writer):
        """Plays the script until it is over or the client leaves."""
        seen = self.seen[name]
        seen["asked"] += 1
        seen["open"] += 1
        playing = asyncio.ensure_future(SCRIPTS[name].answer(writer, bool(request.get("stream"))))
        # Nothing is pipelined, so that anything to read now is the end.
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({playing, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            seen["open"] -= 1
            for task in (playing, gone):
                task.cancel()
            await asyncio.gather(playing, gone, return_exceptions=True)
