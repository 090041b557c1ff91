"""Keyboard, screen reader, colours and sizes."""

import base64
import unittest
from pathlib import Path

from chromium import SHIFT
from page_case import FINISHED, SCREENSHOTS, PageCase

CONTROLS = {"button", "textbox", "combobox", "spinbutton", "checkbox", "link", "DisclosureTriangle", "listbox", "region"}
LONG = "Sperm whales **dive** deep.\n\n- `one`\n- two\n\n```python\nprint('a line of code that is much wider than a phone')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nThe end."

# Every visible text with less contrast to what lies behind it than WCAG AA asks for (4.5 to 1).
LOW_CONTRAST = """(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const back = channels(getComputedStyle(e).backgroundColor);
      if (back.length === 3 || back[3] === 1) return back;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && e.clientHeight + e.offsetHeight > 0
    && ([...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim()) || /INPUT|TEXTAREA|SELECT/.test(e.tagName)));
  const low = texts.map((e) => {
    const [a, b] = [luminance(channels(getComputedStyle(e).color)), luminance(behind(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName + " " + e.textContent.slice(0, 30)];
  }).filter(([ratio]) => ratio < 4.5);
  return { seen: texts.length, low };
})()"""


# Mean brightness (0 to 255) of a PNG; in a page of its own, because the policy of the real one lets no such image in.
BRIGHTNESS = """(async (base64) => {
  const image = await createImageBitmap(await (await fetch("data:image/png;base64," + base64)).blob());
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  return data.reduce((sum, value, i) => i % 4 === 3 ? sum : sum + value, 0) / (data.length * 0.75);
})"""


class Access(PageCase):
    def converse(self):
        """A page with everything on it: thinking, text, a tool call, figures."""

        def answer(reply):
            reply.chunk(reasoning_content="a thought")
            reply.chunk(content=LONG)
            reply.call(0, "get_weather", '{"city": "Bergen"}')
            reply.end("tool_calls", prompt_tokens=340, completion_tokens=212, prompt_cache_hit_tokens=256)

        self.api.script = answer
        self.ask("How deep do sperm whales dive?")

    def focused(self):
        return self.page.evaluate(
            "(() => { const e = document.activeElement; return e.name || e.id || e.className || e.tagName; })()"
        )

    def test_every_control_has_a_name(self):
        self.converse()
        self.page.evaluate("document.getElementById('settings-panel').open = true")
        controls = [(role, name) for role, name in self.page.accessible_nodes() if role in CONTROLS]
        self.assertEqual([], [role for role, name in controls if not name.strip()])
        expected = {
            ("combobox", "Model"), ("button", "New chat"), ("DisclosureTriangle", "Settings"), ("textbox", "API key"),
            ("textbox", "System prompt"), ("combobox", "Thinking"), ("spinbutton", "Temperature"),
            ("spinbutton", "Top p"), ("spinbutton", "Max tokens"), ("textbox", "Tools"), ("region", "Conversation"),
            ("textbox", "Result of get_weather"), ("button", "Send results"), ("button", "Again"),
            ("textbox", "Message"), ("button", "Send"),
        }
        self.assertEqual(set(), expected - set(controls))

    def test_the_keyboard_is_enough(self):
        self.page.evaluate("document.getElementById('settings-panel').open = true")
        self.assertEqual("message", self.focused(), "the first key goes to the message")
        self.script({"reasoning_content": "hm"}, {"content": "yes"})
        self.page.type("one")
        self.page.press("Enter", SHIFT)
        self.page.type("two")
        self.assertEqual("one\ntwo", self.page.evaluate("document.activeElement.value"))
        self.page.press("Enter")
        self.page.wait(FINISHED)
        self.assertEqual("one\ntwo", self.last_request()["messages"][0]["content"])
        self.assertEqual(("message", ""), (self.focused(), self.page.evaluate("document.activeElement.value")))

        order = []
        for _ in range(16):
            self.page.press("Tab")
            order.append(self.focused())
        self.assertEqual(
            # From the message on; after the last control comes the browser's own bar.
            ["send", "BODY", "model", "new-chat", "SUMMARY", "api_key", "system", "thinking", "temperature", "top_p", "max_tokens",
             "tools", "conversation", "SUMMARY", "again", "message"],
            order,
        )
        # Back to the summary of the thinking: the space key unfolds it.
        self.page.evaluate("document.querySelector('.thinking summary').focus()")
        self.page.press("Space")
        self.page.wait("document.querySelector('.thinking').open")

    def test_an_empty_message_is_not_sent(self):
        self.page.type("  ")
        self.page.press("Enter")
        self.assertEqual(([], 0), (self.api.requests, self.page.evaluate("document.querySelectorAll('.answer').length")))

    def test_finished_blocks_are_announced_and_growing_ones_are_not(self):
        self.converse()
        live = "(e) => e.closest('[aria-live]')?.getAttribute('aria-live') ?? 'off'"
        self.assertEqual("polite", self.page.evaluate(f"({live})(document.querySelector('.answer .finished'))"))
        self.assertEqual("off", self.page.evaluate(f"({live})(document.querySelector('.answer .growing'))"))
        self.assertIn("The end.", self.page.text(".answer .finished"))
        self.assertEqual("", self.page.text(".answer .growing"))
        self.assertEqual("status", self.page.evaluate("document.getElementById('status').getAttribute('role')"))

    def test_light_and_dark_are_readable_and_differ(self):
        self.converse()
        self.page.evaluate("document.querySelector('.thinking').open = document.getElementById('settings-panel').open = true")
        viewer = self.browser.open("about:blank")
        self.addCleanup(viewer.close)
        brightness = {}
        for scheme in ("light", "dark"):
            self.page.emulate(scheme)
            found = self.page.evaluate(LOW_CONTRAST)
            self.assertGreater(found["seen"], 30)
            self.assertEqual([], found["low"], scheme)
            picture = base64.b64encode(self.page.screenshot(Path(SCREENSHOTS) / f"{scheme}.png")).decode()
            brightness[scheme] = viewer.evaluate(f"{BRIGHTNESS}('{picture}')")
        self.assertGreater(brightness["light"], 200)
        self.assertLess(brightness["dark"], 80)

    def test_errors_are_readable(self):
        self.expected_problems = ("Failed to load resource",)
        self.api.script = lambda reply: reply.status(400, {"error": {"message": "must be at most 2", "param": "top_p"}})
        self.ask("well?")
        for scheme in ("light", "dark"):
            self.page.emulate(scheme)
            self.assertEqual([], self.page.evaluate(LOW_CONTRAST)["low"], scheme)
        self.page.screenshot(Path(SCREENSHOTS) / "error.png")

    def test_a_phone_shows_everything(self):
        self.page.emulate(width=360, height=640, mobile=True)
        self.converse()
        self.page.screenshot(Path(SCREENSHOTS) / "phone.png")
        for opened in ("false", "true"):
            self.page.evaluate(f"document.getElementById('settings-panel').open = {opened}")
            wide = self.page.evaluate("""[...document.querySelectorAll("body *")].filter((e) => e.checkVisibility()
              && e.getBoundingClientRect().right > 360 && !e.closest("pre, .table")).map((e) => e.outerHTML.slice(0, 80))""")
            self.assertEqual([], wide, "wider than the phone")
            self.assertLessEqual(self.page.evaluate("document.scrollingElement.scrollHeight"), 640)
            send = self.page.evaluate("document.getElementById('send').getBoundingClientRect().toJSON()")
            self.assertTrue(send["bottom"] <= 640 and send["height"] >= 40 and send["width"] >= 40, send)
        self.page.screenshot(Path(SCREENSHOTS) / "phone-settings.png")


if __name__ == "__main__":
    unittest.main()
