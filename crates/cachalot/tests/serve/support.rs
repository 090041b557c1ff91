//! A server on a free port of this machine, and a plain client for it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cachalot::serve::{Limits, Server, ServerOptions, Service, ServiceOptions};
use cachalot::{LanguageModel, LoadOptions, ModelSource};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// How long a test waits for what must come, on a machine that is busy with others.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Dropping it stops it.
pub(crate) struct TestServer {
    pub(crate) addr: SocketAddr,
    pub(crate) service: Service,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A whole answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    pub(crate) event: Option<String>,
    pub(crate) data: String,
}

impl Frame {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }
}

pub(crate) fn options() -> ServerOptions {
    ServerOptions { addr: "127.0.0.1:0".parse().unwrap(), limits: limits(), ..ServerOptions::default() }
}

/// Limits of time that nothing comes near to, on a machine that is busy with others: a test of one of them sets that one.
pub(crate) fn limits() -> Limits {
    let long = Duration::from_secs(3600);
    Limits {
        header_timeout: long,
        body_timeout: long,
        write_timeout: long,
        grammar_timeout: PATIENCE,
        ..Limits::default()
    }
}

/// A limit of time that a test can wait for.
pub(crate) const SHORT: Duration = Duration::from_millis(400);
/// So often there are signs of life where a test waits for them.
pub(crate) const OFTEN: Duration = Duration::from_millis(50);

/// Asks again and again until `is_true` or [`PATIENCE`] is over, and says which it was.
pub(crate) fn comes_true(mut is_true: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if is_true() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    false
}

impl TestServer {
    pub(crate) fn new() -> Self {
        Self::with(options(), ServiceOptions::default())
    }

    pub(crate) fn with(options: ServerOptions, service: ServiceOptions) -> Self {
        Self::loaded(LoadOptions { max_sequences: 8, ..LoadOptions::default() }, options, service)
    }

    pub(crate) fn loaded(load: LoadOptions, options: ServerOptions, service: ServiceOptions) -> Self {
        let model = LanguageModel::load(ModelSource::Embedded, load).unwrap();
        let served = model.served("demo", &service).unwrap();
        let service = served.service.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.unwrap().block_on(async {
                let server = Server::bind(served, options).await.unwrap();
                tell.send(server.local_addr()).unwrap();
                server.run(async { drop(stopped.await) }).await;
            });
        });
        Self { addr: told.recv().unwrap(), service, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[], body.to_string().as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_send(method, path, headers, body).unwrap()
    }

    /// As [`Self::send`], where the server may cut the connection.
    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply, ureq::Error> {
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = agent().run(request.body(body.to_vec()).unwrap())?;
        let pair = |(name, value): (&ureq::http::HeaderName, &ureq::http::HeaderValue)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Ok(Reply {
            status: response.status().as_u16(),
            headers: response.headers().iter().map(pair).collect(),
            body: response.body_mut().read_to_string()?,
        })
    }

    /// All events of a stream, comments left out.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Vec<Frame> {
        self.open_stream(path, body).collect()
    }

    /// The events of a stream as they come.
    pub(crate) fn open_stream(&self, path: &str, body: &Value) -> impl Iterator<Item = Frame> + use<> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let response = agent().post(self.url(path)).send(body.to_string()).unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        frames(BufReader::new(response.into_body().into_reader()))
    }

    /// A figure of `/metrics` that has no label but the model's name.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let found =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("{model_name=\"demo\"} "));
        found.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    /// Takes all free blocks but `left`, until it is dropped. With few left an answer begins and stands still before it has
    /// an end, however fast the machine; with none it waits.
    pub(crate) fn take_blocks_but(&self, left: usize) -> impl Sized + use<> {
        let allocator = self.service.engine().allocator();
        let mut table = allocator.table();
        table.grow_to((allocator.num_free_blocks() - left) * allocator.block_size()).unwrap();
        table
    }

    /// Waits until `count` answers have begun, or stand still, and none waits.
    pub(crate) fn all_begin(&self, count: usize) -> bool {
        comes_true(|| {
            let health = self.service.health();
            (health.running, health.waiting) == (count, 0)
        })
    }

    /// Waits until nothing runs or waits, and says whether that came.
    pub(crate) fn all_end(&self) -> bool {
        comes_true(|| self.service.is_idle())
    }

    /// Waits until nothing runs and no block is held, and says whether that came.
    pub(crate) fn becomes_idle(&self) -> bool {
        // The engine publishes its figures a moment after the last answer.
        comes_true(|| self.service.is_idle() && self.service.metrics().kv_cache_usage_perc == 0.0)
    }

    /// Asks the server to stop, without waiting for it.
    pub(crate) fn ask_to_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Waits for the server's end.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.ask_to_stop();
        if !std::thread::panicking() {
            self.join();
        }
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder();
    // A server that does not answer is an error, not a test without end.
    let config = config.timeout_global(Some(5 * PATIENCE));
    config.http_status_as_error(false).allow_non_standard_methods(true).build().into()
}

fn frames(lines: impl BufRead) -> impl Iterator<Item = Frame> {
    let (mut event, mut data) = (None, None::<String>);
    lines.lines().filter_map(move |line| {
        let line = line.unwrap();
        if let Some(name) = line.strip_prefix("event: ") {
            event = Some(name.to_owned());
        } else if let Some(text) = line.strip_prefix("data: ") {
            data = Some(text.to_owned());
        } else if line.is_empty() {
            return data.take().map(|data| Frame { event: event.take(), data });
        } else {
            assert!(line.starts_with(':'), "{line}");
        }
        None
    })
}

/// A greedy chat request of one message.
pub(crate) fn chat(content: &str) -> Value {
    json!({"model": "demo", "messages": [{"role": "user", "content": content}], "temperature": 0})
}

/// `body` with further fields.
pub(crate) fn with(mut body: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}
