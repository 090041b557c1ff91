//! Keys with quotas, namespaces of the prefix cache, metrics.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cachalot::serve::{ServerOptions, ServiceOptions};
use serde_json::{Value, json};
use tracing::Level;

use crate::support::{Reply, TestServer, chat, comes_true, options, with};

/// `printf %s alice | sha256sum`, and the same of bob.
const ALICE: &str = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";
const BOB: &str = "81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9";

fn server(keys: &Path) -> TestServer {
    let options = ServerOptions { keys_file: Some(keys.to_owned()), ..options() };
    TestServer::with(options, ServiceOptions::default())
}

fn post(server: &TestServer, key: &str, body: &Value) -> Reply {
    let key = format!("Bearer {key}");
    server.send("POST", "/v1/chat/completions", &[("authorization", &key)], body.to_string().as_bytes())
}

fn entry(name: &str, digest: &str, limits: &str) -> String {
    format!("[[key]]\nname = \"{name}\"\nsha256 = \"{digest}\"\n{limits}\n")
}

/// What the servers of this process report as an error, for what shows nowhere else.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The only one: a process has one log.
    fn start() -> Self {
        let log = Self::default();
        let lines = log.clone();
        let subscriber = tracing_subscriber::fmt().with_max_level(Level::ERROR).with_ansi(false);
        subscriber.with_writer(move || lines.clone()).init();
        log
    }

    /// Whether some line has all of `words`.
    fn says(&self, words: &[&str]) -> bool {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        text.lines().any(|line| words.iter().all(|word| line.contains(word)))
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn keys_come_and_go_with_their_file() {
    let log = Log::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.toml");
    std::fs::write(&file, entry("alice", ALICE, "")).unwrap();
    let server = server(&file);
    let body = with(chat("hi"), json!({"max_tokens": 2}));
    assert_eq!(post(&server, "alice", &body).status, 200);
    assert_eq!(post(&server, "bob", &body).status, 401);
    // The digest itself opens nothing.
    assert_eq!(post(&server, ALICE, &body).status, 401);
    let becomes = |status: u16| comes_true(|| post(&server, "bob", &body).status == status);
    std::fs::write(&file, "[[key]]\nname = \"broken").unwrap();
    assert!(comes_true(|| log.says(&[&file.display().to_string(), "the keys stay as they were"])));
    assert_eq!(post(&server, "alice", &body).status, 200, "a broken file changes nothing");
    std::fs::write(&file, entry("bob", BOB, "")).unwrap();
    assert!(becomes(200), "a new key is not noticed");
    assert_eq!(post(&server, "alice", &body).status, 401, "a key that is gone still works");
    std::fs::write(&file, "").unwrap();
    assert!(becomes(401), "a file without keys lets everybody in");
}

#[test]
fn a_quota_ends_with_429_and_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.toml");
    let text = entry("alice", ALICE, "requests_per_minute = 2") + &entry("bob", BOB, "tokens_per_minute = 5");
    std::fs::write(&file, text).unwrap();
    let server = server(&file);
    let body = with(chat("hi"), json!({"max_tokens": 2}));
    // Two at once, and one more every half minute.
    let (begin, mut let_in) = (Instant::now(), 0);
    let over = loop {
        let reply = post(&server, "alice", &body);
        if reply.status != 200 {
            break reply;
        }
        let_in += 1;
        assert!(let_in <= 2 + begin.elapsed().as_secs() / 30, "{let_in} are let in");
    };
    assert!(let_in >= 2, "{}", over.body);
    assert_eq!((over.status, &over.json()["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    let wait: u64 = over.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    // Others are not concerned; the first request of a key is let in and pays afterwards.
    assert_eq!(post(&server, "bob", &body).status, 200);
    assert_eq!(post(&server, "bob", &body).status, 429);
}

#[test]
fn one_at_a_time_means_one_stream_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.toml");
    std::fs::write(&file, entry("alice", ALICE, "concurrency = 1")).unwrap();
    let server = server(&file);
    // The stream has not begun to end before its client goes.
    let taken = server.take_blocks_but(0);
    let long =
        with(chat("Tell me a story."), json!({"stream": true, "ignore_eos": true, "max_tokens": 1800}));
    let long = long.to_string();
    let mut client = std::net::TcpStream::connect(server.addr).unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: alice\r\ncontent-length: {}\r\n\r\n",
        long.len()
    );
    client.write_all((head + &long).as_bytes()).unwrap();
    assert!(comes_true(|| !server.service.is_idle()));
    let body = with(chat("hi"), json!({"max_tokens": 2}));
    assert_eq!(post(&server, "alice", &body).status, 429);
    drop(client);
    assert!(server.all_end());
    drop(taken);
    assert_eq!(post(&server, "alice", &body).status, 200);
}

#[test]
fn the_cache_of_one_is_closed_to_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.toml");
    std::fs::write(&file, entry("alice", ALICE, "") + &entry("bob", BOB, "")).unwrap();
    let server = server(&file);
    let long = "The quick brown fox jumps over the lazy dog. ".repeat(8);
    let hits = |key: &str, user: Option<&str>| {
        let body = with(chat(&long), json!({"max_tokens": 1, "user_id": user}));
        let usage = post(&server, key, &body).json()["usage"].clone();
        usage["prompt_cache_hit_tokens"].as_u64().unwrap()
    };
    assert_eq!(hits("alice", None), 0);
    assert!(hits("alice", None) > 100);
    assert_eq!(hits("bob", None), 0, "another key's prompt is in the cache");
    assert_eq!(hits("alice", Some("u1")), 0, "another user's prompt is in the cache");
    assert!(hits("alice", Some("u1")) > 100);
    assert_eq!(hits("alice", Some("u2")), 0);
}

#[test]
fn metrics_have_vllms_names_and_count() {
    let server = TestServer::new();
    for _ in 0..2 {
        server.post(
            "/v1/chat/completions",
            &with(chat("Tell me a story about a fox."), json!({"max_tokens": 5})),
        );
    }
    server.post("/v1/chat/completions", &json!({}));
    server.send("GET", "/made/up/by/a/client", &[], b"");
    assert!(server.becomes_idle());
    let reply = server.get("/metrics");
    assert!(reply.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let value = |line: &str| -> f64 {
        let found = reply.body.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in\n{}", reply.body)).parse().unwrap()
    };
    let demo = "{model_name=\"demo\"}";
    assert_eq!(value(&format!("vllm:num_requests_running{demo}")), 0.0);
    assert_eq!(value(&format!("vllm:num_requests_waiting{demo}")), 0.0);
    assert_eq!(value(&format!("vllm:generation_tokens_total{demo}")), 10.0);
    assert!(value(&format!("vllm:prompt_tokens_total{demo}")) > 10.0);
    assert_eq!(value(&format!("vllm:time_to_first_token_seconds_count{demo}")), 2.0);
    assert_eq!(value(&format!("vllm:e2e_request_latency_seconds_count{demo}")), 2.0);
    assert_eq!(value("vllm:request_success_total{model_name=\"demo\",finished_reason=\"length\"}"), 2.0);
    assert_eq!(
        value("vllm:time_to_first_token_seconds_bucket{model_name=\"demo\",le=\"+Inf\"}"),
        2.0,
        "the buckets add up"
    );
    let requests = |status: u16, route: &str, method: &str| {
        value(&format!(
            "cachalot:http_requests_total{{model_name=\"demo\",method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"
        ))
    };
    assert_eq!(requests(200, "/v1/chat/completions", "POST"), 2.0);
    assert_eq!(requests(400, "/v1/chat/completions", "POST"), 1.0);
    // What a client makes up is no label.
    assert_eq!(requests(404, "-", "GET"), 1.0);
    assert!(!reply.body.contains("made/up"));
}
