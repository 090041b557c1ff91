//! Bad input: every field out of range is refused by name, in the API's own form.

use cachalot::serve::{Dialect, Limits, ServerOptions, ServiceOptions};
use serde_json::{Value, json};

use crate::support::{TestServer, chat, options, with};

#[test]
fn a_field_out_of_range_is_named() {
    let server = TestServer::new();
    let long = "x".repeat(2000);
    let cases = [
        ("temperature", json!({"temperature": 2.1})),
        ("temperature", json!({"temperature": -0.1})),
        ("top_p", json!({"top_p": 0})),
        ("top_p", json!({"top_p": 1.5})),
        ("top_k", json!({"top_k": -2})),
        ("min_p", json!({"min_p": 1.1})),
        ("presence_penalty", json!({"presence_penalty": 2.5})),
        ("frequency_penalty", json!({"frequency_penalty": -2.5})),
        ("repetition_penalty", json!({"repetition_penalty": 0})),
        ("seed", json!({"seed": -1})),
        ("n", json!({"n": 0})),
        ("n", json!({"n": 129})),
        ("n", json!({"n": 100})),
        ("n", json!({"n": u64::MAX})),
        ("max_tokens", json!({"max_tokens": 0})),
        ("max_tokens", json!({"max_tokens": 393_217})),
        ("max_completion_tokens", json!({"max_completion_tokens": 0})),
        ("top_logprobs", json!({"logprobs": true, "top_logprobs": 21})),
        ("top_logprobs", json!({"top_logprobs": 2})),
        ("stop", json!({"stop": vec!["a"; 17]})),
        ("stop", json!({"stop": [""]})),
        ("stop", json!({"stop": long})),
        ("stop_token_ids", json!({"stop_token_ids": vec![1; 129]})),
        ("stop_token_ids", json!({"stop_token_ids": [5000]})),
        ("logit_bias.5", json!({"logit_bias": {"5": 101}})),
        ("logit_bias", json!({"logit_bias": {"five": 1}})),
        ("logit_bias", json!({"logit_bias": {"5000": 1}})),
        ("stream_options", json!({"stream_options": {"include_usage": true}})),
        ("reasoning_effort", json!({"reasoning_effort": "extreme"})),
        ("reasoning_effort", json!({"reasoning_effort": true})),
        ("user_id", json!({"user_id": "two words"})),
        ("user_id", json!({"user_id": "x".repeat(513)})),
        ("messages", json!({"messages": []})),
        ("messages[0].role", json!({"messages": [{"role": "wizard", "content": "x"}]})),
        ("messages[0].content", json!({"messages": [{"role": "user"}]})),
        ("messages[0].content", json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})),
        ("messages[0].prefix", json!({"messages": [{"role": "user", "content": "x", "prefix": true}]})),
        ("messages[0].tool_call_id", json!({"messages": [{"role": "tool", "content": "x"}]})),
        ("response_format.type", json!({"response_format": {"type": "poem"}})),
        ("tools[0].type", json!({"tools": [{"type": "spell"}]})),
        ("tools[0].function.name", json!({"tools": [{"type": "function", "function": {"name": "a b"}}]})),
        ("tool_choice", json!({"tool_choice": "required"})),
    ];
    for (field, fields) in cases {
        let reply = server.post("/v1/chat/completions", &with(chat("hi"), fields.clone()));
        let error = &reply.json()["error"];
        assert_eq!(reply.status, 400, "{fields}: {}", reply.body);
        assert_eq!(error["param"], field, "{fields}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["code"], "invalid_value", "{fields}");
        assert!(error["message"].as_str().unwrap().contains(", expected "), "{error}");
    }
    assert!(server.service.is_idle());
}

#[test]
fn a_wrong_type_is_named() {
    let server = TestServer::new();
    let cases = [
        ("temperature", json!({"temperature": "hot"})),
        ("max_tokens", json!({"max_tokens": -1})),
        ("max_tokens", json!({"max_tokens": 1.5})),
        ("n", json!({"n": "two"})),
        ("stream", json!({"stream": "yes"})),
        ("stop", json!({"stop": 5})),
        ("messages", json!({"messages": "hello"})),
        (
            "messages[1].content",
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": 5}]}),
        ),
        ("messages[0]", json!({"messages": [{"content": "x"}]})),
        ("response_format", json!({"response_format": "json"})),
        (
            "response_format.json_schema.schema",
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
        ),
        ("response_format.regex", json!({"response_format": {"type": "regex", "regex": 5}})),
        ("thinking.type", json!({"thinking": {"type": "deep"}})),
        ("model", json!({"model": 5})),
        ("model", json!({"model": null})),
        ("messages", json!({"messages": null})),
        ("tools", json!({"tools": "hammer"})),
        ("tools[0].function.name", json!({"tools": [{"type": "function", "function": {}}]})),
        ("logit_bias.1", json!({"logit_bias": {"1": "much"}})),
    ];
    for (field, fields) in cases {
        let reply = server.post("/v1/chat/completions", &with(chat("hi"), fields.clone()));
        assert_eq!(reply.status, 400, "{fields}: {}", reply.body);
        let error = &reply.json()["error"];
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(field), &json!("invalid_type")),
            "{fields}: {error}"
        );
    }
}

#[test]
fn what_is_no_request_is_refused() {
    let server = TestServer::new();
    let deep = format!(r#"{{"model": "demo", "tools": {}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    for body in ["", "{", "[1, 2", "not json", "{\"model\": \"demo\"} {}", &deep, "\u{feff}{}"] {
        let reply = server.send("POST", "/v1/chat/completions", &[], body.as_bytes());
        assert_eq!(reply.status, 400, "{}", reply.body);
        assert_eq!(reply.json()["error"]["code"], "invalid_json", "{}", reply.body);
    }
    let reply = server.send("POST", "/v1/chat/completions", &[], b"\xff\xfe");
    assert_eq!(reply.status, 400);
    // What nobody reads may be as deep as it likes: it is skipped without recursion.
    let unread = deep.replace("tools", "spells");
    let reply = server.send("POST", "/v1/chat/completions", &[], unread.as_bytes());
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("messages")));
    for body in ["[]", "5", "null", "\"text\""] {
        let reply = server.send("POST", "/v1/chat/completions", &[], body.as_bytes());
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (400, &json!("invalid_type")), "{body}");
    }
}

#[test]
fn paths_methods_and_models_that_are_not_there() {
    let server = TestServer::new();
    for (method, path, status, code) in [
        ("GET", "/v2/chat", 404, "unknown_url"),
        ("POST", "/nowhere", 404, "unknown_url"),
        ("POST", "/", 405, "method_not_supported"),
        ("GET", "/v1/chat/completions", 405, "method_not_supported"),
        ("DELETE", "/v1/models", 405, "method_not_supported"),
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
    ] {
        let reply = server.send(method, path, &[], b"");
        assert_eq!(reply.status, status, "{method} {path}");
        assert_eq!(reply.json()["error"]["code"], code);
    }
    let reply = server.send("GET", "/v1/chat/completions", &[], b"");
    assert_eq!(reply.header("allow"), Some("POST"));
    let reply = server.post("/v1/chat/completions", &with(chat("hi"), json!({"model": "gpt-5"})));
    let error = &reply.json()["error"];
    assert_eq!(
        (reply.status, &error["code"], &error["param"]),
        (404, &json!("model_not_found"), &json!("model"))
    );
}

#[test]
fn what_is_too_long_is_refused() {
    let limits = Limits { max_body_bytes: 20_000, ..Limits::default() };
    let server = TestServer::with(ServerOptions { limits, ..options() }, ServiceOptions::default());
    let reply = server.post("/v1/chat/completions", &chat(&"a ".repeat(20_000)));
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (413, &json!("request_too_large")));
    let reply = server.post("/v1/chat/completions", &chat(&"12 ".repeat(3000)));
    let error = &reply.json()["error"];
    assert_eq!(reply.status, 400);
    assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("messages")));
    assert!(error["message"].as_str().unwrap().contains("maximum context length is 2048 tokens"), "{error}");
}

#[test]
fn keys_open_the_server() {
    let keys = vec!["sesame".to_owned(), "second".to_owned()];
    let server = TestServer::with(ServerOptions { api_keys: keys, ..options() }, ServiceOptions::default());
    let post = |headers: &[(&str, &str)]| {
        server.send("POST", "/v1/chat/completions", headers, chat("hi").to_string().as_bytes())
    };
    for headers in [
        &[][..],
        &[("authorization", "Bearer wrong")],
        &[("authorization", "Bearer sesame2")],
        &[("authorization", "Bearer sesam")],
        &[("authorization", "Basic sesame")],
        &[("authorization", "Bearer ")],
        &[("x-api-key", "wrong")],
    ] {
        let reply = post(headers);
        assert_eq!(reply.status, 401, "{headers:?}");
        assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
        assert_eq!(reply.json()["error"]["type"], "authentication_error");
    }
    for headers in
        [("authorization", "Bearer sesame"), ("authorization", "bearer second"), ("x-api-key", "sesame")]
    {
        assert_eq!(post(&[headers]).status, 200, "{headers:?}");
    }
    // Unknown paths tell nothing to strangers that known ones would not; the probes need no key.
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/ready").status, 200);
}

#[test]
fn deepseek_has_its_own_words_and_limits() {
    let dialect = Dialect::DeepSeek;
    let server = TestServer::with(ServerOptions { dialect, ..options() }, ServiceOptions::default());
    let post = |fields: Value| server.post("/chat/completions", &with(chat("What is 12 + 30?"), fields));
    let reply = post(json!({"n": 2}));
    assert_eq!(reply.status, 400);
    let error = reply.json()["error"].clone();
    assert!(error["param"].is_null());
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("invalid_request_error"), &json!("invalid_request_error"))
    );
    let reply = post(json!({"messages": [{"role": "user", "content": 5}]}));
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(reply.status, 400);
    let start = "Failed to deserialize the JSON body into the target type: messages[0].content: invalid type";
    assert!(message.starts_with(start), "{message}");
    // The model reasons unless told otherwise.
    let reasons = |reply: Value| reply["choices"][0]["message"].get("reasoning_content").is_some();
    assert!(reasons(post(json!({})).json()));
    assert!(!reasons(post(json!({"thinking": {"type": "disabled"}})).json()));
    // Sampling options count only without reasoning.
    let text = |temperature: f64, thinking: &str| {
        let mode =
            json!({"thinking": {"type": thinking}, "temperature": temperature, "seed": 5, "max_tokens": 40});
        let story = json!({"messages": [{"role": "user", "content": "Tell me a story about a fox."}]});
        let message = post(with(mode, story)).json()["choices"][0]["message"].clone();
        format!("{}{}", message["reasoning_content"], message["content"])
    };
    assert_eq!(text(0.0, "enabled"), text(2.0, "enabled"));
    assert_ne!(text(0.0, "disabled"), text(2.0, "disabled"));
    let calls = json!({"messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "y"},
    ]});
    let reply = post(calls.clone());
    let said = "The `reasoning_content` in the thinking mode must be passed back to the API.";
    assert_eq!((reply.status, &reply.json()["error"]["message"]), (400, &json!(said)));
    let mut passed = calls;
    passed["messages"][1]["reasoning_content"] = "".into();
    passed["max_tokens"] = 4.into();
    assert_eq!(post(passed).status, 200);
}
