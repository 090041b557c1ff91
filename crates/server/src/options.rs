//! [`ServerOptions`] and [`ServedModel`]: what is served, where, to whom and within which limits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::{SamplingParams, Service};
use text::grammar::GrammarLimits;
use text::{PromptFormat, Tokenizer};

use crate::dialect::Dialect;
use crate::error::ServerError;

/// The model behind a server.
pub struct ServedModel {
    /// Its name in the API.
    pub name: String,
    /// Where its tokens come from.
    pub service: Service,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How it wants its conversations written.
    pub format: PromptFormat,
    /// What holds where a request says nothing.
    pub defaults: SamplingParams,
}

/// How a server behaves.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where to listen; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Whose word counts where OpenAI's API and DeepSeek's disagree.
    pub dialect: Dialect,
    /// Keys that open the server, beside those of the keys file. They are kept as digests.
    pub api_keys: Vec<String>,
    /// A file of hashed keys with their quotas, which is read again when it changes.
    pub keys_file: Option<PathBuf>,
    /// Further names of the model, beside its own and the aliases inside the program.
    pub served_names: Vec<String>,
    /// Bounds on what clients may do to the server.
    pub limits: Limits,
    /// How long requests may go on after the server was asked to stop.
    pub drain_deadline: Duration,
}

/// Bounds on what clients may do to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; further ones wait unaccepted.
    pub max_connections: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// From the first byte of a request, or from the last answer of a connection, to the end of the headers.
    pub header_timeout: Duration,
    /// From the end of the headers to the end of the body.
    pub body_timeout: Duration,
    /// How long a client may leave what was written to it unread.
    pub write_timeout: Duration,
    /// Between two signs of life while there is nothing to say yet: comments on a stream, blank lines before an answer
    /// that is sent whole.
    pub keep_alive: Duration,
    /// To compile the form that an answer is to have.
    pub grammar_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000),
            dialect: Dialect::OpenAi,
            api_keys: Vec::new(),
            keys_file: None,
            served_names: Vec::new(),
            limits: Limits::default(),
            drain_deadline: Duration::from_secs(30),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_body_bytes: 16 << 20,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(10),
            grammar_timeout: GrammarLimits::default().max_time,
        }
    }
}

impl ServerOptions {
    /// Checks what can be checked before anything is opened.
    ///
    /// # Errors
    /// [`ServerError::PublicWithoutKey`] and [`ServerError::Option`].
    pub fn validate(&self) -> Result<(), ServerError> {
        let has_keys = !self.api_keys.is_empty() || self.keys_file.is_some();
        if !self.addr.ip().is_loopback() && !has_keys {
            return Err(ServerError::PublicWithoutKey { addr: self.addr });
        }
        if self.api_keys.iter().any(|key| key.trim().is_empty()) {
            return Err(option("api_keys", "keys that are not empty", "an empty one"));
        }
        let sizes = [
            ("max_connections", self.limits.max_connections),
            ("max_body_bytes", self.limits.max_body_bytes),
        ];
        if let Some((field, found)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(option(field, "at least 1", found));
        }
        Ok(())
    }
}

fn option(field: &'static str, expected: &str, found: impl ToString) -> ServerError {
    ServerError::Option { field, expected: expected.to_owned(), found: found.to_string() }
}
