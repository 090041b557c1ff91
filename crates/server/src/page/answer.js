// One answer on the page: thinking, text, tool calls, figures and errors, drawn from the chunks of a stream.

import { MarkdownView } from "./markdown.js";

export function fromTemplate(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

export class Answer {
  element = fromTemplate("answer-template");
  // What is sent back to the API as the turn of the assistant.
  #content = "";
  #reasoning = "";
  #calls = [];
  #usage = null;
  #finishReason = null;
  // Text that came since the last frame was drawn: a fast model sends more chunks than a screen has frames.
  #undrawn = { text: "", thinking: "" };
  #frame = 0;
  #thinking = document.createTextNode("");
  #text = new MarkdownView(this.#part(".finished"), this.#part(".growing"));
  #times = { sent: performance.now(), first: null, answer: null, last: null };

  constructor() {
    this.element.classList.add("running");
    this.#part(".thinking div").append(this.#thinking);
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  // Adds a chunk; returns what the answer is doing, in a word for the status line.
  add(chunk) {
    if (chunk.usage) this.#usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return null;
    this.#finishReason = choice.finish_reason ?? this.#finishReason;
    const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
    if (!content && !reasoning && !calls) return null;
    this.#times.last = performance.now();
    this.#times.first ??= this.#times.last;
    if (reasoning) {
      this.#reasoning += reasoning;
      this.#undrawn.thinking += reasoning;
    }
    if (content || calls) this.#times.answer ??= this.#times.last;
    if (content) {
      this.#content += content;
      this.#undrawn.text += content;
    }
    calls?.forEach((delta) => this.#addCall(delta));
    this.#frame ||= requestAnimationFrame(() => this.#draw());
    return this.#times.answer === null ? "Thinking" : "Answering";
  }

  #addCall(delta) {
    const call = (this.#calls[delta.index ?? 0] ??= { id: "", name: "", arguments: "", element: null });
    call.id ||= delta.id ?? "";
    call.name += delta.function?.name ?? "";
    call.arguments += delta.function?.arguments ?? "";
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { text, thinking } = this.#undrawn;
    this.#undrawn = { text: "", thinking: "" };
    const scroller = this.element.parentElement;
    // A reader who has scrolled up stays there.
    const follows = scroller && isAtEnd(scroller);
    if (thinking) {
      this.#part(".thinking").hidden = false;
      this.#thinking.appendData(thinking);
    }
    if (text) this.#text.append(text);
    for (const call of this.#calls.filter(Boolean)) this.#drawCall(call);
    if (follows) scrollToEnd(scroller);
  }

  #drawCall(call) {
    if (!call.element) {
      call.element = fromTemplate("call-template");
      this.#part(".calls").append(call.element);
    }
    call.element.querySelector("h2 code").textContent = call.name;
    call.element.querySelector("pre").textContent = indented(call.arguments);
    call.element.querySelector("textarea").setAttribute("aria-label", `Result of ${call.name}`);
  }

  // Ends the answer: complete, or with what kept it from being so.
  finish(error = null) {
    this.#draw();
    this.#text.finish();
    this.element.classList.remove("running");
    const stopped = error?.name === "AbortError";
    // Arguments may be cut in two: a call that was not finished is not one.
    if (error) this.#calls = [];
    this.#part(".calls").dataset.state = error ? "cut" : "waiting";
    if (this.#reasoning) this.#part(".thinking summary").textContent = this.#thinkingTitle();
    if (error && !stopped) {
      this.#part(".error").textContent = error.message;
      this.#part(".error").hidden = false;
    }
    this.#part(".figures").textContent = stopped ? "Stopped." : this.#figures();
    this.#part(".again").hidden = false;
  }

  #thinkingTitle() {
    const { first, answer, last } = this.#times;
    const tokens = this.#usage?.completion_tokens_details?.reasoning_tokens;
    const count = tokens ? `, ${tokens} tokens` : "";
    return `Thought for ${(((answer ?? last) - first) / 1000).toFixed(1)} s${count}`;
  }

  #figures() {
    const usage = this.#usage;
    if (!usage) return "";
    const { sent, first, last } = this.#times;
    const made = usage.completion_tokens;
    const figures = [`${made} tokens`];
    // The first token's time is the prompt's, so the rate is that of the others.
    if (made > 1 && last > first) figures.push(`${((made - 1) / ((last - first) / 1000)).toFixed(1)} tokens/s`);
    if (first !== null) figures.push(`first after ${((first - sent) / 1000).toFixed(2)} s`);
    const hits = usage.prompt_cache_hit_tokens ?? usage.prompt_tokens_details?.cached_tokens ?? 0;
    figures.push(`${hits} of ${usage.prompt_tokens} prompt tokens from the cache`);
    if (!["stop", "tool_calls", null].includes(this.#finishReason)) figures.push(`ended by ${this.#finishReason}`);
    return figures.join(" · ");
  }

  // The turn for the next request, or null if there is nothing to show for it.
  message() {
    if (!this.#content && !this.#calls.length) return null;
    const message = { role: "assistant", content: this.#content };
    if (this.#calls.length) {
      // Thinking goes back only with the calls that it led to.
      if (this.#reasoning) message.reasoning_content = this.#reasoning;
      message.tool_calls = this.#calls.map(({ id, name, arguments: text }) => ({
        id,
        type: "function",
        function: { name, arguments: text },
      }));
    }
    return message;
  }

  // What the reader entered as the results of the calls; from then on they cannot be changed.
  takeResults() {
    if (this.#calls.length) this.#part(".calls").dataset.state = "answered";
    return this.#calls.map(({ id, element }) => {
      const field = element.querySelector("textarea");
      field.readOnly = true;
      return { role: "tool", tool_call_id: id, content: field.value };
    });
  }

  get hasCalls() {
    return this.#calls.length > 0;
  }
}

function indented(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

function isAtEnd(scroller) {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
}

export function scrollToEnd(scroller) {
  scroller.scrollTop = scroller.scrollHeight;
}
