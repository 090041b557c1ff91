// Markdown as it streams in: text becomes DOM nodes, never HTML, so whatever a model writes stays text.
// Understood: paragraphs, headings, lists, tables, code blocks, rules; `code`, **bold** and *emphasis* in them.

const FENCE = /^\s*```\s*(.*)$/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const ITEM = /^(\s*)([-*+]|\d+[.)])\s+(.*)$/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const ROW = /^\s*\|/;
const DELIMITER_ROW = /^[\s|:-]+$/;

// A view that grows. What the next characters can still change is drawn anew with each addition; the blocks before it
// move to `finished` for good.
export class MarkdownView {
  #finished;
  #growing;
  #pending = "";

  constructor(finished, growing) {
    this.#finished = finished;
    this.#growing = growing;
  }

  append(text) {
    const blocks = splitBlocks(this.#pending + text);
    // A line that has just begun may yet turn out to belong to the block before it.
    const open = blocks.at(-1).lines.length === 1 ? 2 : 1;
    const growing = blocks.splice(-open);
    this.#finished.append(...blocks.map(renderBlock));
    this.#growing.replaceChildren(...growing.map(renderBlock));
    this.#pending = growing.flatMap((block) => block.lines).join("\n");
  }

  finish() {
    this.#finished.append(...this.#growing.childNodes);
    this.#pending = "";
  }
}

// A block is {kind, lines}: the lines are its source, to be read again when more text follows.
function splitBlocks(text) {
  const blocks = [];
  for (const line of text.split("\n")) {
    const open = blocks.at(-1);
    if (open?.kind === "code" && !open.closed) {
      open.lines.push(line);
      open.closed = isFenceEnd(line);
      continue;
    }
    const kind = kindOf(line, open);
    if (kind === open?.kind && ["paragraph", "list", "table", "blank"].includes(kind)) open.lines.push(line);
    else blocks.push({ kind, lines: [line] });
  }
  return blocks;
}

function kindOf(line, open) {
  if (line.trim() === "") return "blank";
  if (FENCE.test(line)) return "code";
  if (HEADING.test(line)) return "heading";
  if (RULE.test(line)) return "rule";
  if (ITEM.test(line)) return "list";
  if (ROW.test(line)) return "table";
  return open?.kind === "list" && /^\s/.test(line) ? "list" : "paragraph";
}

function isFenceEnd(line) {
  return line.trim() === "```";
}

function renderBlock({ kind, lines }) {
  switch (kind) {
    case "blank":
      return document.createTextNode("\n");
    case "rule":
      return element("hr");
    case "heading": {
      const [, marks, title] = HEADING.exec(lines[0]);
      // The page's own titles are h1 and h2.
      return element(`h${Math.min(6, marks.length + 2)}`, inline(title));
    }
    case "code": {
      const body = lines.slice(1);
      if (body.length && isFenceEnd(body.at(-1))) body.pop();
      const block = element("pre", [element("code", [body.join("\n")])]);
      const language = FENCE.exec(lines[0])[1].trim();
      if (language) block.dataset.language = language;
      return block;
    }
    case "list":
      return renderList(lines);
    case "table":
      return renderTable(lines);
    default:
      return element("p", inline(lines.join("\n").trimEnd()));
  }
}

function renderList(lines) {
  // The lists that are open, outermost first; an item indented deeper than the last opens one more.
  const open = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (!item) {
      open.at(-1).list.lastChild.append("\n", ...inline(line.trim()));
      continue;
    }
    const [, { length: indent }, marker, text] = item;
    while (open.length > 1 && indent < open.at(-1).indent) open.pop();
    if (!open.length || indent > open.at(-1).indent + 1) {
      const list = element(/\d/.test(marker) ? "ol" : "ul");
      if (list.tagName === "OL") list.start = parseInt(marker, 10);
      open.at(-1)?.list.lastChild.append(list);
      open.push({ indent, list });
    }
    open.at(-1).list.append(element("li", inline(text)));
  }
  return open[0].list;
}

function renderTable(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|");
  const headed = lines.length > 1 && DELIMITER_ROW.test(lines[1]);
  const rows = lines.filter((_, i) => !(headed && i === 1)).map((line, i) => {
    const tag = headed && i === 0 ? "th" : "td";
    return element("tr", cells(line).map((cell) => element(tag, inline(cell.trim()))));
  });
  return element("div", [element("table", rows)], "table");
}

// Marks pair with the next mark of their kind; one without a partner is plain text.
function inline(text) {
  const parts = text.split(/(`+|\*\*|\*)/);
  const lastAt = new Map(parts.map((part, i) => [part, i]));
  const nodes = [];
  for (let i = 0; i < parts.length; i++) {
    const mark = parts[i];
    const tag = mark.startsWith("`") ? "code" : { "**": "strong", "*": "em" }[mark];
    const close = tag && lastAt.get(mark) > i ? parts.indexOf(mark, i + 1) : -1;
    const body = parts.slice(i + 1, close).join("");
    // As "2 * 3 * 4" has it, a mark beside a space is no mark.
    if (close < 0 || body === "" || (tag !== "code" && body !== body.trim())) {
      if (mark) nodes.push(mark);
      continue;
    }
    nodes.push(element(tag, tag === "code" ? [body] : inline(body)));
    i = close;
  }
  return nodes;
}

function element(tag, children = [], className = "") {
  const node = document.createElement(tag);
  node.append(...children);
  if (className) node.className = className;
  return node;
}
