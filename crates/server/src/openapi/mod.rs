//! The OpenAPI document of what the server takes and answers. Its bounds are those that validation reads.

mod requests;

use serde_json::{Value, json};

use requests::{chat, completion, count_tokens, detokenize, embedding, message, response, tokenize};

/// The document.
pub(crate) fn document() -> Value {
    let mut paths = serde_json::Map::new();
    for prefix in ["", "/v1"] {
        for (path, summary, schema, streams) in POSTS {
            paths.insert(format!("{prefix}{path}"), post(summary, schema, *streams));
        }
        paths.insert(format!("{prefix}/models"), locked_get("What is served"));
    }
    for (path, summary, schema) in [
        ("/beta/chat/completions", "Chat, at DeepSeek's address for prefixes", "ChatRequest"),
        ("/beta/completions", "Fill in the middle, at DeepSeek's address", "CompletionRequest"),
        ("/anthropic/v1/messages", "Anthropic's messages, at DeepSeek's address", "MessageRequest"),
    ] {
        paths.insert(path.to_owned(), post(summary, schema, true));
    }
    for (path, summary) in [("/health", "Whether the engine runs"), ("/ready", "Whether requests are taken")]
    {
        paths.insert(path.to_owned(), open_get(summary, &["200", "503"], "application/json"));
    }
    let metrics = open_get("Figures for Prometheus", &["200"], "application/openmetrics-text");
    paths.insert("/metrics".to_owned(), metrics);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "cachalot",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The DeepSeek, OpenAI and Anthropic APIs over one model. Unknown fields are ignored, and \
                            null is the same as absent.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": schemas(),
        },
    })
}

/// Path, what it is for, the schema of its body, whether it can stream.
const POSTS: &[(&str, &str, &str, bool)] = &[
    ("/chat/completions", "A conversation's next turn", "ChatRequest", true),
    ("/completions", "A text's continuation, or what belongs before a suffix", "CompletionRequest", true),
    ("/messages", "A conversation's next turn, in Anthropic's form", "MessageRequest", true),
    ("/messages/count_tokens", "Tokens of a conversation in Anthropic's form", "CountTokensRequest", false),
    ("/responses", "A conversation's next turn, in the form of OpenAI's Responses", "ResponseRequest", true),
    ("/embeddings", "Vectors of texts", "EmbeddingRequest", false),
    ("/tokenize", "Token ids of a text or a conversation", "TokenizeRequest", false),
    ("/detokenize", "The text of token ids", "DetokenizeRequest", false),
];

fn schemas() -> Value {
    json!({
        "ChatRequest": chat(),
        "CompletionRequest": completion(),
        "MessageRequest": message(),
        "CountTokensRequest": count_tokens(),
        "ResponseRequest": response(),
        "EmbeddingRequest": embedding(),
        "TokenizeRequest": tokenize(),
        "DetokenizeRequest": detokenize(),
        "Answer": {"type": "object"},
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": {
                "type": "object",
                "required": ["message", "type"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }},
        },
    })
}

fn post(summary: &str, schema: &str, streams: bool) -> Value {
    let mut content = json!({"application/json": {"schema": reference("Answer")}});
    if streams {
        // No schema: it would be that of an event, and every event has its own.
        content["text/event-stream"] = json!({});
    }
    json!({"post": {
        "summary": summary,
        "security": security(),
        "requestBody": {
            "required": true,
            "content": {"application/json": {"schema": reference(schema)}},
        },
        "responses": {"200": {"description": "The answer", "content": content}, "default": error()},
    }})
}

fn locked_get(summary: &str) -> Value {
    let content = json!({"application/json": {"schema": reference("Answer")}});
    json!({"get": {
        "summary": summary,
        "security": security(),
        "responses": {"200": {"description": "The answer", "content": content}, "default": error()},
    }})
}

fn open_get(summary: &str, statuses: &[&str], content_type: &str) -> Value {
    let content = json!({content_type: {"schema": {}}});
    let response = json!({"description": "The answer", "content": content});
    let responses: serde_json::Map<String, Value> =
        statuses.iter().map(|status| ((*status).to_owned(), response.clone())).collect();
    json!({"get": {"summary": summary, "security": [], "responses": responses}})
}

fn error() -> Value {
    json!({
        "description": "A refusal that names the field",
        "content": {"application/json": {"schema": reference("Error")}},
    })
}

/// A server without keys asks for none.
fn security() -> Value {
    json!([{"bearer": []}, {"apiKey": []}, {}])
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}
