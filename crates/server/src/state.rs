//! [`App`]: what all requests share.

use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use text::grammar::{GrammarCompiler, GrammarLimits};

use crate::error::{ApiError, ApiResult, ServerError};
use crate::keys::Keyring;
use crate::metrics::Metrics;
use crate::options::{ServedModel, ServerOptions};
use crate::tables::{Aliases, Efforts};

/// What all requests share.
pub(crate) struct App {
    pub(crate) model: ServedModel,
    pub(crate) options: ServerOptions,
    pub(crate) keys: Keyring,
    pub(crate) aliases: Aliases,
    pub(crate) efforts: Efforts,
    pub(crate) metrics: Metrics,
    /// `None` for a tokenizer that cannot serve grammars.
    pub(crate) grammars: Option<GrammarCompiler>,
    /// When the server started, in seconds of Unix time.
    pub(crate) started: u64,
    /// Changes when answers may change: with the program and with the model.
    pub(crate) fingerprint: String,
}

impl App {
    pub(crate) fn new(model: ServedModel, options: ServerOptions) -> Result<Self, ServerError> {
        let digest = Sha256::digest(format!("{} {}", env!("CARGO_PKG_VERSION"), model.name));
        let hex: String = digest[..5].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            keys: Keyring::new(&options)?,
            aliases: Aliases::embedded()?,
            efforts: Efforts::embedded()?,
            metrics: Metrics::new(&model),
            grammars: compiler(&model, options.limits.grammar_timeout),
            started: unix_time(),
            fingerprint: format!("fp_{hex}"),
            model,
            options,
        })
    }

    /// Whether a model of that name is served, and the mode that the name stands for, if it stands for one.
    pub(crate) fn resolve_model(&self, name: &str) -> ApiResult<Option<bool>> {
        if name == self.model.name || self.options.served_names.iter().any(|served| served == name) {
            return Ok(None);
        }
        match self.aliases.resolve(name) {
            Some(thinking) => Ok(thinking),
            None => Err(ApiError::NoModel { name: name.to_owned(), served: self.model.name.clone() }),
        }
    }
}

fn compiler(model: &ServedModel, max_time: Duration) -> Option<GrammarCompiler> {
    let limits = GrammarLimits { max_time, ..GrammarLimits::default() };
    let compiler = GrammarCompiler::new(&model.tokenizer, limits);
    compiler.inspect_err(|error| tracing::warn!("no answer can be held to a form: {error}")).ok()
}

/// Seconds of Unix time.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
