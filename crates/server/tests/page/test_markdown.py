"""Markdown: what becomes what, and that it does not matter how the text was cut on its way."""

import json
import unittest

from page_case import PageCase

# The shape of a node: text as it is, an element as [tag, children...].
SHAPE = """
const shape = (node) => node.nodeType === Node.TEXT_NODE
  ? node.data : [node.tagName.toLowerCase(), ...[...node.childNodes].map(shape)];
const render = async (parts) => {
  const { MarkdownView } = await import("/page/markdown.js");
  const [finished, growing] = [document.createElement("div"), document.createElement("div")];
  const view = new MarkdownView(finished, growing);
  for (const part of parts) view.append(part);
  view.finish();
  finished.normalize();
  return [...finished.childNodes].map(shape).filter((node) => Array.isArray(node) || node.trim());
};
"""

EXAMPLES = {
    "two\nlines\n\nand more": [["p", "two\nlines"], ["p", "and more"]],
    "a **b** c *d* e `f*g*`": [["p", "a ", ["strong", "b"], " c ", ["em", "d"], " e ", ["code", "f*g*"]]],
    "2 * 3 * 4 and **open": [["p", "2 * 3 * 4 and **open"]],
    "**a `b` c**": [["p", ["strong", "a ", ["code", "b"], " c"]]],
    "# T\n## **U**\ntext": [["h3", "T"], ["h4", ["strong", "U"]], ["p", "text"]],
    "- a\n- b\n  - c\n    more\n- d": [
        ["ul", ["li", "a"], ["li", "b", ["ul", ["li", "c\nmore"]]], ["li", "d"]]
    ],
    "3. a\n4. b": [["ol", ["li", "a"], ["li", "b"]]],
    "x\n```py\n- a\n\n# b\n```\ny": [["p", "x"], ["pre", ["code", "- a\n\n# b"]], ["p", "y"]],
    "```\nnot closed": [["pre", ["code", "not closed"]]],
    "a\n\n---\n\nb": [["p", "a"], ["hr"], ["p", "b"]],
    "| a | b |\n|---|:-:|\n| 1 | **2** |": [
        ["div", ["table", ["tr", ["th", "a"], ["th", "b"]], ["tr", ["td", "1"], ["td", ["strong", "2"]]]]]
    ],
    "<b>x</b> &amp; [l](http://x.y/) ![i](http://x.y/z.png)": [
        ["p", "<b>x</b> &amp; [l](http://x.y/) ![i](http://x.y/z.png)"]
    ],
}


class Markdown(PageCase):
    def render(self, parts):
        return self.page.evaluate(f"(async () => {{ {SHAPE} return render({json.dumps(parts)}); }})()")

    def test_examples(self):
        for text, shape in EXAMPLES.items():
            with self.subTest(text):
                self.assertEqual(shape, self.render([text]))

    def test_any_cut_gives_the_same(self):
        text = "\n\n".join(EXAMPLES).replace("not closed", "closed\n```")
        whole = self.render([text])
        self.assertGreater(len(whole), 15)
        for size in (1, 2, 3, 7):
            parts = [text[i : i + size] for i in range(0, len(text), size)]
            self.assertEqual(whole, self.render(parts), f"parts of {size}")
        self.assertEqual(1, self.page.evaluate(
            f"(async () => {{ {SHAPE} let bad = 0; const text = {json.dumps(text)};"
            " const whole = JSON.stringify(await render([text]));"
            " for (let i = 1; i < text.length; i++)"
            " bad += JSON.stringify(await render([text.slice(0, i), text.slice(i)])) !== whole;"
            " return bad + 1; })()"
        ), "some cut in two gives another page")

    def test_a_finished_block_is_never_touched_again(self):
        """It is read aloud when it appears; drawn anew, it would be read anew."""
        self.assertTrue(self.page.evaluate("""(async () => {
          const { MarkdownView } = await import("/page/markdown.js");
          const [finished, growing] = [document.createElement("div"), document.createElement("div")];
          const view = new MarkdownView(finished, growing);
          view.append("one\\n\\ntwo\\n\\nth");
          const first = finished.firstChild;
          if (first?.textContent !== "one" || growing.textContent.trim() !== "th") return false;
          view.append("ree\\n\\nfour");
          return finished.firstChild === first && finished.textContent.includes("two");
        })()"""))

    def test_long_answers_cost_their_length(self):
        """Each piece looks at the open block alone: the parser sees a text of n blocks about n times, not n * n."""
        looked_at = self.page.evaluate("""(async () => {
          const { MarkdownView } = await import("/page/markdown.js");
          const view = new MarkdownView(document.createElement("div"), document.createElement("div"));
          let characters = 0;
          const split = String.prototype.split;
          String.prototype.split = function (by) {
            if (by === "\\n") characters += this.length;
            return split.call(this, by);
          };
          for (let i = 0; i < 2000; i++) view.append("a paragraph\\n\\n");
          String.prototype.split = split;
          return characters;
        })()""")
        self.assertLess(looked_at, 2000 * 13 * 4)


if __name__ == "__main__":
    unittest.main()
