"""The page against the real server and its demo model, with nothing in between."""

import json
import re
import time
import unittest
import urllib.request

from chromium import PATIENCE_S
from page_case import API_KEY, FINISHED, SERVER, PageCase

CALCULATOR = {
    "name": "calculator",
    "description": "Evaluate an arithmetic expression.",
    "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
}

STORIES = 20


class RealServer(PageCase):
    # The page asks for the models before it has a key.
    expected_problems = ("401",)

    def setUp(self):
        super().setUp()
        self.open(f"{SERVER}/")
        self.page.wait("document.getElementById('status').textContent.startsWith('401')")
        self.assertEqual("api_key", self.page.evaluate("document.activeElement.name"), "the key is asked for")
        self.set("api_key", API_KEY)
        self.set("temperature", "0")
        self.page.wait("document.querySelector('#model option')")

    def text(self):
        return self.page.text(".answer:last-child .text").strip()

    def test_an_answer_streams_in_with_its_figures(self):
        self.set("thinking", "disabled")
        self.page.evaluate("""(window.lengths = new Set(), new MutationObserver(() =>
          window.lengths.add(document.querySelector('.answer .text')?.textContent.length))
          .observe(document.getElementById('conversation'), {subtree: true, childList: true, characterData: true}), 0)""")
        self.ask("Tell me a story.")
        story = self.text()
        self.assertGreater(len(story.split()), 20)
        self.assertGreater(self.page.evaluate("window.lengths.size"), 5, "the text came in one piece")
        self.assertRegex(
            self.page.text(".figures"),
            r"^\d+ tokens · \d+\.\d tokens/s · first after \d+\.\d\d s · \d+ of \d+ prompt tokens from the cache$",
        )
        # The second turn begins with the first, so part of its prompt is in the cache.
        self.ask("What is 12 + 30?")
        self.assertEqual("12 + 30 = 42", self.text())
        hits = self.page.text(".answer:last-child .figures").split(" · ")[3].split()[0]
        self.assertGreater(int(hits), 0)

    def test_thinking_is_apart_from_the_answer(self):
        self.set("thinking", "enabled")
        self.ask("What is 12 + 30?")
        self.assertEqual("12 + 30 = 42", self.text())
        self.assertRegex(self.page.text(".thinking summary"), r"^Thought for \d+\.\d s, \d+ tokens$")
        self.assertNotEqual("", self.page.text(".thinking div"))
        self.assertNotIn("think>", self.page.text("#conversation"))

    def test_a_tool_is_called_and_its_result_answered(self):
        self.set("thinking", "disabled")
        self.set("tools", json.dumps([{"type": "function", "function": CALCULATOR}]))
        self.ask("What is 435 * 430?")
        self.assertEqual("Tool call calculator", self.page.text(".call h2"))
        self.assertEqual({"expression": "435 * 430"}, json.loads(self.page.text(".call pre")))
        self.page.evaluate("document.querySelector('.call textarea').focus()")
        self.page.type("187050")
        self.page.press("Enter")
        self.page.wait("document.querySelectorAll('.answer').length === 2 && " + FINISHED)
        self.assertIn("187050", self.text().replace(",", ""))

    def test_stop_ends_the_work_of_the_server(self):
        self.set("thinking", "disabled")
        self.ask("Tell me a story.")
        whole = self.text()
        # A fast server on a busy machine may be through with a story before its first words are drawn: then there is
        # nothing to stop, and another one is asked for.
        for _ in range(STORIES):
            self.stop_at_the_first_text("Tell me a story.")
            if self.ended_as("abort"):
                break
        else:
            self.fail(f"{STORIES} stories were stopped on the page, none at the server")
        self.assertEqual("Stopped.", self.page.text(".figures"))
        self.assertTrue(whole.startswith(self.text()) and len(self.text()) < len(whole))

    def stop_at_the_first_text(self, question):
        """Asks in a new chat, and stops the answer once some of it is drawn. Returns when the server is idle."""
        self.page.click("#new-chat")
        self.page.evaluate("""new MutationObserver((_, observer) => {
          if (!document.querySelector('.answer .growing')?.textContent.trim()) return;
          observer.disconnect();
          document.getElementById('stop').click();
        }).observe(document.getElementById('conversation'), {subtree: true, childList: true, characterData: true})""")
        self.ask(question)
        # The page is done at once, the server when it sees that nobody listens.
        deadline = time.monotonic() + PATIENCE_S
        while (working := self.working()) != (0, 0):
            self.assertLess(time.monotonic(), deadline, f"(running, waiting) is {working} without a reader")
            time.sleep(0.02)

    def working(self):
        """The sequences that the server computes and those that wait."""
        with urllib.request.urlopen(f"{SERVER}/health") as answer:
            health = json.load(answer)
        return health["running"], health["waiting"]

    def ended_as(self, reason):
        """How many requests ended for this reason so far."""
        request = urllib.request.Request(f"{SERVER}/metrics", headers={"Authorization": f"Bearer {API_KEY}"})
        with urllib.request.urlopen(request) as answer:
            metrics = answer.read().decode()
        found = re.search(rf'^vllm:request_success_total{{.*finished_reason="{reason}".*}} (\d+)$', metrics, re.MULTILINE)
        return int(found[1])

    def test_what_the_server_refuses_is_told(self):
        self.expected_problems = ("401", "400")
        self.set("top_p", "7")
        self.ask("hello")
        self.assertRegex(self.page.text(".error"), r"^400: .*top_p")


if __name__ == "__main__":
    unittest.main()
