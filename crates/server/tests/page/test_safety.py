"""What a model, a server or a reader writes stays text, and the reader's key stays in the tab."""

import unittest
import urllib.request

from page_case import API_KEY, SERVER, PageCase

ATTACK = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script><svg onload="window.hacked=1">'


class Safety(PageCase):
    expected_problems = ("Failed to load resource",)

    def check_harmless(self, shown):
        self.assertIn(ATTACK, shown)
        self.assertFalse(self.page.evaluate("'hacked' in window"))
        strange = "document.querySelectorAll('body script, svg, iframe, img:not([src=\"page/icon.svg\"])').length"
        self.assertEqual(0, self.page.evaluate(strange))

    def test_text_stays_text_wherever_it_comes_from(self):
        def answer(reply):
            reply.chunk(reasoning_content=ATTACK)
            for text in (ATTACK, f"\n\n# {ATTACK}\n\n- {ATTACK}\n\n```{ATTACK}\n{ATTACK}\n```\n\n| {ATTACK} |\n\n**{ATTACK}**"):
                reply.chunk(content=text)
            reply.call(0, ATTACK, ATTACK)
            reply.end("tool_calls")

        self.api.script = answer
        self.ask(ATTACK)
        for part in (".question", ".thinking div", ".answer .text p", ".text h3", ".text li", ".text pre", ".text td",
                     ".text strong", ".call h2", ".call pre"):
            self.check_harmless(self.page.text(part))

    def test_an_error_stays_text(self):
        self.api.script = lambda reply: reply.status(400, {"error": {"message": ATTACK, "param": ATTACK}})
        self.ask("well?")
        self.check_harmless(self.page.text(".error"))
        self.api.script = lambda reply: reply.status(502, ATTACK)
        self.ask("well?")
        self.check_harmless(self.page.text(".answer:last-child .error"))

    def test_a_models_name_stays_text(self):
        self.api.models = lambda reply, headers: reply.status(200, {"data": [{"id": ATTACK}]})
        self.open(self.api.url)
        self.page.wait("document.querySelector('#model option')")
        self.check_harmless(self.page.text("#model"))

    def test_the_key_is_sent_and_kept_in_the_tab_only(self):
        seen = []

        def models(reply, headers):
            seen.append(headers["authorization"])
            reply.status(200, {"data": [{"id": "tester"}]})

        self.api.models = models
        self.script({"content": "ok"})
        self.set("api_key", "sk-secret")
        self.page.evaluate("document.querySelector('#composer textarea').focus()")
        self.page.wait("document.getElementById('status').textContent === 'Ready'")
        self.ask("hello")
        self.assertEqual("Bearer sk-secret", {k.lower(): v for k, v in self.api.requests[-1][0].items()}["authorization"])
        self.assertEqual(["Bearer sk-secret"], seen, "with the new key, the models are asked for again")
        self.assertNotIn("sk-secret", str(self.page.requests) + str(self.last_request()))
        self.assertEqual(["", 0], self.page.evaluate("[document.cookie, localStorage.length]"))
        self.page.command("Page.reload")
        self.page.wait("document.querySelector('[name=api_key]')?.value === 'sk-secret'")
        self.open(self.api.url)
        self.assertEqual("", self.page.evaluate("document.querySelector('[name=api_key]').value"), "another tab")
        self.assertEqual("password", self.page.evaluate("document.querySelector('[name=api_key]').type"))


class Policy(PageCase):
    # Each of these tests breaks the policy, and the browser says so.
    expected_problems = ("Content Security Policy", "requires 'Trusted", "Trusted", "violates")

    def test_no_text_can_become_html(self):
        refused = self.page.evaluate("(() => { try { document.body.innerHTML = '<b>x'; } catch (e) { return e.name; } })()")
        self.assertEqual("TypeError", refused)

    def test_no_inline_script_or_style_and_no_request_elsewhere(self):
        count = """new Promise((resolve) => {
          const refused = [];
          document.addEventListener("securitypolicyviolation", (event) => {
            refused.push(event.effectiveDirective);
            if (refused.length === 3) resolve(refused.sort());
          });
          document.body.append(Object.assign(document.createElement("style"), { textContent: "b { color: red }" }));
          document.body.append(Object.assign(document.createElement("img"), { src: "http://127.0.0.2:9/x.png" }));
          fetch("http://127.0.0.2:9/").catch(() => {});
          setTimeout(() => resolve(refused), 5000);
        })"""
        self.assertEqual(["connect-src", "img-src", "style-src-elem"], self.page.evaluate(count))
        self.page.requests = [url for url in self.page.requests if "127.0.0.2" not in url]

    def test_the_headers_of_every_file(self):
        paths = {url.removeprefix(self.api.url) for url in self.page.requests if "/v1/" not in url}
        self.assertEqual(7, len(paths), paths)
        for path in paths:
            with urllib.request.urlopen(f"{SERVER}/{path}") as answer:
                policy = answer.headers["content-security-policy"]
                self.assertTrue(policy.startswith("default-src 'none'"), path)
                self.assertIn("frame-ancestors 'none'", policy)
                self.assertNotIn("unsafe", policy)
                self.assertEqual("nosniff", answer.headers["x-content-type-options"])


if __name__ == "__main__":
    unittest.main()
