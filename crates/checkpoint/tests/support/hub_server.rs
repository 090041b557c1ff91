//! A hub of one model on 127.0.0.1: the listing and the files, with ranges, and faults on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;
use sha2::{Digest, Sha256};

/// What the hub holds and how it misbehaves.
#[derive(Default)]
pub(crate) struct State {
    /// Revision name to commit; commits are listed under themselves too.
    pub(crate) revisions: BTreeMap<String, String>,
    /// Commit to files.
    pub(crate) commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Answer 401 to requests without this token.
    pub(crate) token: Option<String>,
    /// Answer this status to everything.
    pub(crate) status: Option<u16>,
    /// Cut the next so many transfers after this number of bytes.
    pub(crate) cuts: usize,
    pub(crate) cut_after: usize,
    /// Flip a byte of every large file on its way.
    pub(crate) damage: bool,
    /// Lines of the form `path range`.
    pub(crate) log: Vec<String>,
}

/// The running server; its thread ends with the test process.
pub(crate) struct HubServer {
    pub(crate) endpoint: String,
    pub(crate) state: Arc<Mutex<State>>,
}

impl HubServer {
    pub(crate) fn start(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that hangs up early is part of some tests.
                let _ = answer(stream.unwrap(), &shared);
            }
        });
        Self { endpoint, state }
    }

    pub(crate) fn edit(&self, edit: impl FnOnce(&mut State)) {
        edit(&mut self.state.lock().unwrap());
    }

    /// Takes the log.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

/// Whether the hub has a checksum of the file.
fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap()?;
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let path = request.split(' ').nth(1).unwrap().to_owned();
    let mut state = state.lock().unwrap();
    let range = headers.get("range").cloned().unwrap_or_default();
    state.log.push(format!("{path} {range}"));
    if let Some(status) = state.status {
        return respond(&stream, status, &[], b"");
    }
    let bearer = state.token.as_ref().map(|token| format!("Bearer {token}"));
    if bearer.is_some() && headers.get("authorization") != bearer.as_ref() {
        return respond(&stream, 401, &[], b"");
    }
    if let Some(revision) = path.strip_prefix("/api/models/org/name/revision/") {
        return list(&stream, &state, revision.split('?').next().unwrap());
    }
    match path.strip_prefix("/org/name/resolve/").and_then(|rest| rest.split_once('/')) {
        Some((commit, file)) => send(&stream, &mut state, commit, file, &range),
        None => respond(&stream, 404, &[], b""),
    }
}

fn list(stream: &TcpStream, state: &State, revision: &str) -> std::io::Result<()> {
    let commit = state.revisions.get(revision).map_or(revision, String::as_str);
    let Some(files) = state.commits.get(commit) else { return respond(stream, 404, &[], b"") };
    let siblings: Vec<_> = files
        .iter()
        .map(|(name, bytes)| {
            let oid = &sha256(bytes)[..40];
            let mut sibling = json!({"rfilename": name, "size": bytes.len(), "blobId": oid});
            if is_large(name) {
                sibling["lfs"] = json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 130});
            }
            sibling
        })
        .collect();
    respond(stream, 200, &[], json!({"sha": commit, "siblings": siblings}).to_string().as_bytes())
}

fn send(stream: &TcpStream, state: &mut State, commit: &str, file: &str, range: &str) -> std::io::Result<()> {
    let Some(bytes) = state.commits.get(commit).and_then(|files| files.get(file)) else {
        return respond(stream, 404, &[], b"");
    };
    let etag = if is_large(file) { sha256(bytes) } else { sha256(bytes)[..40].to_owned() };
    let mut bytes = bytes.clone();
    if state.damage && is_large(file) {
        *bytes.last_mut().unwrap() ^= 1;
    }
    let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(bytes.len(), |end: usize| end + 1);
    if start >= bytes.len() {
        return respond(stream, 416, &[], b"");
    }
    let headers = [
        ("ETag", format!("\"{etag}\"")),
        ("X-Repo-Commit", commit.to_owned()),
        ("Content-Range", format!("bytes {start}-{}/{}", end - 1, bytes.len())),
    ];
    let is_probe = range == "bytes=0-0";
    if !is_probe && state.cuts > 0 && is_large(file) {
        state.cuts -= 1;
        let part = &bytes[start..(start + state.cut_after).min(end)];
        head(stream, 206, &headers, end - start)?;
        return (&*stream).write_all(part);
    }
    respond(stream, 206, &headers, &bytes[start..end])
}

fn respond(stream: &TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]) -> std::io::Result<()> {
    head(stream, status, headers, body.len())?;
    (&*stream).write_all(body)
}

fn head(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(&str, String)],
    length: usize,
) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all((text + "\r\n").as_bytes())
}
