// The OpenAI SDK for Node against the server: chat, streams, tools, reasoning, structured output, embeddings, errors.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const environment = (name) => process.env[name] ?? assert.fail(`${name} is not set: run scripts/client-tests.sh`);
const baseURL = `${environment("CLIENT_TESTS_OPENAI_URL")}/v1`;
const model = environment("CLIENT_TESTS_MODEL");
const client = new OpenAI({ baseURL, apiKey: environment("CLIENT_TESTS_KEY"), maxRetries: 0, timeout: 60_000 });

const user = (content) => [{ role: "user", content }];
const direct = { model, temperature: 0, thinking: { type: "disabled" } };
const SUM = "Calculate 12 + 30";
const SUM_ANSWER = "12 + 30 = 42";
const WEATHER_ANSWER = "It is 21 degrees and sunny in Paris.";
const weather = {
  name: "get_weather",
  description: "Get the weather in a city.",
  parameters: {
    type: "object",
    properties: { city: { type: "string", description: "City name" } },
    required: ["city"],
  },
};

test("models", async () => {
  const ids = [];
  for await (const listed of client.models.list()) ids.push(listed.id);
  assert.equal(ids[0], model);
});

test("an answer and its stream", async () => {
  const answer = await client.chat.completions.create({ ...direct, messages: user(SUM) });
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.choices[0].message.content, SUM_ANSWER);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);

  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ ...direct, messages: user(SUM), ...options })) {
    assert.equal(chunk.object, "chat.completion.chunk");
    chunks.push(chunk);
  }
  assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), SUM_ANSWER);
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.total_tokens, answer.usage.total_tokens);
});

test("the SDK's own assembly of a stream", async () => {
  const stream = client.chat.completions.stream({ ...direct, messages: user(SUM) });
  let heard = "";
  stream.on("content", (delta) => (heard += delta));
  assert.equal(await stream.finalContent(), SUM_ANSWER);
  assert.equal(heard, SUM_ANSWER);
});

test("the SDK's own loop over tools", async () => {
  const asked = [];
  const callback = ({ city }) => {
    asked.push(city);
    return '{"temperature": 21, "condition": "sunny"}';
  };
  const tool = { type: "function", function: { ...weather, function: callback, parse: JSON.parse } };
  const request = { ...direct, messages: user("What is the weather in Paris?"), tools: [tool] };
  assert.equal(await client.chat.completions.runTools(request).finalContent(), WEATHER_ANSWER);
  assert.deepEqual(asked, ["Paris"]);
  assert.equal(await client.chat.completions.runTools({ ...request, stream: true }).finalContent(), WEATHER_ANSWER);
  assert.deepEqual(asked, ["Paris", "Paris"]);
});

test("reasoning", async () => {
  const request = { ...direct, thinking: { type: "enabled" }, messages: user("What is 812+395?") };
  const { message } = (await client.chat.completions.create(request)).choices[0];
  assert.equal(message.content, "812 + 395 = 1207");
  assert.ok(message.reasoning_content.length > 0);
  let thoughts = "";
  for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
    thoughts += chunk.choices[0].delta.reasoning_content ?? "";
  }
  assert.equal(thoughts, message.reasoning_content);
});

test("a schema", async () => {
  const schema = {
    type: "object",
    properties: { name: { type: "string" }, age: { type: "integer" }, job: { type: "string" } },
    required: ["name", "age", "job"],
    additionalProperties: false,
  };
  const answer = await client.chat.completions.parse({
    ...direct,
    messages: user("Extract name, age and job as JSON: Julia is a plumber and is 22 years old."),
    response_format: { type: "json_schema", json_schema: { name: "person", strict: true, schema } },
  });
  assert.deepEqual(JSON.parse(answer.choices[0].message.content), { name: "Julia", age: 22, job: "plumber" });
});

test("log-probabilities", async () => {
  const request = { ...direct, messages: user(SUM), logprobs: true, top_logprobs: 2 };
  const { content } = (await client.chat.completions.create(request)).choices[0].logprobs;
  assert.equal(content.map((t) => t.token).join(""), SUM_ANSWER);
  assert.ok(content.every((t) => t.logprob <= 0 && t.top_logprobs.length === 2));
});

test("completions with a suffix", async () => {
  const request = { model, prompt: "def is_positive(first):\n    ", suffix: "\n", max_tokens: 64, temperature: 0 };
  const answer = await client.completions.create(request);
  assert.equal(answer.object, "text_completion");
  assert.equal(answer.choices[0].text, "return first > 0");
});

test("embeddings", async () => {
  const answer = await client.embeddings.create({ model, input: ["a cat", "a dog"] });
  assert.deepEqual(answer.data.map((d) => d.index), [0, 1]);
  const plain = await client.embeddings.create({ model, input: "a cat", encoding_format: "float" });
  assert.equal(plain.data[0].embedding.length, answer.data[0].embedding.length);
  assert.ok(plain.data[0].embedding.every((x, i) => Math.abs(x - answer.data[0].embedding[i]) < 1e-6));
});

test("responses", async () => {
  const request = { model, input: SUM, temperature: 0, reasoning: { effort: "none" } };
  assert.equal((await client.responses.create(request)).output_text, SUM_ANSWER);
  const kinds = [];
  for await (const event of await client.responses.create({ ...request, stream: true })) kinds.push(event.type);
  assert.equal(kinds[0], "response.created");
  assert.equal(kinds.at(-1), "response.completed");
});

test("refusals", async () => {
  const ask = (fields) => client.chat.completions.create({ model, messages: user("Hi"), ...fields });
  await assert.rejects(ask({ temperature: 5 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
  await assert.rejects(ask({ model: "no-such-model" }), OpenAI.NotFoundError);
  const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("a stream that is left", async () => {
  const stream = await client.chat.completions.create({ ...direct, messages: user("Tell me a story about an otter"), stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.choices[0].delta.role, "assistant");
    break;
  }
  assert.ok(stream.controller.signal.aborted);
  const answer = await client.chat.completions.create({ ...direct, messages: user(SUM) });
  assert.equal(answer.choices[0].message.content, SUM_ANSWER);
});
