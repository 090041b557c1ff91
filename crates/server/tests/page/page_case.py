"""What the page's tests share: one browser for a module, a fresh tab for a test, and what must hold after each."""

import os
import unittest

from chromium import Browser
from fake_api import FakeApi

SERVER = os.environ["PAGE_TEST_SERVER"]
API_KEY = os.environ["PAGE_TEST_KEY"]
SCREENSHOTS = os.environ["PAGE_TEST_SCREENSHOTS"]

FINISHED = "document.querySelector('.answer:last-child .again:not([hidden])')"


class PageCase(unittest.TestCase):
    """A tab on the real page in front of the scripted API; `self.page` and `self.api`."""

    # Console lines that a test expects: a failed request is one.
    expected_problems = ()

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)
        cls.api = FakeApi(SERVER)
        cls.addClassCleanup(cls.api.close)

    def setUp(self):
        self.api.reset()
        self.api.models = lambda reply, headers: reply.status(200, {"data": [{"id": "tester"}]})
        self.open(self.api.url)

    def open(self, url):
        self.page = self.browser.open(url)
        self.addCleanup(self.page.close)
        self.page.emulate()
        self.page.wait("document.getElementById('status').textContent !== ''")

    def tearDown(self):
        origin = self.page.evaluate("location.origin + '/'")
        elsewhere = [url for url in self.page.requests if not url.startswith(origin)]
        self.assertEqual([], elsewhere, "requests left the origin")
        self.assertGreater(len(self.page.requests), 5, "requests are not recorded")
        problems = [p for p in self.page.problems if not any(part in p for part in self.expected_problems)]
        self.assertEqual([], problems, "the console or the policy complained")

    def script(self, *deltas, finish_reason="stop", **usage):
        """Lets the API answer every question with these deltas."""

        def answer(reply):
            for delta in deltas:
                reply.chunk(**delta)
            reply.end(finish_reason, **usage)

        self.api.script = answer

    def ask(self, question):
        """Types a question, sends it with Enter, and waits for the end of the answer."""
        self.page.evaluate("document.querySelector('#composer textarea').focus()")
        self.page.type(question)
        answers = self.page.evaluate("document.querySelectorAll('.answer').length")
        self.page.press("Enter")
        self.page.wait(f"document.querySelectorAll('.answer').length > {answers} && {FINISHED}")

    def set(self, name, value):
        """Fills in a field of the settings as a reader does."""
        self.page.evaluate("document.getElementById('settings-panel').open = true")
        field = f"document.querySelector('#settings [name={name}]')"
        if self.page.evaluate(f"{field}.tagName") == "SELECT":
            self.page.evaluate(f"({field}.value = '{value}', {field}.dispatchEvent(new Event('input', {{bubbles: true}})))")
            return
        self.page.evaluate(f"({field}.focus(), {field}.select())")
        self.page.type(value)

    def last_request(self):
        return self.api.requests[-1][1]
