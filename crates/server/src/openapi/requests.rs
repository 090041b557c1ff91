//! The schemas of the bodies that the server takes.

use serde_json::{Map, Value, json};

use crate::limits::{
    MAX_BIAS, MAX_CHOICES, MAX_LOGIT_BIAS, MAX_MESSAGES, MAX_PENALTY, MAX_PROMPTS, MAX_REPETITION_PENALTY,
    MAX_STOP_BYTES, MAX_STOP_TOKENS, MAX_STOPS, MAX_TEMPERATURE, MAX_TOKENS, MAX_TOOL_NAME, MAX_TOOLS,
    MAX_TOP_LOGPROBS, MAX_USER_ID,
};

pub(super) fn chat() -> Value {
    let fields = json!({
        "messages": {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": chat_message()},
        "max_tokens": integer(1, MAX_TOKENS),
        "max_completion_tokens": integer(1, MAX_TOKENS),
        "n": integer(1, MAX_CHOICES),
        "logprobs": optional("boolean"),
        "top_logprobs": integer(0, MAX_TOP_LOGPROBS),
        "thinking": thinking(),
        "reasoning_effort": {"type": ["string", "null"]},
        "response_format": format(),
        "tools": list(&json!({
            "type": "object",
            "required": ["type", "function"],
            "properties": {"type": {"const": "function"}, "function": function("parameters")},
        }), MAX_TOOLS),
        "tool_choice": {},
        "parallel_tool_calls": optional("boolean"),
        "functions": list(&function("parameters"), MAX_TOOLS),
        "function_call": {},
    });
    object(&["model", "messages"], &[common(), sampling(), fields])
}

fn chat_message() -> Value {
    json!({
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function", "latest_reminder"]},
            "content": {"anyOf": [
                {"type": ["string", "null"]},
                {"type": "array", "items": text_part(&["text"])},
            ]},
            "reasoning_content": {"type": ["string", "null"]},
            "tool_calls": {"type": ["array", "null"], "items": {
                "type": "object",
                "required": ["function"],
                "properties": {
                    "id": {"type": ["string", "null"]},
                    "type": {"const": "function"},
                    "function": {
                        "type": "object",
                        "required": ["name", "arguments"],
                        "properties": {
                            "name": {"type": "string", "minLength": 1},
                            "arguments": {"type": ["string", "object"]},
                        },
                    },
                },
            }},
            "tool_call_id": {"type": ["string", "null"]},
            "name": {"type": ["string", "null"]},
            "prefix": optional("boolean"),
        },
    })
}

pub(super) fn completion() -> Value {
    let fields = json!({
        "prompt": prompts(),
        "suffix": {"type": ["string", "null"]},
        "max_tokens": integer(1, MAX_TOKENS),
        "n": integer(1, MAX_CHOICES),
        "best_of": integer(1, MAX_CHOICES),
        "echo": optional("boolean"),
        "logprobs": integer(0, MAX_TOP_LOGPROBS),
        "skip_special_tokens": optional("boolean"),
    });
    object(&["model", "prompt"], &[common(), sampling(), fields])
}

pub(super) fn message() -> Value {
    object(&["model", "messages", "max_tokens"], &[message_fields()])
}

pub(super) fn count_tokens() -> Value {
    object(&["model", "messages"], &[message_fields()])
}

fn message_fields() -> Value {
    let text = text_part(&["text"]);
    json!({
        "model": {"type": "string"},
        "max_tokens": integer(1, MAX_TOKENS),
        "messages": {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": {
            "type": "object",
            "required": ["role", "content"],
            "properties": {
                "role": {"enum": ["user", "assistant", "system"]},
                "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
            },
        }},
        "system": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": text}]},
        "stop_sequences": list(&stop(), MAX_STOPS),
        "stream": optional("boolean"),
        "temperature": number(0.0, MAX_TEMPERATURE),
        "top_p": above_zero(1.0),
        "top_k": {"type": ["integer", "null"], "minimum": -1},
        "metadata": {"type": ["object", "null"]},
        "thinking": thinking(),
        "tools": list(&function("input_schema"), MAX_TOOLS),
        "tool_choice": {
            "type": ["object", "null"],
            "required": ["type"],
            "properties": {"type": {"enum": ["auto", "any", "tool", "none"]}},
        },
    })
}

pub(super) fn response() -> Value {
    let fields = json!({
        "input": {"anyOf": [
            {"type": "string"},
            {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": {"type": "object"}},
        ]},
        "instructions": {"type": ["string", "null"]},
        "max_output_tokens": integer(1, MAX_TOKENS),
        "reasoning": {"type": ["object", "null"]},
        "text": {"type": ["object", "null"], "properties": {"format": format()}},
        "tools": list(&function("parameters"), MAX_TOOLS),
        "tool_choice": {},
        "parallel_tool_calls": optional("boolean"),
        "metadata": {"type": ["object", "null"]},
    });
    object(&["model", "input"], &[common(), sampling(), fields])
}

pub(super) fn embedding() -> Value {
    let fields = json!({"input": prompts(), "encoding_format": {"enum": ["float", "base64", null]}});
    object(&["model", "input"], &[common(), fields])
}

pub(super) fn tokenize() -> Value {
    let fields = json!({
        "model": {"type": ["string", "null"]},
        "prompt": {"type": ["string", "null"]},
        "messages": {"type": ["array", "null"], "items": chat_message()},
        "add_special_tokens": optional("boolean"),
        "add_generation_prompt": optional("boolean"),
        "return_token_strs": optional("boolean"),
    });
    object(&[], &[fields])
}

pub(super) fn detokenize() -> Value {
    let fields = json!({
        "model": {"type": ["string", "null"]},
        "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    });
    object(&["tokens"], &[fields])
}

fn common() -> Value {
    json!({
        "model": {"type": "string"},
        "stream": optional("boolean"),
        "stream_options": {"type": ["object", "null"], "properties": {
            "include_usage": optional("boolean"),
            "continuous_usage_stats": optional("boolean"),
        }},
        "user_id": {"type": ["string", "null"], "pattern": "^[a-zA-Z0-9_-]+$", "maxLength": MAX_USER_ID},
    })
}

fn sampling() -> Value {
    json!({
        "temperature": number(0.0, MAX_TEMPERATURE),
        "top_p": above_zero(1.0),
        "top_k": {"type": ["integer", "null"], "minimum": -1},
        "min_p": number(0.0, 1.0),
        "presence_penalty": number(-MAX_PENALTY, MAX_PENALTY),
        "frequency_penalty": number(-MAX_PENALTY, MAX_PENALTY),
        "repetition_penalty": above_zero(MAX_REPETITION_PENALTY),
        "logit_bias": {
            "type": ["object", "null"],
            "maxProperties": MAX_LOGIT_BIAS,
            "propertyNames": {"pattern": "^[0-9]+$"},
            "additionalProperties": {"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS},
        },
        "seed": {"type": ["integer", "null"], "minimum": 0, "maximum": i64::MAX},
        "stop": {"anyOf": [stop(), list(&stop(), MAX_STOPS)]},
        "stop_token_ids": list(&json!({"type": "integer", "minimum": 0}), MAX_STOP_TOKENS),
        "ignore_eos": optional("boolean"),
    })
}

fn prompts() -> Value {
    let ids = json!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}});
    json!({"anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": {"type": "string", "minLength": 1}},
        ids,
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": ids},
    ]})
}

fn thinking() -> Value {
    json!({
        "type": ["object", "null"],
        "required": ["type"],
        "properties": {"type": {"enum": ["enabled", "disabled", "adaptive"]}},
    })
}

fn format() -> Value {
    json!({
        "type": ["object", "null"],
        "required": ["type"],
        "properties": {"type": {"enum": ["text", "json_object", "json_schema", "regex", "grammar"]}},
    })
}

fn function(schema: &str) -> Value {
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]+$", "maxLength": MAX_TOOL_NAME},
            "description": {"type": ["string", "null"]},
            schema: {"type": ["object", "null"]},
        },
    })
}

fn text_part(kinds: &[&str]) -> Value {
    json!({
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"enum": kinds}, "text": {"type": "string"}},
    })
}

fn stop() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": MAX_STOP_BYTES})
}

fn integer(least: usize, most: usize) -> Value {
    json!({"type": ["integer", "null"], "minimum": least, "maximum": most})
}

fn number(least: f64, most: f64) -> Value {
    json!({"type": ["number", "null"], "minimum": least, "maximum": most})
}

fn above_zero(most: f64) -> Value {
    json!({"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": most})
}

fn optional(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

fn list(items: &Value, most: usize) -> Value {
    json!({"type": ["array", "null"], "maxItems": most, "items": items})
}

/// An object of the fields of all parts.
fn object(required: &[&str], parts: &[Value]) -> Value {
    let fields = parts.iter().filter_map(Value::as_object).flatten();
    let properties: Map<String, Value> =
        fields.map(|(name, schema)| (name.clone(), schema.clone())).collect();
    json!({"type": "object", "required": required, "properties": properties})
}
