//! Answers held to a form: JSON, schemas, expressions, calls that must be made; and forms that cannot be.

use serde_json::{Value, json};

use crate::support::{TestServer, chat, with};

fn schema() -> Value {
    json!({"type": "object", "properties": {"planet": {"enum": ["Mercury", "Venus"]}, "moons": {"type": "integer"}},
           "required": ["planet", "moons"], "additionalProperties": false})
}

fn of_schema(schema: &Value) -> Value {
    json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}})
}

fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{reply}"))
}

#[test]
fn an_answer_follows_its_schema_whatever_was_asked() {
    let server = TestServer::new();
    for question in ["Tell me a story about a fox.", "What is 12 + 30?"] {
        for thinking in ["enabled", "disabled"] {
            let body =
                with(with(chat(question), of_schema(&schema())), json!({"thinking": {"type": thinking}}));
            let reply = server.post("/v1/chat/completions", &body).json();
            let answer: Value = serde_json::from_str(content(&reply)).unwrap();
            assert!(answer["planet"] == "Mercury" || answer["planet"] == "Venus", "{answer}");
            assert!(answer["moons"].is_i64());
            // The form begins after the reasoning, which is as free as ever.
            let reasoning = reply["choices"][0]["message"]["reasoning_content"].as_str();
            assert_eq!(reasoning.is_some_and(|text| !text.is_empty()), thinking == "enabled");
        }
    }
    let body = with(chat("Tell me a story about a fox."), of_schema(&schema()));
    let whole = server.post("/v1/chat/completions", &body).json();
    let streamed: String = server
        .stream("/v1/chat/completions", &body)
        .iter()
        .filter(|frame| frame.data != "[DONE]")
        .map(|frame| frame.json()["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(streamed, content(&whole));
}

#[test]
fn other_forms_and_other_front_ends() {
    let server = TestServer::new();
    let regex = with(
        chat("Tell me a story."),
        json!({"response_format": {"type": "regex", "regex": "[0-9]{3}-[a-f]{2}"}}),
    );
    let reply = server.post("/v1/chat/completions", &regex).json();
    let text = content(&reply);
    assert!(text.len() == 6 && text.as_bytes()[3] == b'-', "{text}");
    let lark = with(
        chat("Tell me a story."),
        json!({"response_format": {"type": "grammar", "grammar": "start: \"yes\" | \"no\""}}),
    );
    let reply = server.post("/v1/chat/completions", &lark).json();
    assert!(["yes", "no"].contains(&content(&reply)));
    let object = with(
        chat("Tell me a story as JSON."),
        json!({"response_format": {"type": "json_object"}, "max_tokens": 200}),
    );
    assert!(content(&server.post("/v1/chat/completions", &object).json()).starts_with('{'));
    let format = json!({"type": "json_schema", "name": "x", "schema": schema()});
    let body =
        json!({"model": "demo", "input": "Tell me a story.", "temperature": 0, "text": {"format": format}});
    let reply = server.post("/v1/responses", &body).json();
    let answer: Value =
        serde_json::from_str(reply["output"][0]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(answer["moons"].is_i64());
    let body = json!({"model": "demo", "prompt": "Once", "temperature": 0, "max_tokens": 8,
                      "response_format": {"type": "regex", "regex": "[xyz]{4}"}});
    let text = server.post("/v1/completions", &body).json()["choices"][0]["text"].clone();
    assert!(
        text.as_str().unwrap().len() == 4 && text.as_str().unwrap().bytes().all(|b| b"xyz".contains(&b)),
        "{text}"
    );
}

fn tools(strict: bool) -> Value {
    let function = |name: &str, property: Value| {
        let parameters = json!({"type": "object", "properties": {"value": property}, "required": ["value"],
                                "additionalProperties": false});
        json!({"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}})
    };
    json!([
        function("get_weather", json!({"enum": ["Atlantis"]})),
        function("calculator", json!({"type": "integer"}))
    ])
}

#[test]
fn a_call_that_must_be_made_is_made() {
    let server = TestServer::new();
    let ask = |fields: Value| {
        let body = with(with(chat("Hello!"), json!({"tools": tools(true), "max_tokens": 400})), fields);
        let reply = server.post("/v1/chat/completions", &body).json();
        reply["choices"][0]["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("{reply}")).clone()
    };
    for thinking in ["enabled", "disabled"] {
        let mode = json!({"type": thinking});
        let calls = ask(json!({"tool_choice": "required", "parallel_tool_calls": false, "thinking": mode}));
        assert_eq!(calls.len(), 1);
        for name in ["get_weather", "calculator"] {
            let choice = json!({"type": "function", "function": {"name": name}});
            let calls = ask(json!({"tool_choice": choice, "parallel_tool_calls": false, "thinking": mode}));
            assert_eq!((calls.len(), &calls[0]["function"]["name"]), (1, &json!(name)));
            let arguments: Value =
                serde_json::from_str(calls[0]["function"]["arguments"].as_str().unwrap()).unwrap();
            let fits = if name == "calculator" {
                arguments["value"].is_i64()
            } else {
                arguments["value"] == "Atlantis"
            };
            assert!(fits, "{arguments}");
        }
    }
}

#[test]
fn a_strict_tool_is_held_to_its_schema() {
    let server = TestServer::new();
    let ask = |strict: bool| {
        let body = with(chat("What is the weather in Jakarta?"), json!({"tools": tools(strict)}));
        server.post("/v1/chat/completions", &body).json()
    };
    let reply = ask(true);
    let call = &reply["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(
        serde_json::from_str::<Value>(call["arguments"].as_str().unwrap()).unwrap(),
        json!({"value": "Atlantis"})
    );
    // A schema that is open somewhere cannot be promised.
    let mut open = tools(true);
    open[1]["function"]["parameters"].as_object_mut().unwrap().remove("additionalProperties");
    let reply = server.post("/v1/chat/completions", &with(chat("hi"), json!({"tools": open})));
    let field = "tools[1].function.parameters.additionalProperties";
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(field)));
}

#[test]
fn what_cannot_be_held_to_is_refused_where_it_is() {
    let server = TestServer::new();
    let bomb = "(".repeat(30) + "a" + &"{9})".repeat(30);
    let cases = [
        (
            "response_format.json_schema.schema.properties.a",
            of_schema(&json!({"type": "object", "properties": {"a": {"type": "what"}}})),
        ),
        ("response_format.json_schema.schema", of_schema(&json!({"type": "string", "pattern": bomb}))),
        ("response_format.regex", json!({"response_format": {"type": "regex", "regex": bomb}})),
        ("response_format.regex", json!({"response_format": {"type": "regex", "regex": "(unclosed"}})),
        (
            "response_format.grammar",
            json!({"response_format": {"type": "grammar", "grammar": "start: missing"}}),
        ),
        (
            "response_format.grammar",
            json!({"response_format": {"type": "grammar", "grammar": "x".repeat(300_000)}}),
        ),
        ("messages", json!({"response_format": {"type": "json_object"}})),
        (
            "response_format.type",
            json!({"response_format": {"type": "regex", "regex": "a"}, "tools": tools(false)}),
        ),
    ];
    for (field, fields) in cases {
        let reply = server.post("/v1/chat/completions", &with(chat("hi"), fields));
        assert_eq!(reply.status, 400, "{}", reply.body);
        let found = reply.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
        assert!(found.starts_with(field), "{field}: {}", reply.body);
    }
    assert_eq!(server.post("/v1/chat/completions", &chat("What is 12 + 30?")).status, 200);
}
