//! As much of an HTTP/1.1 client as measuring a server takes: a connection per request, read as the caller likes.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(300);

/// A whole answer. The framing of chunked bodies is left in: every event of a stream is in one piece all the same.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header lines.
    pub head: String,
    /// What came after them.
    pub body: String,
}

impl Reply {
    /// The body of an answer that is not chunked.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

/// Sends a JSON body over a connection of its own; what comes back is still to be read.
pub fn post(addr: &str, path: &str, body: &Value) -> Result<BufReader<TcpStream>> {
    let body = body.to_string();
    let head = format!("POST {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
    send(addr, &(head + "host: bench\r\nconnection: close\r\n\r\n" + &body))
}

/// Gets a whole answer.
pub fn get(addr: &str, path: &str) -> Result<Reply> {
    read(send(addr, &format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n"))?)
}

fn send(addr: &str, request: &str) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(addr).with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    Ok(BufReader::new(stream))
}

/// Reads an answer to its end.
pub fn read(mut answer: impl BufRead) -> Result<Reply> {
    let mut text = String::new();
    answer.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no status: {head}"))?;
    Ok(Reply { status, head: head.to_owned(), body: body.to_owned() })
}

/// A figure of `/metrics` that has no label but the model's name.
pub fn metric(addr: &str, name: &str) -> Result<f64> {
    let text = get(addr, "/metrics")?.body;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit(' ').next());
    Ok(value.with_context(|| format!("no {name} in /metrics"))?.parse()?)
}
