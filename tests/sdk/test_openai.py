#!/usr/bin/env python3
"""The OpenAI Python SDK against headway: what works directly works through the proxy, and every failure is a typed one.

Run by tests/sdk/stack.py, in an environment that has the `openai` package.
"""

import os
import unittest

import openai
from openai import OpenAI

CLIENT = OpenAI(base_url=os.environ["HEADWAY_URL"] + "/v1", api_key="none", max_retries=0, timeout=20.0)
MESSAGES = [{"role": "user", "content": "Say something."}]
TOKENS = 16


def chat(model, **more):
    return CLIENT.chat.completions.create(model=model, messages=MESSAGES, max_tokens=TOKENS, **more)


def complete(model, **more):
    return CLIENT.completions.create(model=model, prompt="Say something.", max_tokens=TOKENS, **more)


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


class Answers(unittest.TestCase):
    def test_chat(self):
        answer = chat("well")
        self.assertTrue(answer.choices[0].message.content)
        self.assertIn(answer.choices[0].finish_reason, ("stop", "length"))
        self.assertGreater(answer.usage.completion_tokens, 0)

    def test_chat_streamed(self):
        chunks = list(chat("well", stream=True))
        self.assertTrue(text_of(chunks))
        self.assertIn(chunks[-1].choices[0].finish_reason, ("stop", "length"))
        self.assertTrue(all(chunk.usage is None for chunk in chunks), "a usage chunk that nobody asked for")

    def test_chat_streamed_with_usage(self):
        chunks = list(chat("well", stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[-1].choices, [])
        self.assertGreater(chunks[-1].usage.completion_tokens, 0)

    def test_completions(self):
        answer = complete("well")
        self.assertTrue(answer.choices[0].text)
        self.assertGreater(answer.usage.completion_tokens, 0)

    def test_completions_streamed(self):
        chunks = list(complete("well", stream=True))
        self.assertTrue("".join(chunk.choices[0].text for chunk in chunks if chunk.choices))
        self.assertIn(chunks[-1].choices[0].finish_reason, ("stop", "length"))

    def test_models(self):
        self.assertIn("well", {model.id for model in CLIENT.models.list()})

    def test_every_answer_names_its_request(self):
        answer = CLIENT.with_options(default_headers={"x-request-id": "sdk-1"}).chat.completions.with_raw_response.create(
            model="well", messages=MESSAGES, max_tokens=1
        )
        self.assertEqual(answer.request_id, "sdk-1")

    def test_a_client_may_leave_a_stream(self):
        for _ in range(3):
            with chat("well", stream=True) as stream:
                next(iter(stream))
        self.assertTrue(chat("well").choices[0].message.content)


class Failures(unittest.TestCase):
    def expect(self, status, code, kind, **request):
        for stream in (False, True):
            with self.subTest(stream=stream), self.assertRaises(kind) as caught:
                answer = chat(stream=stream, **request)
                if stream:
                    list(answer)
            self.assertEqual((caught.exception.status_code, caught.exception.code), (status, code))

    def test_a_model_that_nobody_serves(self):
        self.expect(404, "model_not_found", openai.NotFoundError, model="nobody")

    def test_a_body_that_is_no_request(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            CLIENT.post("/chat/completions", cast_to=object, body=[1])
        self.assertEqual(caught.exception.status_code, 400)
        self.assertTrue(caught.exception.code)

    def test_a_path_that_is_none(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            CLIENT.get("/nothing", cast_to=object)
        self.assertEqual(caught.exception.code, "not_found")

    def test_a_backend_that_breaks_before_its_first_token(self):
        for model, seen in (("error-first", (500, "upstream_error")), ("empty", (502, "upstream_empty"))):
            with self.subTest(model), self.assertRaises(openai.InternalServerError) as caught:
                list(chat(model, stream=True))
            self.assertEqual((caught.exception.status_code, caught.exception.code), seen)

    def test_a_backend_that_refuses(self):
        self.expect(503, "upstream_error", openai.InternalServerError, model="refusing")

    def test_a_backend_that_cannot_be_reached(self):
        with self.assertRaises(openai.InternalServerError) as caught:
            chat("unreachable")
        seen = (caught.exception.status_code, caught.exception.code)
        # Which of the two depends on whether a health check came first.
        self.assertIn(seen, ((502, "upstream_connect_failed"), (503, "no_healthy_backend")))

    def test_a_stream_that_breaks_is_never_a_whole_one(self):
        for model in ("error-in-the-middle", "cut-short"):
            with self.subTest(model), self.assertRaises(openai.APIError) as caught:
                list(chat(model, stream=True))
            self.assertNotIsInstance(caught.exception, openai.APIStatusError)

    def test_a_stream_that_is_cut_short_says_so(self):
        with self.assertRaises(openai.APIError) as caught:
            list(chat("cut-short", stream=True))
        self.assertEqual(caught.exception.code, "upstream_disconnected")


if __name__ == "__main__":
    unittest.main(verbosity=2)
