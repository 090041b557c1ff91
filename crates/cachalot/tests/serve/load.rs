//! More clients than the server has room for, many of whom leave early: each is answered or refused in words, and
//! afterwards nothing is left of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cachalot::serve::{Limits, ServerOptions, ServiceOptions};
use serde_json::{Value, json};

use crate::command::{Running, command};
use crate::support::{TestServer, chat, limits, options, with};

const CLIENTS: usize = 60;
const REQUESTS_PER_CLIENT: usize = 10;

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The whole answer.
    Answered,
    /// 429, with a body that says why.
    Busy,
    /// 400, with a body that says why.
    Wrong,
    /// The client did not wait for it.
    Left,
}

/// Repeatable, and different for every request.
fn mix(client: usize, request: usize) -> usize {
    (client * REQUESTS_PER_CLIENT + request).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

/// Sends a request over a connection of its own.
fn send(addr: &str, body: &Value) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    let body = body.to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    BufReader::new(stream)
}

/// Reads to the end and judges what came.
fn judge(mut reply: impl Read, is_stream: bool) -> Outcome {
    let mut text = String::new();
    reply.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    match head.split(' ').nth(1) {
        Some("200") if is_stream => {
            assert!(body.contains("\"finish_reason\":\"") && body.contains("data: [DONE]"), "{body}");
            Outcome::Answered
        }
        Some("200") => {
            let body: Value = serde_json::from_str(body).unwrap();
            assert!(body["choices"][0]["finish_reason"].is_string(), "{body}");
            Outcome::Answered
        }
        Some("429") => {
            assert!(body.contains("server_busy") && head.contains("retry-after"), "{text}");
            Outcome::Busy
        }
        Some("400") => {
            assert!(body.contains("\"error\""), "{text}");
            Outcome::Wrong
        }
        _ => panic!("{text}"),
    }
}

fn one(addr: &str, random: usize) -> Outcome {
    let is_stream = random & 1 == 0;
    let question = format!("{}What is {} + 4?", "The fox and the raven. ".repeat(random % 5), random % 100);
    let body = with(chat(&question), json!({"max_tokens": 2 + random % 40, "stream": is_stream}));
    match random >> 1 & 7 {
        0 => drop(send(addr, &body)),
        1 | 2 => {
            let reply = send(addr, &with(body, json!({"stream": true, "ignore_eos": true})));
            reply.lines().take(random >> 4 & 31).for_each(drop);
        }
        3 => return judge(send(addr, &with(body, json!({"temperature": "hot"}))), false),
        _ => return judge(send(addr, &body), is_stream),
    }
    Outcome::Left
}

#[test]
fn a_crowd_that_comes_and_goes_leaves_nothing_behind() {
    let service = ServiceOptions { max_num_seqs: 8, max_waiting: 16, ..ServiceOptions::default() };
    // Nobody waits so long that blank lines are sent ahead of an answer: `judge` reads bodies that come in one piece.
    let limits = Limits { keep_alive: Duration::from_secs(300), ..limits() };
    let server = TestServer::with(ServerOptions { limits, ..options() }, service);
    let addr = server.addr.to_string();
    let is_over = AtomicBool::new(false);
    let client = |client| {
        let requests = 0..REQUESTS_PER_CLIENT;
        requests.map(|request| one(&addr, mix(client, request))).collect::<Vec<Outcome>>()
    };
    let client = &client;
    let (outcomes, healthy) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut looks = 0;
            while !is_over.load(Ordering::SeqCst) {
                assert_eq!(server.get("/health").status, 200);
                looks += 1;
                thread::sleep(Duration::from_millis(50));
            }
            looks
        });
        let clients: Vec<_> = (0..CLIENTS).map(|i| scope.spawn(move || client(i))).collect();
        let outcomes: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        is_over.store(true, Ordering::SeqCst);
        let outcomes: Vec<Outcome> = outcomes.into_iter().flat_map(Result::unwrap).collect();
        (outcomes, watch.join().unwrap())
    });
    assert!(healthy > 0);
    for outcome in [Outcome::Answered, Outcome::Busy, Outcome::Wrong, Outcome::Left] {
        let count = outcomes.iter().filter(|other| **other == outcome).count();
        assert!(count > CLIENTS / 10, "only {count} {outcome:?} of {}", outcomes.len());
    }
    assert!(server.becomes_idle(), "{:?}", server.service.health());
    for name in ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"] {
        assert_eq!(server.metric(name), 0.0, "{name}");
    }
    let allocator = server.service.engine().allocator();
    assert_eq!(allocator.num_free_blocks(), allocator.num_blocks());
    allocator.check_integrity().unwrap();
    assert_eq!(judge(send(&addr, &with(chat("hi"), json!({"max_tokens": 2}))), false), Outcome::Answered);
}

#[test]
fn sigterm_under_load_drains_and_exits_with_zero() {
    let running = Running::start(command(&["--port", "0", "--max-num-seqs", "4", "--drain-timeout", "240"]));
    let addr = running.url.strip_prefix("http://").unwrap().to_owned();
    let body = with(chat("Tell me a story."), json!({"stream": true, "max_tokens": 60, "ignore_eos": true}));
    // All of them are in the server, though most of them wait.
    let mut replies: Vec<_> = (0..16).map(|_| send(&addr, &body)).collect();
    for reply in &mut replies {
        let mut line = String::new();
        reply.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    }
    running.ask_to_end();
    for mut reply in replies {
        let mut text = String::new();
        reply.read_to_string(&mut text).unwrap();
        assert!(text.contains("\"finish_reason\":\"length\"") && text.contains("data: [DONE]"), "{text}");
    }
    let (code, log) = running.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(TcpStream::connect(&addr).is_err(), "somebody still listens at {addr}");
}
