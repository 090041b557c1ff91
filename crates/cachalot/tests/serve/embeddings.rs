//! `/v1/embeddings`.

use serde_json::{Value, json};

use crate::support::TestServer;

fn vectors(reply: &Value) -> Vec<Vec<f64>> {
    let data = reply["data"].as_array().unwrap();
    data.iter().map(|entry| serde_json::from_value(entry["embedding"].clone()).unwrap()).collect()
}

#[test]
fn texts_become_vectors_of_length_one() {
    let server = TestServer::new();
    let body = json!({"model": "demo", "input": ["What is 12 + 30?", "What is 13 + 30?", "the fox"]});
    let reply = server.post("/v1/embeddings", &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let reply = reply.json();
    assert_eq!((&reply["object"], &reply["data"][2]["object"]), (&json!("list"), &json!("embedding")));
    assert_eq!(reply["data"][2]["index"], 2);
    assert_eq!(reply["usage"]["prompt_tokens"], reply["usage"]["total_tokens"]);
    let vectors = vectors(&reply);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert!(vectors.iter().all(|v| (dot(v, v) - 1.0).abs() < 1e-3));
    // Two sums are closer to each other than either is to a fox.
    let alike = dot(&vectors[0], &vectors[1]);
    assert!(alike > dot(&vectors[0], &vectors[2]) && alike > dot(&vectors[1], &vectors[2]));
    // One alone is the same as in company.
    let alone = server.post("/v1/embeddings", &json!({"model": "demo", "input": "the fox"})).json();
    let alone = self::vectors(&alone);
    assert!((dot(&alone[0], &vectors[2]) - 1.0).abs() < 1e-4);
}

#[test]
fn base64_holds_the_same_numbers() {
    let server = TestServer::new();
    let floats = server.post("/v1/embeddings", &json!({"model": "demo", "input": "the fox"})).json();
    let body = json!({"model": "demo", "input": "the fox", "encoding_format": "base64"});
    let text = server.post("/v1/embeddings", &body).json()["data"][0]["embedding"].clone();
    let bytes = decode(text.as_str().unwrap());
    let numbers: Vec<f64> =
        bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
    let floats = vectors(&floats);
    assert_eq!(numbers.len(), floats[0].len());
    assert!(numbers.iter().zip(&floats[0]).all(|(a, b)| (a - b).abs() < 1e-6));
}

/// Base64 the slow way.
fn decode(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |b: u8| ALPHABET.iter().position(|&a| a == b).unwrap() as u32;
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group.iter().fold(0, |bits, &b| bits << 6 | digit(b)) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

#[test]
fn what_has_no_vector_is_refused() {
    let server = TestServer::new();
    for (field, body) in [
        ("input", json!({"model": "demo"})),
        ("input", json!({"model": "demo", "input": []})),
        ("input", json!({"model": "demo", "input": vec!["x"; 129]})),
        ("input", json!({"model": "demo", "input": "12 ".repeat(3000)})),
        ("input", json!({"model": "demo", "input": {"text": "x"}})),
        ("dimensions", json!({"model": "demo", "input": "x", "dimensions": 8})),
        ("encoding_format", json!({"model": "demo", "input": "x", "encoding_format": "int8"})),
        ("model", json!({"model": "text-embedding-3-small", "input": "x"})),
    ] {
        let reply = server.post("/v1/embeddings", &body);
        assert!(reply.status == 400 || reply.status == 404, "{}", reply.body);
        assert_eq!(reply.json()["error"]["param"], field, "{}", reply.body);
    }
}
