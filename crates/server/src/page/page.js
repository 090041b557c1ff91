// The chat page: settings, the conversation, and the keys that send and stop.

import { Answer, fromTemplate, scrollToEnd } from "./answer.js";
import { ApiError, listModels, streamChat } from "./api.js";

const byId = (id) => document.getElementById(id);
const settings = byId("settings");
const composer = byId("composer");
const conversation = byId("conversation");

const STORED_SETTINGS = "settings";
const IDLE_STATUS = "Ready";

let messages = [];
let lastAnswer = null;
// The request in flight, or null.
let running = null;

// --- Settings ---

// Of this tab only: the key is among them.
function storeSettings() {
  sessionStorage.setItem(STORED_SETTINGS, JSON.stringify(Object.fromEntries(new FormData(settings))));
}

function restoreSettings() {
  const stored = JSON.parse(sessionStorage.getItem(STORED_SETTINGS) ?? "{}");
  for (const [name, value] of Object.entries(stored)) {
    if (name !== "model" && settings.elements[name]) settings.elements[name].value = value;
  }
}

function apiKey() {
  return settings.elements.api_key.value.trim();
}

// The fields of a request that the settings fill; an empty field is left to the server.
function requestFields() {
  const fields = Object.fromEntries(new FormData(settings));
  const body = { model: fields.model };
  for (const name of ["temperature", "top_p", "max_tokens"]) {
    if (fields[name] !== "") body[name] = Number(fields[name]);
  }
  if (fields.thinking) body.thinking = { type: fields.thinking };
  if (fields.tools.trim()) {
    try {
      body.tools = JSON.parse(fields.tools);
    } catch (error) {
      throw new Error(`Tools: no JSON: ${error.message}`);
    }
  }
  return { body, system: fields.system.trim() };
}

async function showModels() {
  try {
    const names = await listModels(apiKey());
    byId("model").replaceChildren(...names.map((name) => new Option(name)));
    showStatus(IDLE_STATUS);
  } catch (error) {
    showStatus(error.message);
    askForKeyIf(error);
  }
}

function askForKeyIf(error) {
  if (!(error instanceof ApiError) || error.status !== 401) return;
  byId("settings-panel").open = true;
  settings.elements.api_key.focus();
}

// --- Conversation ---

function showStatus(text) {
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

function showQuestion(text) {
  const question = fromTemplate("question-template");
  question.querySelector("p").textContent = text;
  conversation.append(question);
}

// Sends what is in the composer and the results of tool calls that wait for one.
function send() {
  const text = composer.elements.message.value;
  if (running || (text.trim() === "" && !lastAnswer?.hasCalls)) return;
  messages.push(...(lastAnswer?.takeResults() ?? []));
  if (text.trim() !== "") {
    messages.push({ role: "user", content: text });
    showQuestion(text);
  }
  composer.elements.message.value = "";
  composer.elements.message.focus();
  ask();
}

// Asks for an answer to the messages so far.
async function ask() {
  byId("empty").hidden = true;
  const asked = [...messages];
  const answer = new Answer();
  lastAnswer = answer;
  answer.element.querySelector(".again").addEventListener("click", () => askAgain(answer, asked));
  conversation.append(answer.element);
  scrollToEnd(conversation);

  const controller = new AbortController();
  setRunning(controller);
  let failure = null;
  try {
    const { body, system } = requestFields();
    body.messages = system ? [{ role: "system", content: system }, ...asked] : asked;
    showStatus("Waiting");
    for await (const chunk of streamChat(body, apiKey(), controller.signal)) {
      const doing = answer.add(chunk);
      if (doing) showStatus(doing);
    }
  } catch (error) {
    failure = error;
  }
  answer.finish(failure);
  // A new chat may have begun meanwhile; then this answer belongs to no one.
  if (running !== controller) return;
  setRunning(null);
  const message = answer.message();
  if (message) messages.push(message);
  showStatus(IDLE_STATUS);
  if (failure) askForKeyIf(failure);
  scrollToEnd(conversation);
}

function askAgain(answer, asked) {
  if (running || answer !== lastAnswer) return;
  answer.element.remove();
  messages = asked;
  composer.elements.message.focus();
  ask();
}

function setRunning(controller) {
  running = controller;
  byId("send").hidden = controller !== null;
  byId("stop").hidden = controller === null;
}

function stop() {
  running?.abort();
  composer.elements.message.focus();
}

function newChat() {
  running?.abort();
  setRunning(null);
  messages = [];
  lastAnswer = null;
  conversation.replaceChildren(byId("empty"));
  byId("empty").hidden = false;
  showStatus(IDLE_STATUS);
  composer.elements.message.focus();
}

// --- Wiring ---

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) stop();
  // Also the fields of tool results, which belong to the composer; not while an input method composes a character.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target.form === composer) {
    if (event.target.tagName !== "TEXTAREA") return;
    event.preventDefault();
    composer.requestSubmit();
  }
});
byId("stop").addEventListener("click", stop);
byId("new-chat").addEventListener("click", newChat);
settings.addEventListener("submit", (event) => event.preventDefault());
settings.addEventListener("input", storeSettings);
settings.elements.api_key.addEventListener("change", showModels);

restoreSettings();
byId("settings-panel").open = matchMedia("(min-width: 60rem)").matches;
showModels();
