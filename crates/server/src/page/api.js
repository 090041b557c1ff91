// The server's API as the page needs it: the list of models, and one streamed chat completion.

// What the API said in its error body. `status` is 0 if it said so in the middle of a stream.
export class ApiError extends Error {
  constructor(status, error, retryAfter = null) {
    const field = error?.param ? ` (${error.param})` : "";
    const wait = retryAfter ? ` Try again in ${retryAfter} s.` : "";
    super(`${status ? `${status}: ` : ""}${error?.message ?? "no reason was given"}${field}${wait}`);
    this.status = status;
  }
}

export async function listModels(key) {
  const response = await request("v1/models", key, {});
  return (await response.json()).data.map((model) => model.id);
}

// Yields the chunks of the answer as they come. Ends only after the server's own end mark.
export async function* streamChat(body, key, signal) {
  const response = await request("v1/chat/completions", key, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of serverSentEvents(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(0, chunk.error);
    yield chunk;
  }
  throw new Error("The connection ended in the middle of the answer.");
}

async function request(path, key, options) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    // Relative to the page, so that it also works behind a proxy that serves it from a folder.
    response = await fetch(new URL(path, document.baseURI), { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("The server cannot be reached.");
  }
  if (response.ok) return response;
  const text = await response.text();
  let error;
  try {
    error = JSON.parse(text).error;
  } catch {
    error = { message: text.slice(0, 300) };
  }
  throw new ApiError(response.status, error, response.headers.get("retry-after"));
}

// The payloads of a stream of events, one line each; comments (keep-alives) are skipped.
async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  }
}
