//! OpenAI's `/v1/responses`.

use serde_json::{Value, json};

use crate::support::{Frame, TestServer, chat, with};

fn request(input: Value) -> Value {
    json!({"model": "demo", "input": input, "temperature": 0})
}

fn tools() -> Value {
    json!([{
        "type": "function",
        "name": "get_weather",
        "description": "Get current weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": false,
    }])
}

#[test]
fn a_response_says_what_a_chat_completion_says() {
    let server = TestServer::new();
    let expected = server.post("/v1/chat/completions", &chat("What is 12 + 30?")).json();
    let parts = json!([{"role": "user", "content": [{"type": "input_text", "text": "What is 12 + 30?"}]}]);
    for input in [json!("What is 12 + 30?"), parts] {
        let reply = server.post("/v1/responses", &request(input));
        assert_eq!(reply.status, 200, "{}", reply.body);
        let body = reply.json();
        assert!(body["id"].as_str().unwrap().starts_with("resp_"));
        assert_eq!((&body["object"], &body["status"]), (&json!("response"), &json!("completed")));
        assert!(body["error"].is_null() && body["incomplete_details"].is_null());
        let item = &body["output"][0];
        assert_eq!((&item["type"], &item["role"]), (&json!("message"), &json!("assistant")));
        assert_eq!(item["content"][0]["type"], "output_text");
        assert_eq!(item["content"][0]["text"], expected["choices"][0]["message"]["content"]);
        assert_eq!(body["usage"]["input_tokens"], expected["usage"]["prompt_tokens"]);
        assert_eq!(body["usage"]["total_tokens"], expected["usage"]["total_tokens"]);
    }
    let cut = server
        .post("/v1/responses", &with(request(json!("Tell me a story.")), json!({"max_output_tokens": 3})));
    assert_eq!(cut.json()["status"], "incomplete");
    assert_eq!(cut.json()["incomplete_details"]["reason"], "max_output_tokens");
}

/// Checks the grammar of a stream's events and returns its last.
fn check(frames: &[Frame]) -> Value {
    let mut texts = std::collections::BTreeMap::<u64, String>::new();
    for (number, frame) in frames.iter().enumerate() {
        let data = frame.json();
        assert_eq!(data["sequence_number"], number);
        let kind = data["type"].as_str().unwrap().to_owned();
        assert_eq!(Some(kind.as_str()), frame.event.as_deref());
        let index = data["output_index"].as_u64().unwrap_or_default();
        if kind.ends_with(".delta") {
            texts.entry(index).or_default().push_str(data["delta"].as_str().unwrap());
        } else if kind.ends_with("text.done") {
            assert_eq!(data["text"], texts[&index]);
        } else if kind == "response.function_call_arguments.done" {
            assert_eq!(data["arguments"], texts[&index]);
        }
    }
    assert_eq!(frames[0].event.as_deref(), Some("response.created"));
    assert_eq!(frames[1].event.as_deref(), Some("response.in_progress"));
    frames.last().unwrap().json()
}

/// The output without what differs from one answer to the next.
fn output(response: &Value) -> Value {
    let mut output = response["output"].clone();
    for item in output.as_array_mut().unwrap() {
        item["id"] = "id".into();
        if item.get("call_id").is_some() {
            item["call_id"] = "id".into();
        }
    }
    output
}

#[test]
fn a_stream_adds_up_to_the_same_response() {
    let server = TestServer::new();
    for (input, fields, last) in [
        ("What is 128 + 256?", json!({"reasoning": {"effort": "high"}}), "response.completed"),
        ("What is 12 + 30?", json!({}), "response.completed"),
        ("Tell me a story.", json!({"max_output_tokens": 5}), "response.incomplete"),
        ("What is the weather in Jakarta?", json!({"tools": tools()}), "response.completed"),
    ] {
        let body = with(request(json!(input)), fields);
        let whole = server.post("/v1/responses", &body).json();
        let end = check(&server.stream("/v1/responses", &body));
        assert_eq!(end["type"], last);
        assert_eq!(output(&end["response"]), output(&whole));
        assert_eq!(end["response"]["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    }
}

#[test]
fn the_output_is_an_input() {
    let server = TestServer::new();
    let body = with(request(json!("What is the weather in Jakarta?")), json!({"tools": tools()}));
    let reply = server.post("/v1/responses", &body).json();
    let call = &reply["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("get_weather")), "{reply}");
    let input = json!([
        {"role": "user", "content": "What is the weather in Jakarta?"},
        call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "{\"temperature\": 31}"},
    ]);
    let answer = server.post("/v1/responses", &with(body, json!({"input": input}))).json();
    assert!(answer["output"][0]["content"][0]["text"].as_str().unwrap().contains("31"), "{answer}");
    // Reasoning goes back and does no harm.
    let body = with(request(json!("What is 128 + 256?")), json!({"reasoning": {"effort": "high"}}));
    let reply = server.post("/v1/responses", &body).json();
    assert_eq!(reply["output"][0]["type"], "reasoning");
    let mut input = vec![json!({"role": "user", "content": "What is 128 + 256?"})];
    input.extend(reply["output"].as_array().unwrap().clone());
    input.push(json!({"role": "user", "content": "What is 12 + 30?"}));
    let again = server.post("/v1/responses", &request(json!(input)));
    assert_eq!(again.status, 200, "{}", again.body);
}

#[test]
fn what_needs_a_memory_is_refused() {
    let server = TestServer::new();
    for (field, fields) in [
        ("previous_response_id", json!({"previous_response_id": "resp_1"})),
        ("background", json!({"background": true})),
        ("tools[0].type", json!({"tools": [{"type": "web_search"}]})),
        ("input", json!({"input": []})),
        ("input", json!({"input": 5})),
        ("input[0].type", json!({"input": [{"type": "image_generation_call"}]})),
        ("input[0].call_id", json!({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]})),
        ("max_output_tokens", json!({"max_output_tokens": 0})),
    ] {
        let reply = server.post("/v1/responses", &with(request(json!("hi")), fields));
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(field)), "{}", reply.body);
    }
}
