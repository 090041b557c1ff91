//! `/openapi.json` says what the server does.

use serde_json::{Value, json};

use crate::support::{TestServer, chat, with};

#[test]
fn every_path_of_the_document_is_there() {
    let server = TestServer::new();
    let document = server.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20);
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let reply = server.send(&method.to_uppercase(), path, &[], b"{}");
            let expected = if method == "get" { 200 } else { 400 };
            assert_eq!(reply.status, expected, "{method} {path}: {}", reply.body);
        }
        // What a body refers to is there.
        if let Some(schema) =
            methods["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str()
        {
            let name = schema.strip_prefix("#/components/schemas/").unwrap();
            assert_eq!(document["components"]["schemas"][name]["type"], "object", "{name}");
        }
    }
}

/// A value just outside the bounds of a schema, at either end.
fn outside(schema: &Value) -> Vec<Value> {
    let step = if schema["type"][0] == "integer" { json!(1) } else { json!(0.01) };
    let moved = |bound: &Value, sign: f64| {
        let value = bound.as_f64()? + sign * step.as_f64()?;
        Some(if schema["type"][0] == "integer" { json!(value as i64) } else { json!(value) })
    };
    let most = schema["maximum"].as_f64().filter(|most| *most < 1e15).map(|most| json!(most));
    let bounds = [
        moved(&schema["minimum"], -1.0),
        schema.get("exclusiveMinimum").cloned(),
        most.and_then(|most| moved(&most, 1.0)),
    ];
    bounds.into_iter().flatten().collect()
}

#[test]
fn every_bound_of_the_document_holds() {
    let server = TestServer::new();
    let document = server.get("/openapi.json").json();
    let fields = document["components"]["schemas"]["ChatRequest"]["properties"].clone();
    let mut checked = 0;
    for (field, schema) in fields.as_object().unwrap() {
        for value in outside(schema) {
            let reply = server.post("/v1/chat/completions", &with(chat("hi"), json!({field: value})));
            assert_eq!(reply.status, 400, "{field} {value}: {}", reply.body);
            assert_eq!(reply.json()["error"]["param"], *field, "{value}");
            checked += 1;
        }
        for bound in [&schema["minimum"], &schema["maximum"]].into_iter().filter(|bound| bound.is_number()) {
            let body = with(chat("hi"), json!({"max_tokens": 1}));
            let mut body = with(body, json!({field: bound}));
            if field == "top_logprobs" {
                body["logprobs"] = true.into();
            }
            // As many choices as this server computes at once.
            if field == "n" && *bound != 1 {
                continue;
            }
            let reply = server.post("/v1/chat/completions", &body);
            assert_eq!(reply.status, 200, "{field} {bound}: {}", reply.body);
        }
    }
    assert!(checked >= 18, "{checked}");
}
