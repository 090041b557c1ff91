//! Anthropic's `/v1/messages`.

use serde_json::{Value, json};

use crate::support::{Frame, TestServer, chat, with};

fn message(content: Value) -> Value {
    json!({"model": "claude-sonnet-4-6", "max_tokens": 200, "temperature": 0,
           "messages": [{"role": "user", "content": content}]})
}

fn weather() -> Value {
    json!([{
        "name": "get_weather",
        "description": "Get current weather",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }])
}

#[test]
fn a_message_says_what_a_chat_completion_says() {
    let server = TestServer::new();
    let expected = server.post("/v1/chat/completions", &chat("What is 12 + 30?")).json();
    for path in ["/v1/messages", "/messages", "/anthropic/v1/messages", "/anthropic/messages"] {
        let blocks = json!([{"type": "text", "text": "What is 12 + 30?"}]);
        let reply = server.post(path, &message(blocks));
        assert_eq!(reply.status, 200, "{}", reply.body);
        let body = reply.json();
        assert!(body["id"].as_str().unwrap().starts_with("msg_"));
        assert_eq!((&body["type"], &body["role"]), (&json!("message"), &json!("assistant")));
        assert_eq!(body["model"], "claude-sonnet-4-6");
        assert_eq!(
            body["content"],
            json!([{"type": "text", "text": expected["choices"][0]["message"]["content"]}])
        );
        assert_eq!((&body["stop_reason"], &body["stop_sequence"]), (&json!("end_turn"), &Value::Null));
        let usage = &body["usage"];
        let input =
            usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
        assert_eq!(input, expected["usage"]["prompt_tokens"].as_u64().unwrap());
        assert_eq!(usage["output_tokens"], expected["usage"]["completion_tokens"]);
    }
    let long = message(json!("The quick brown fox jumps over the lazy dog. ".repeat(6)));
    let usage = |_| server.post("/v1/messages", &long).json()["usage"].clone();
    let [first, second] = [0, 1].map(usage);
    let input = |usage: &Value| usage["input_tokens"].as_u64().unwrap();
    let cached = second["cache_read_input_tokens"].as_u64().unwrap();
    assert!(cached > 0);
    assert_eq!(input(&first), input(&second) + cached, "what the cache had is counted beside the rest");
    let system = with(message(json!("hi")), json!({"system": [{"type": "text", "text": "Be brief."}]}));
    let counted = server.post("/v1/messages/count_tokens", &system).json();
    let used = server.post("/v1/messages", &system).json();
    let input = used["usage"]["input_tokens"].as_u64().unwrap();
    assert_eq!(counted["input_tokens"].as_u64().unwrap(), input);
}

/// Puts the events of a stream together as a client does.
fn assemble(frames: &[Frame]) -> Value {
    let (mut message, mut partial) = (Value::Null, String::new());
    for frame in frames {
        let data = frame.json();
        assert_eq!(Some(data["type"].as_str().unwrap()), frame.event.as_deref());
        let index = data["index"].as_u64().unwrap_or_default() as usize;
        match data["type"].as_str().unwrap() {
            "message_start" => message = data["message"].clone(),
            "content_block_start" => {
                assert_eq!(message["content"].as_array().unwrap().len(), index);
                message["content"].as_array_mut().unwrap().push(data["content_block"].clone());
                partial.clear();
            }
            "content_block_delta" => {
                let delta = &data["delta"];
                let (field, text) = match delta["type"].as_str().unwrap() {
                    "text_delta" => ("text", delta["text"].as_str()),
                    "thinking_delta" => ("thinking", delta["thinking"].as_str()),
                    "input_json_delta" => {
                        partial.push_str(delta["partial_json"].as_str().unwrap());
                        continue;
                    }
                    other => panic!("{other}"),
                };
                let block = &mut message["content"][index];
                block[field] = format!("{}{}", block[field].as_str().unwrap(), text.unwrap()).into();
            }
            "content_block_stop" if message["content"][index]["type"] == "tool_use" => {
                message["content"][index]["input"] = serde_json::from_str(&partial).unwrap();
            }
            "message_delta" => {
                message["stop_reason"] = data["delta"]["stop_reason"].clone();
                message["usage"] = data["usage"].clone();
            }
            "content_block_stop" | "ping" | "message_stop" => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(frames.last().unwrap().event.as_deref(), Some("message_stop"));
    message
}

/// Without what differs from one answer to the next.
fn content(message: &Value) -> Value {
    let mut content = message["content"].clone();
    for block in content.as_array_mut().unwrap() {
        if let Some(id) = block.get_mut("id") {
            assert!(id.as_str().unwrap().starts_with("toolu_"));
            *id = "id".into();
        }
    }
    content
}

#[test]
fn a_stream_adds_up_to_the_same_message() {
    let server = TestServer::new();
    let thinking = json!({"thinking": {"type": "enabled", "budget_tokens": 1024}});
    for (question, fields, reason) in [
        ("What is 128 + 256?", thinking, "end_turn"),
        ("What is 12 + 30?", json!({}), "end_turn"),
        ("Tell me a story about a fox.", json!({"max_tokens": 5}), "max_tokens"),
        ("What is the weather in Jakarta?", json!({"tools": weather()}), "tool_use"),
    ] {
        let body = with(message(json!(question)), fields);
        let whole = server.post("/v1/messages", &body).json();
        let streamed = assemble(&server.stream("/v1/messages", &body));
        assert_eq!(whole["stop_reason"], reason, "{whole}");
        assert_eq!(content(&streamed), content(&whole));
        assert_eq!(streamed["stop_reason"], reason);
        assert_eq!(streamed["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    }
    let body = with(message(json!("What is 12 + 30?")), json!({"stop_sequences": ["="]}));
    let stopped = server.post("/v1/messages", &body).json();
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!("=")));
}

#[test]
fn reasoning_and_calls_are_blocks_and_go_round() {
    let server = TestServer::new();
    let body = with(message(json!("What is 128 + 256?")), json!({"thinking": {"type": "adaptive"}}));
    let reply = server.post("/v1/messages", &body).json();
    let kinds: Vec<&str> =
        reply["content"].as_array().unwrap().iter().map(|b| b["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["thinking", "text"], "{reply}");

    let mut body = with(message(json!("What is the weather in Jakarta?")), json!({"tools": weather()}));
    let reply = server.post("/v1/messages", &body).json();
    let call = reply["content"].as_array().unwrap().last().unwrap();
    assert_eq!(call["input"], json!({"city": "Jakarta"}), "{reply}");
    let result = json!({"type": "tool_result", "tool_use_id": call["id"],
                        "content": [{"type": "text", "text": "{\"temperature\": 31}"}]});
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": reply["content"]}));
    messages.push(json!({"role": "user", "content": [result]}));
    let answer = server.post("/v1/messages", &body).json();
    assert!(answer["content"][0]["text"].as_str().unwrap().contains("31"), "{answer}");
}

#[test]
fn refusals_have_anthropics_form() {
    let server = TestServer::new();
    let cases = [
        (400, "invalid_request_error", json!({"max_tokens": null})),
        (400, "invalid_request_error", json!({"max_tokens": 0})),
        (400, "invalid_request_error", json!({"temperature": 3})),
        (400, "invalid_request_error", json!({"messages": []})),
        (
            400,
            "invalid_request_error",
            json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        ),
        (
            400,
            "invalid_request_error",
            json!({"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "nobody"}]}]}),
        ),
        (400, "invalid_request_error", json!({"tools": [{"name": "f", "input_schema": 5}]})),
        (
            400,
            "invalid_request_error",
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        ),
        (400, "invalid_request_error", json!({"tool_choice": {"type": "tool", "name": "f"}})),
        (404, "not_found_error", json!({"model": "gpt-5"})),
    ];
    for (status, kind, fields) in cases {
        let reply = server.post("/v1/messages", &with(message(json!("hi")), fields.clone()));
        assert_eq!(reply.status, status, "{fields} {}", reply.body);
        assert_eq!(reply.json()["type"], "error");
        assert_eq!(reply.json()["error"]["type"], kind);
        assert!(reply.json()["error"]["message"].is_string());
    }
}
