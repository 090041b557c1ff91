//! Connections and their end: slow clients, clients that leave, a server that stops.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use cachalot::serve::{Limits, ServerOptions, ServiceOptions};
use serde_json::json;

use crate::support::{OFTEN, PATIENCE, SHORT, TestServer, chat, comes_true, limits, options, with};

/// An answer that takes a while: the demo model would end a turn soon.
fn long() -> serde_json::Value {
    with(chat("Tell me a story about a fox."), json!({"ignore_eos": true, "max_tokens": 1800}))
}

fn limited(limits: Limits) -> TestServer {
    TestServer::with(ServerOptions { limits, ..options() }, ServiceOptions::default())
}

/// So many blocks are enough for the beginning of [`long`], and for its prompt to be no tight fit.
const FEW_BLOCKS: usize = 8;

/// Whether the server closes the connection; returns what it said before.
fn reads_to_the_end(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the server keeps the connection: {error}"),
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn probes_and_request_ids() {
    let server = TestServer::new();
    let health = server.get("/health");
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("ok")));
    assert_eq!(server.get("/ready").status, 200);
    assert!(health.header("x-request-id").unwrap().starts_with("req-"));
    let named = server.send("GET", "/v1/models", &[("x-request-id", "mine-7")], b"");
    assert_eq!(named.header("x-request-id"), Some("mine-7"));
    let models = named.json();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("demo")));
    assert_eq!(models["data"][0]["object"], "model");
    assert_eq!(server.get("/models/demo").json()["id"], "demo");
    // An id that could break a log line is not taken over.
    let odd = server.send("GET", "/health", &[("x-request-id", "a b\tc")], b"");
    assert!(odd.header("x-request-id").unwrap().starts_with("req-"));
    let refused = server.send("POST", "/v1/completions", &[("x-request-id", "mine-8")], b"{");
    assert_eq!((refused.status, refused.header("x-request-id")), (400, Some("mine-8")));
}

#[test]
fn a_client_that_leaves_ends_its_generation() {
    let server = TestServer::new();
    // Neither answer ends by itself.
    let taken = server.take_blocks_but(FEW_BLOCKS);
    let mut stream = server.open_stream("/v1/chat/completions", &long());
    stream.by_ref().take(3).for_each(drop);
    assert!(!server.service.is_idle());
    drop(stream);
    assert!(server.all_end(), "a stream nobody reads goes on");
    // The same without a stream: the answer is not there yet when the client goes.
    let body = long().to_string();
    let mut client = TcpStream::connect(server.addr).unwrap();
    write!(
        client,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    assert!(server.all_begin(1));
    drop(client);
    assert!(server.all_end(), "an answer nobody waits for goes on");
    drop(taken);
    let allocator = server.service.engine().allocator();
    assert_eq!(allocator.num_free_blocks(), allocator.num_blocks());
}

#[test]
fn slow_clients_are_cut_off() {
    let server = limited(Limits { header_timeout: SHORT, ..limits() });
    // Nothing at all.
    let mut silent = TcpStream::connect(server.addr).unwrap();
    reads_to_the_end(&mut silent);
    // Headers that never end.
    let mut slow = TcpStream::connect(server.addr).unwrap();
    slow.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n").unwrap();
    reads_to_the_end(&mut slow);
    // A connection that did one request and now does nothing. A test that is slow itself is cut off before that: then
    // once more.
    let does_one = || {
        let mut idle = TcpStream::connect(server.addr).unwrap();
        let sent = idle.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
        sent.is_ok() && reads_to_the_end(&mut idle).starts_with("HTTP/1.1 200 ")
    };
    assert!(comes_true(does_one));
    // A body that never ends.
    let server = limited(Limits { body_timeout: SHORT, ..limits() });
    let mut slow = TcpStream::connect(server.addr).unwrap();
    slow.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").unwrap();
    let said = reads_to_the_end(&mut slow);
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("request_timeout"), "{said}");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_stream_that_nobody_reads_is_given_up() {
    let server = limited(Limits { write_timeout: SHORT, ..limits() });
    // Chunks of some kilobytes each: more in all than the system keeps for a client.
    let body = with(long(), json!({"stream": true, "logprobs": true, "top_logprobs": 20})).to_string();
    let mut client = TcpStream::connect(server.addr).unwrap();
    write!(
        client,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    assert!(comes_true(|| server.service.metrics().prompt_tokens > 0), "it does not begin");
    assert!(server.becomes_idle(), "it waits for a client that does not read");
    assert!(!reads_to_the_end(&mut client).contains("[DONE]"), "it was all written: nothing was tested");
}

#[test]
fn a_flood_of_connections_keeps_nobody_out_for_long() {
    let server = limited(Limits { max_connections: 4, header_timeout: SHORT, ..limits() });
    let flood: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
    // Four at a time are let in and cut off again; a request in between is answered.
    // A client that is slow itself is cut off too, and asks once more.
    let question = chat("What is 12 + 30?").to_string();
    for (method, path, body) in [("GET", "/health", ""), ("POST", "/v1/chat/completions", &question)] {
        let status = || server.try_send(method, path, &[], body.as_bytes()).map(|reply| reply.status);
        assert!(comes_true(|| matches!(status(), Ok(200))), "{path}");
    }
    drop(flood);
}

/// Sends a chat request on a connection of its own, for tests that look at the bytes that come back.
fn raw_chat(server: &TestServer, body: &serde_json::Value) -> TcpStream {
    let mut connection = TcpStream::connect(server.addr).unwrap();
    let (head, body) =
        ("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close", body.to_string());
    write!(connection, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection
}

/// Reads until `wanted` has come.
fn read_until(connection: &mut TcpStream, wanted: &str) -> String {
    let mut said = String::new();
    let mut buffer = [0; 512];
    while !said.contains(wanted) {
        let count = connection.read(&mut buffer).unwrap();
        assert!(count > 0, "it ended before {wanted:?}: {said}");
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    said
}

/// A server that runs one request at a time, and one that does not end.
fn busy() -> (TestServer, impl Sized) {
    let service = ServiceOptions { max_num_seqs: 1, max_waiting: 1, ..ServiceOptions::default() };
    let limits = Limits { keep_alive: OFTEN, ..limits() };
    let server = TestServer::with(ServerOptions { limits, ..options() }, service);
    let taken = server.take_blocks_but(FEW_BLOCKS);
    let running = server.open_stream("/v1/chat/completions", &long());
    assert!(server.all_begin(1));
    (server, (taken, running))
}

#[test]
fn a_queued_stream_shows_signs_of_life() {
    let (server, running) = busy();
    let mut queued = raw_chat(&server, &with(chat("hi"), json!({"stream": true})));
    let said = read_until(&mut queued, ": keep-alive");
    assert!(said.starts_with("HTTP/1.1 200 ") && !said.contains("data: "), "{said}");
    drop(running);
}

#[test]
fn a_queued_answer_shows_signs_of_life() {
    let (server, running) = busy();
    let mut queued = raw_chat(&server, &chat("What is 12 + 30?"));
    // A chunk of one byte, which is a blank line.
    let said = read_until(&mut queued, "\r\n\r\n1\r\n\n\r\n1\r\n\n\r\n");
    assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("content-type: application/json"), "{said}");
    drop(running);
    let said = read_until(&mut queued, "\r\n0\r\n\r\n");
    let answer = &said[said.find('{').unwrap()..=said.rfind('}').unwrap()];
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    // A client that knows nothing of this reads it as any other answer.
    assert_eq!(
        server.post("/v1/chat/completions", &with(long(), json!({"max_tokens": 300}))).json()["object"],
        "chat.completion"
    );
}

#[test]
fn a_queued_answer_that_goes_away_leaves_nothing() {
    let (server, running) = busy();
    let mut queued = raw_chat(&server, &long());
    read_until(&mut queued, "\n\r\n1\r\n\n");
    drop(queued);
    assert!(server.all_begin(1), "it waits on");
    drop(running);
    assert!(server.becomes_idle());
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let (server, running) = busy();
    let waiting = server.open_stream("/v1/chat/completions", &long());
    let refused = server.post("/v1/chat/completions", &chat("hi"));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (429, &json!("server_busy")));
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop((running, waiting));
}

#[test]
fn stopping_lets_running_answers_end() {
    let mut server = TestServer::new();
    let body = with(long(), json!({"max_tokens": 60}));
    let mut stream = server.open_stream("/v1/chat/completions", &body);
    stream.next();
    server.ask_to_stop();
    let frames: Vec<_> = stream.collect();
    assert_eq!(frames.last().unwrap().data, "[DONE]");
    assert_eq!(frames[frames.len() - 2].json()["choices"][0]["finish_reason"], "length");
    server.join();
}

#[test]
fn the_deadline_cuts_what_is_left() {
    let drain_deadline = Duration::from_millis(50);
    let mut server =
        TestServer::with(ServerOptions { drain_deadline, ..options() }, ServiceOptions::default());
    let taken = server.take_blocks_but(FEW_BLOCKS);
    let mut stream = server.open_stream("/v1/chat/completions", &long());
    stream.next();
    server.ask_to_stop();
    let frames: Vec<_> = stream.collect();
    let error = frames[frames.len() - 2].json();
    assert_eq!(error["error"]["code"], "server_unavailable", "{error}");
    server.join();
    drop(taken);
    assert!(server.all_end());
}

#[test]
fn an_error_after_blank_lines_is_told_in_the_body() {
    let (limits, drain_deadline) = (Limits { keep_alive: OFTEN, ..limits() }, Duration::from_millis(50));
    let options = ServerOptions { limits, drain_deadline, ..options() };
    let mut server = TestServer::with(options, ServiceOptions::default());
    let _taken = server.take_blocks_but(FEW_BLOCKS);
    let mut late = raw_chat(&server, &long());
    let said = read_until(&mut late, "1\r\n\n");
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    server.ask_to_stop();
    let said = read_until(&mut late, "\r\n0\r\n\r\n");
    assert!(said.contains(r#""code":"server_unavailable""#), "{said}");
    server.join();
}
