#!/usr/bin/env python3
"""The OpenAI Python SDK against headway: what works directly works through the proxy, and every failure is a typed one.

Run by tests/sdk/stack.py, in an environment that has the `openai` and `httpx[http2]` packages. Every fact is checked
with the synchronous and the asynchronous client, over plain HTTP/1.1 and over TLS with HTTP/2.
"""

import asyncio
import dataclasses
import json
import os
import ssl
import time
import unittest
import urllib.request

import httpx
import openai
from openai import APIError, APIStatusError, AsyncOpenAI, OpenAI

URL = os.environ["HEADWAY_URL"] + "/v1"
TLS_URL = os.environ["HEADWAY_TLS_URL"] + "/v1" if "HEADWAY_TLS_URL" in os.environ else None
MESSAGES = [{"role": "user", "content": "Say something."}]
TOKENS = 16


def seen(model):
    with urllib.request.urlopen(os.environ["HEADWAY_SEEN_URL"], timeout=5) as answer:
        return json.load(answer)[model]


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come true in time")
        time.sleep(0.01)


@dataclasses.dataclass
class Seen:
    """What a program that uses the SDK sees of one request."""

    text: str = ""
    finish: str | None = None
    usage: object = None
    error: Exception | None = None
    version: str | None = None
    headers: dict = dataclasses.field(default_factory=dict)
    # When each of the SDK's own attempts began.
    attempts: list = dataclasses.field(default_factory=list)

    def take(self, answer):
        for choice in answer.choices[:1]:
            message = getattr(choice, "delta", None) or getattr(choice, "message", None)
            self.text += (message.content if message else choice.text) or ""
            self.finish = choice.finish_reason or self.finish
        self.usage = answer.usage or self.usage

    def head(self, response):
        self.version, self.headers = response.http_version, dict(response.headers)


@dataclasses.dataclass(frozen=True)
class Flavour:
    """One of the SDK's clients over one of headway's listeners."""

    asynchronous: bool
    http2: bool

    def client(self, hook, **more):
        """`hook` is called before every attempt."""
        kind, http = OpenAI, openai.DefaultHttpxClient
        if self.asynchronous:
            kind, http = AsyncOpenAI, openai.DefaultAsyncHttpxClient
        verify = ssl.create_default_context(cafile=os.environ["HEADWAY_CA"]) if self.http2 else True
        http = http(http2=self.http2, verify=verify, event_hooks={"request": [hook]})
        return kind(base_url=TLS_URL if self.http2 else URL, api_key="none", timeout=20.0, http_client=http, **more)

    def ask(self, model, *, api="chat", retries=0, **more):
        """One request, to its end; whatever is raised is part of what was seen."""
        result = Seen()
        try:
            if self.asynchronous:
                asyncio.run(self.ask_later(result, api, retries, model=model, **request(api), **more))
            else:
                self.ask_now(result, api, retries, model=model, **request(api), **more)
        except (openai.OpenAIError, *TRANSPORT, json.JSONDecodeError) as error:
            result.error = error
            if isinstance(error, APIStatusError):
                result.head(error.response)
        return result

    def ask_now(self, result, api, retries, **body):
        with self.client(lambda _: result.attempts.append(time.monotonic()), max_retries=retries) as client:
            answer = endpoint(client, api).with_raw_response.create(**body)
            result.head(answer.http_response)
            parsed = answer.parse()
            for part in parsed if body.get("stream") else [parsed]:
                result.take(part)

    async def ask_later(self, result, api, retries, **body):
        async def hook(_):
            result.attempts.append(time.monotonic())

        async with self.client(hook, max_retries=retries) as client:
            answer = await endpoint(client, api).with_raw_response.create(**body)
            result.head(answer.http_response)
            parsed = answer.parse()
            if not body.get("stream"):
                return result.take(parsed)
            async for part in parsed:
                result.take(part)


def transport_errors():
    """What the HTTP client below the SDK may raise; which package that is depends on the SDK's version."""
    for name in ("httpx", "httpx2"):
        try:
            yield __import__(name).HTTPError
        except ImportError:
            pass


TRANSPORT = tuple(transport_errors())
FLAVOURS = [Flavour(later, http2) for http2 in (False, True) for later in (False, True) if TLS_URL or not http2]


def endpoint(client, api):
    return client.chat.completions if api == "chat" else client.completions


def request(api):
    return {"max_tokens": TOKENS, **({"messages": MESSAGES} if api == "chat" else {"prompt": "Say something."})}


class Test(unittest.TestCase):
    def each(self, check, model, **request):
        """Checks what every flavour sees of the request, one after the other."""
        for flavour in FLAVOURS:
            with self.subTest(model, flavour=flavour, **request):
                check(flavour.ask(model, **request))

    def ended(self, result, text=None):
        self.assertIsNone(result.error)
        self.assertIn(result.finish, ("stop", "length"))
        self.assertTrue(result.text)
        if text is not None:
            self.assertEqual(result.text, text)

    def failed(self, result, status, code, kind=APIStatusError):
        self.assertIsInstance(result.error, kind)
        self.assertEqual((result.error.status_code, result.error.code), (status, code))
        self.assertTrue(result.headers["x-request-id"])
        self.assertEqual(result.text, "")


class Answers(Test):
    def test_every_api_streamed_or_not(self):
        for api in ("chat", "completions"):
            for stream in (False, True):

                def check(result):
                    self.ended(result)
                    self.assertEqual(stream, result.usage is None, "usage, but only where it was asked for")

                self.each(check, "well", api=api, stream=stream)

    def test_usage_at_the_end_of_a_stream_that_asked_for_it(self):
        def check(result):
            self.ended(result)
            self.assertGreater(result.usage.completion_tokens, 0)

        for api in ("chat", "completions"):
            self.each(check, "well", api=api, stream=True, stream_options={"include_usage": True})

    def test_the_protocol_is_the_one_that_was_asked_for(self):
        self.assertTrue(TLS_URL or os.environ.get("CI") != "true", "no certificate could be made")
        for flavour in FLAVOURS:
            with self.subTest(flavour):
                self.assertEqual(flavour.ask("well").version, "HTTP/2" if flavour.http2 else "HTTP/1.1")

    @unittest.skipUnless(TLS_URL, "no certificate could be made")
    def test_any_httpx_client_may_be_given(self):
        verify = ssl.create_default_context(cafile=os.environ["HEADWAY_CA"])
        with OpenAI(base_url=TLS_URL, api_key="none", http_client=httpx.Client(http2=True, verify=verify)) as client:
            answer = client.chat.completions.with_raw_response.create(model="well", **request("chat"))
            self.assertEqual(answer.http_response.http_version, "HTTP/2")
            self.assertTrue(answer.parse().choices[0].message.content)

    def test_a_stream_through_one_kept_connection(self):
        for flavour in (flavour for flavour in FLAVOURS if not flavour.asynchronous):
            with self.subTest(flavour), flavour.client(lambda _: None) as client:
                for _ in range(20):
                    chunks = list(client.chat.completions.create(model="well", stream=True, **request("chat")))
                    self.assertIn(chunks[-1].choices[0].finish_reason, ("stop", "length"))

    def test_models(self):
        with OpenAI(base_url=URL, api_key="none") as client:
            self.assertIn("well", {model.id for model in client.models.list()})

    def test_every_answer_names_its_request(self):
        named = {"x-request-id": "sdk-1"}
        self.each(lambda result: self.assertEqual(result.headers["x-request-id"], "sdk-1"), "well", extra_headers=named)

    def test_comments_are_no_tokens_and_do_no_harm(self):
        self.each(lambda result: self.ended(result, "onetwo"), "commenting", stream=True)

    def test_a_finish_reason_or_the_done_marker_is_an_end(self):
        for model in ("good", "no-done", "cut-after-done"):
            self.each(lambda result: self.ended(result, "onetwo"), model, stream=True)

    def test_a_client_that_leaves_a_stream_frees_the_backend(self):
        for flavour in (flavour for flavour in FLAVOURS if not flavour.asynchronous):
            for _ in range(3):
                with self.subTest(flavour):
                    asked = seen("forever")["asked"]
                    with flavour.client(lambda _: None) as client:
                        with client.chat.completions.create(model="forever", stream=True, **request("chat")) as stream:
                            next(iter(stream))
                        # The HTTP client below the SDK resets no stream of HTTP/2: there, leaving is closing.
                        if not flavour.http2:
                            until(lambda: seen("forever")["open"] == 0)
                        self.assertTrue(client.chat.completions.create(model="well", **request("chat")).choices)
                    until(lambda: seen("forever")["open"] == 0)
                    self.assertEqual(seen("forever")["asked"], asked + 1)

    def test_an_asynchronous_client_that_is_cancelled_frees_the_backend(self):
        async def leave(flavour):
            async def hook(_):
                pass

            async with flavour.client(hook) as client:
                stream = await client.chat.completions.create(model="forever", stream=True, **request("chat"))
                reading = asyncio.ensure_future(anext(aiter(stream)))
                await reading
                endless = asyncio.ensure_future(drain(stream))
                await asyncio.sleep(0)
                endless.cancel()
                await asyncio.gather(endless, return_exceptions=True)
                await stream.close()

        async def drain(stream):
            async for _ in stream:
                pass

        for flavour in (flavour for flavour in FLAVOURS if flavour.asynchronous):
            with self.subTest(flavour):
                asyncio.run(leave(flavour))
                until(lambda: seen("forever")["open"] == 0)


class Refusals(Test):
    """Failures before the first token: a status, a code, and a hint that makes at most one layer try again."""

    def refused(self, model, status, code, kind=APIStatusError, streams=(False, True)):
        def check(result):
            self.failed(result, status, code, kind)
            self.assertEqual(len(result.attempts), 1)
            self.assertEqual(result.headers["x-should-retry"], "false")

        for stream in streams:
            self.each(check, model, stream=stream, retries=2)

    def test_a_model_that_nobody_serves(self):
        self.refused("nobody", 404, "model_not_found", openai.NotFoundError)

    def test_a_body_that_is_no_request(self):
        with OpenAI(base_url=URL, api_key="none") as client, self.assertRaises(openai.BadRequestError) as caught:
            client.post("/chat/completions", cast_to=object, body=[1])
        self.assertTrue(caught.exception.code)
        self.assertEqual(caught.exception.response.headers["x-should-retry"], "false")

    def test_a_path_that_is_none(self):
        with OpenAI(base_url=URL, api_key="none") as client, self.assertRaises(openai.NotFoundError) as caught:
            client.get("/nothing", cast_to=object)
        self.assertEqual(caught.exception.code, "not_found")

    def test_an_error_in_place_of_a_stream(self):
        for model in ("error-first", "error-after-role", "error-as-json"):
            self.refused(model, 502, "upstream_error", streams=[True])
        self.refused("error-as-json", 502, "upstream_error", streams=[False])
        self.refused("busy-first", 503, "upstream_error", streams=[True])

    def test_a_stream_without_anything_in_it(self):
        for model in ("empty-stream", "nothing"):
            self.refused(model, 502, "upstream_empty", streams=[True])

    def test_a_backend_that_says_nothing(self):
        self.refused("silent", 504, "first_token_timeout", streams=[True])

    def test_a_backend_that_fails(self):
        self.refused("500", 500, "upstream_error")
        self.refused("502-html", 502, "upstream_error")
        self.refused("503", 503, "upstream_error")
        self.refused("429", 429, "upstream_error", openai.RateLimitError)
        self.refused("hanging-up", 502, "upstream_disconnected")

    def test_a_backend_that_cannot_be_reached(self):
        def check(result):
            self.assertIsInstance(result.error, APIStatusError)
            # The one before its health is known, the other after.
            told = (result.error.status_code, result.error.code)
            self.assertIn(told, [(502, "upstream_connect_failed"), (503, "no_healthy_backend")])

        self.each(check, "unreachable")

    def test_two_backends_that_fail_are_tried_by_headway_alone(self):
        for model, status in (("503", 503), ("error-first", 502)):
            before = seen(model)["asked"]
            self.refused(f"pair-{model}", status, "upstream_error", streams=[True])
            self.assertEqual(seen(model)["asked"] - before, 2 * len(FLAVOURS))

    def test_a_hint_is_handed_on_and_obeyed_by_the_sdk_alone(self):
        for model, status in (("429-wait-1", 429), ("503-wait-1", 503)):
            before = seen(model)["asked"]

            def check(result):
                self.failed(result, status, "upstream_error")
                self.assertEqual(result.headers["retry-after"], "1")
                first, second = result.attempts
                self.assertGreaterEqual(second - first, 0.9)

            self.each(check, model, stream=True, retries=1)
            self.assertEqual(seen(model)["asked"] - before, 2 * len(FLAVOURS))

    def test_nobody_is_told_to_wait_longer_than_a_minute(self):
        def check(result):
            self.failed(result, 429, "upstream_error")
            self.assertLessEqual(int(result.headers.get("retry-after", 0)), 60)
            self.assertLessEqual(int(result.headers.get("retry-after-ms", 0)), 60_000)

        self.each(check, "429-wait-300", stream=True)

    def test_a_backend_that_refuses_the_request_is_quoted(self):
        refusals = [("400", "context_length_exceeded"), ("404", "model_not_found"), ("422", "422")]
        for model, code in refusals:

            def check(result):
                self.failed(result, int(model), code)
                self.assertIn("the backend's own words", str(result.error))
                self.assertEqual(len(result.attempts), 1)

            for stream in (False, True):
                self.each(check, model, stream=stream, retries=2)

    def test_headways_own_words_never_quote_a_backend(self):
        for model in ("error-first", "500", "429"):
            self.each(lambda result: self.assertNotIn("own words", str(result.error)), model, stream=True)


class Failover(Test):
    def test_another_backend_makes_good_what_the_first_one_broke(self):
        for script in json.loads(os.environ["HEADWAY_FAILOVERS"]):
            before = seen(script)["asked"]

            def check(result):
                self.ended(result, "onetwo")
                self.assertEqual(result.headers["x-headway-backend"], f"failover-{script}-b")
                self.assertEqual(len(result.attempts), 1)

            self.each(check, f"failover-{script}", stream=True)
            # The policy takes turns, so that at least one request met the broken backend first.
            self.assertGreater(seen(script)["asked"], before)


class Breaks(Test):
    """Failures after the first token: never a whole answer, never a second attempt."""

    def broke(self, model, code=None):
        """With a code, the SDK's own error; without, whatever a broken connection raises."""

        def check(result):
            self.assertIsInstance(result.error, APIError if code else (APIError, *TRANSPORT))
            self.assertEqual(result.text, "onetwo")
            self.assertEqual(len(result.attempts), 1)
            self.assertEqual(getattr(result.error, "code", None), code)

        self.each(check, model, stream=True, retries=2)

    def test_between_events_the_error_has_a_name(self):
        self.broke("cut-between-events", "upstream_disconnected")

    def test_within_an_event_the_connection_breaks(self):
        for model in ("cut-within-event", "ended-within-event"):
            self.broke(model)

    def test_an_end_without_an_end_is_no_success(self):
        self.broke("ended-early", "upstream_disconnected")

    def test_silence_has_a_limit(self):
        self.broke("stalling", "idle_timeout")

    def test_a_backends_own_error_event_is_passed_on(self):
        self.broke("error-later", "boom")

    def test_simulated_nims_that_break(self):
        def check(result):
            self.assertIsInstance(result.error, (APIError, *TRANSPORT))
            self.assertNotIsInstance(result.error, APIStatusError)

        for model in ("error-in-the-middle", "cut-short"):
            self.each(check, model, stream=True)

    def test_simulated_nims_that_fail_at_once(self):
        def check(result):
            self.assertIsInstance(result.error, APIStatusError)
            self.assertGreaterEqual(result.error.status_code, 429)
            self.assertTrue(result.error.code)

        for model in ("nim-error-first", "empty", "refusing"):
            self.each(check, model, stream=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
