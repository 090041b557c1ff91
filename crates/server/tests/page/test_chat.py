"""The conversation: streaming, thinking, tool calls, figures, stopping, errors, and what is sent back."""

import json
import threading
import time
import unittest

from chromium import PATIENCE_S
from page_case import FINISHED, PageCase

USAGE = {
    "prompt_tokens": 340,
    "completion_tokens": 212,
    "total_tokens": 552,
    "prompt_cache_hit_tokens": 256,
    "completion_tokens_details": {"reasoning_tokens": 40},
}
TOOL = '[{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]'


class Chat(PageCase):
    def test_text_is_shown_as_it_streams(self):
        step = threading.Semaphore(0)

        def answer(reply):
            for word in ("one ", "two ", "three"):
                reply.chunk(content=word)
                assert step.acquire(timeout=PATIENCE_S)
            reply.end()

        self.api.script = answer
        self.page.type("count")
        self.page.press("Enter")
        for shown in ("one", "one two", "one two three"):
            self.page.wait(f"document.querySelector('.answer .text').textContent.trim() === '{shown}'")
            self.assertEqual("Answering", self.page.text("#status"))
            step.release()
        self.page.wait(FINISHED)
        self.assertEqual("Ready", self.page.text("#status"))
        self.assertEqual("count", self.page.text(".question"))

    def test_thinking_is_folded_and_opens(self):
        self.script({"reasoning_content": "let me see"}, {"content": "yes"}, **USAGE)
        self.ask("well?")
        self.assertFalse(self.page.evaluate("document.querySelector('.thinking').open"))
        self.assertRegex(self.page.text(".thinking summary"), r"^Thought for \d+\.\d s, 40 tokens$")
        self.page.click(".thinking summary")
        self.assertTrue(self.page.evaluate("document.querySelector('.thinking div').checkVisibility()"))
        self.assertEqual("let me see", self.page.text(".thinking div"))
        self.assertEqual("yes", self.page.text(".answer .text").strip())

    def test_without_thinking_there_is_nothing_to_unfold(self):
        self.script({"content": "yes"})
        self.ask("well?")
        self.assertFalse(self.page.evaluate("document.querySelector('.thinking').checkVisibility()"))

    def test_figures_come_from_the_usage(self):
        # The page's clock stands still but for what the test adds.
        self.page.evaluate("(window.clock = 1000, performance.now = () => window.clock, 0)")
        step = threading.Semaphore(0)

        def answer(reply):
            for word in ("a", "b"):
                assert step.acquire(timeout=PATIENCE_S)
                reply.chunk(content=word)
            reply.end("length", **USAGE)

        self.api.script = answer
        self.page.type("figures?")
        self.page.press("Enter")
        self.page.wait("document.querySelector('.answer')")
        self.page.evaluate("window.clock += 250")
        step.release()
        self.page.wait("document.querySelector('.answer .text').textContent.trim() === 'a'")
        self.page.evaluate("window.clock += 2000")
        step.release()
        self.page.wait(FINISHED)
        self.assertEqual(
            # 211 tokens came after the first, in two seconds.
            "212 tokens · 105.5 tokens/s · first after 0.25 s · 256 of 340 prompt tokens from the cache · ended by length",
            self.page.text(".figures"),
        )

    def test_the_next_question_brings_the_conversation_but_not_the_thinking(self):
        self.script({"reasoning_content": "hm"}, {"content": "first answer"})
        self.ask("first question")
        self.ask("second question")
        self.assertEqual(
            [
                {"role": "user", "content": "first question"},
                {"role": "assistant", "content": "first answer"},
                {"role": "user", "content": "second question"},
            ],
            self.last_request()["messages"],
        )
        self.page.click("#new-chat")
        self.ask("another")
        self.assertEqual([{"role": "user", "content": "another"}], self.last_request()["messages"])
        self.assertEqual(1, self.page.evaluate("document.querySelectorAll('.answer').length"))

    def test_settings_fill_the_request_and_empty_ones_are_left_out(self):
        self.script({"content": "ok"})
        self.ask("plain")
        plain = {"model": "tester", "messages": [{"role": "user", "content": "plain"}]}
        self.assertEqual(
            plain | {"stream": True, "stream_options": {"include_usage": True}}, self.last_request()
        )
        fields = {"temperature": "0.5", "top_p": "0.25", "max_tokens": "77", "thinking": "disabled", "system": "Be brief."}
        for name, value in fields.items():
            self.set(name, value)
        self.page.click("#new-chat")
        self.ask("set")
        sent = self.last_request()
        self.assertEqual((0.5, 0.25, 77), (sent["temperature"], sent["top_p"], sent["max_tokens"]))
        self.assertEqual({"type": "disabled"}, sent["thinking"])
        self.assertEqual({"role": "system", "content": "Be brief."}, sent["messages"][0])

    def test_again_asks_the_same_question_anew(self):
        self.script({"content": "one"})
        self.ask("which?")
        self.script({"content": "two"})
        self.page.click(".again")
        self.page.wait("document.querySelector('.answer .text').textContent.trim() === 'two'")
        self.page.wait(FINISHED)
        self.assertEqual([{"role": "user", "content": "which?"}], self.last_request()["messages"])
        self.assertEqual(1, self.page.evaluate("document.querySelectorAll('.answer').length"))


class ToolCalls(PageCase):
    def setUp(self):
        super().setUp()

        def answer(reply):
            reply.chunk(reasoning_content="two cities")
            reply.call(0, "get_weather", '{"city": "Bergen"}')
            reply.call(1, "get_weather", '{"city": "Oslo"}')
            reply.end("tool_calls")

        self.api.script = answer
        self.set("tools", TOOL)
        self.ask("weather?")

    def test_calls_are_shown_and_their_results_go_back(self):
        self.assertEqual("get_weather", self.last_request()["tools"][0]["function"]["name"])
        shown = self.page.evaluate("[...document.querySelectorAll('.call')].map((c) => c.innerText)")
        self.assertEqual(2, len(shown))
        self.assertIn("Tool call get_weather", shown[0])
        self.assertIn('"city": "Bergen"', shown[0])
        self.assertIn('"city": "Oslo"', shown[1])

        self.script({"content": "Rain and sun."})
        for index, weather in enumerate(("rain", "sun")):
            self.page.evaluate(f"document.querySelectorAll('.call textarea')[{index}].focus()")
            self.page.type(weather)
        self.page.click(".call:last-child button")
        self.page.wait("document.querySelectorAll('.answer').length === 2 && " + FINISHED)
        call = lambda i, city: {
            "id": f"call_{i}",
            "type": "function",
            "function": {"name": "get_weather", "arguments": f'{{"city": "{city}"}}'},
        }
        self.assertEqual(
            [
                {"role": "user", "content": "weather?"},
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning_content": "two cities",
                    "tool_calls": [call(0, "Bergen"), call(1, "Oslo")],
                },
                {"role": "tool", "tool_call_id": "call_0", "content": "rain"},
                {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
            ],
            self.last_request()["messages"],
        )
        self.assertFalse(self.page.evaluate("document.querySelector('.call:last-child button').checkVisibility()"))
        self.assertTrue(self.page.evaluate("document.querySelector('.call textarea').readOnly"))

    def test_tools_that_are_no_json_are_not_sent(self):
        before = len(self.api.requests)
        self.set("tools", "[{")
        self.ask("again")
        self.assertIn("Tools", self.page.text(".answer:last-child .error"))
        self.assertEqual(before, len(self.api.requests))


class Stopping(PageCase):
    def setUp(self):
        super().setUp()
        self.sent = 0
        self.hung_up = threading.Event()

        def endless(reply):
            reply.chunk(reasoning_content="hm ")
            try:
                for self.sent in range(100_000):
                    reply.chunk(content=f"word{self.sent} ")
                    time.sleep(0.01)
            except OSError:
                self.hung_up.set()

        self.api.script = endless
        self.page.type("go on")
        self.page.press("Enter")
        self.page.wait("document.querySelector('.answer .text').textContent.includes('word5')")

    def check_stopped(self):
        self.page.wait(FINISHED)
        self.assertTrue(self.hung_up.wait(PATIENCE_S), "the request goes on")
        words = self.page.text(".answer .text").split()
        self.assertTrue(5 < len(words) < 100_000)
        self.assertEqual("Stopped.", self.page.text(".figures"))
        self.assertEqual("composer", self.page.evaluate("document.activeElement.form.id"))
        self.assertTrue(self.page.evaluate("document.getElementById('send').checkVisibility()"))
        self.assertFalse(self.page.evaluate("document.querySelector('.answer .error').checkVisibility()"))
        # What was said so far is part of the conversation.
        self.script({"content": "ok"})
        self.ask("enough")
        said = self.last_request()["messages"][1]
        self.assertEqual({"role": "assistant", "content": " ".join(words) + " "}, said)

    def test_the_button_stops(self):
        self.page.click("#stop")
        self.check_stopped()

    def test_escape_stops(self):
        self.page.press("Escape")
        self.check_stopped()

    def test_a_new_chat_stops_too(self):
        self.page.click("#new-chat")
        self.assertTrue(self.hung_up.wait(PATIENCE_S), "the request goes on")
        self.assertEqual(0, self.page.evaluate("document.querySelectorAll('.answer').length"))
        self.script({"content": "ok"})
        self.ask("hello")
        self.assertEqual([{"role": "user", "content": "hello"}], self.last_request()["messages"])


class Errors(PageCase):
    expected_problems = ("Failed to load resource",)

    def failure(self, script):
        self.api.script = script
        self.ask("well?")
        self.assertEqual("alert", self.page.evaluate("document.querySelector('.error').getAttribute('role')"))
        self.assertTrue(self.page.evaluate("document.querySelector('.error').checkVisibility()"))
        return self.page.text(".error")

    def error(self, message, param=None):
        return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}

    def test_what_the_api_says_is_shown_with_the_field(self):
        said = self.failure(lambda reply: reply.status(400, self.error("must be at most 2, found 5", "temperature")))
        self.assertEqual("400: must be at most 2, found 5 (temperature)", said)
        # Once it is put right, the same question can be sent.
        self.script({"content": "fine"})
        self.page.click(".again")
        self.page.wait("document.querySelector('.answer .text').textContent.trim() === 'fine'")

    def test_a_missing_key_is_asked_for(self):
        self.assertIn("401: no key", self.failure(lambda reply: reply.status(401, self.error("no key"))))
        self.assertTrue(self.page.evaluate("document.getElementById('settings-panel').open"))
        self.assertEqual("api_key", self.page.evaluate("document.activeElement.name"))

    def test_the_time_to_wait_is_shown(self):
        said = self.failure(lambda reply: reply.status(429, self.error("too many"), retry_after=7))
        self.assertEqual("429: too many Try again in 7 s.", said)

    def test_an_error_that_is_no_json(self):
        self.assertEqual("502: Bad gateway", self.failure(lambda reply: reply.status(502, "Bad gateway")))

    def test_an_error_in_the_middle_of_a_stream(self):
        def answer(reply):
            reply.chunk(content="so far ")
            reply.raw('data: {"error": {"message": "the device is lost", "param": null}}\n\n')

        self.assertEqual("the device is lost", self.failure(answer))
        self.assertEqual("so far", self.page.text(".answer .text").strip())

    def test_an_answer_without_its_end_is_not_taken_for_whole(self):
        self.assertIn("in the middle", self.failure(lambda reply: reply.chunk(content="so far")))

    def test_keep_alive_comments_are_no_text(self):
        def answer(reply):
            reply.raw(": keep-alive\n\n")
            reply.chunk(content="here")
            reply.raw(": keep-alive\n\n")
            reply.end()

        self.api.script = answer
        self.ask("well?")
        self.assertEqual("here", self.page.text(".answer .text").strip())

    def test_packets_may_end_anywhere(self):
        """In a line, in a character, between CR and LF: the stream is cut into single bytes."""
        events = ": wait\r\n\r\n" + "".join(
            f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': text}}]}, ensure_ascii=False)}\r\n\r\n"
            for text in ("Pottwal ", "抹香鯨 ", "kaškelot 🐋")
        ) + "data: [DONE]\n\n"
        fetch_bytewise = """((events) => {
          const bytes = new TextEncoder().encode(events);
          let sent = 0;
          window.fetch = async () => new Response(new ReadableStream({
            pull: (stream) => sent < bytes.length ? stream.enqueue(bytes.slice(sent, ++sent)) : stream.close(),
          }));
        })"""
        self.page.evaluate(f"{fetch_bytewise}({json.dumps(events)})")
        self.ask("name?")
        self.assertEqual("Pottwal 抹香鯨 kaškelot 🐋", self.page.text(".answer .text").strip())
        self.assertFalse(self.page.evaluate("document.querySelector('.error').checkVisibility()"))

    def test_a_cut_call_is_not_taken_for_one(self):
        def answer(reply):
            first = {"index": 0, "id": "call_0", "type": "function"}
            reply.chunk(tool_calls=[{**first, "function": {"name": "get_weather", "arguments": '{"ci'}}])

        self.failure(answer)
        self.assertFalse(self.page.evaluate("document.querySelector('.call textarea').checkVisibility()"))
        self.script({"content": "ok"})
        self.ask("and now?")
        self.assertEqual(["user", "user"], [m["role"] for m in self.last_request()["messages"]])


if __name__ == "__main__":
    unittest.main()
