//! Where the hub is, who asks, and where files are kept. Explicit values: only the binary reads the environment.

use std::fmt;
use std::path::PathBuf;

/// How to reach a hub.
#[derive(Clone)]
pub struct HubOptions {
    /// Base URL, without a trailing slash.
    pub endpoint: String,
    /// Access token, sent to the endpoint's host only.
    pub token: Option<String>,
    /// The cache, with one `models--org--name` folder per repository.
    pub cache_dir: PathBuf,
    /// Never connect: what is not in the cache is an error.
    pub offline: bool,
}

impl HubOptions {
    /// Options from the variables that other Hugging Face tools read, looked up with `var`: `HF_ENDPOINT`, `HF_TOKEN`
    /// (else the file that `HF_TOKEN_PATH` names, else the one that a login left in `HF_HOME`), `HF_HUB_CACHE`,
    /// `HF_HOME`, `XDG_CACHE_HOME`, `HOME`, `HF_HUB_OFFLINE`.
    pub fn from_env_vars(var: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let path = |name: &str| var(name).map(PathBuf::from);
        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|dir| dir.join("huggingface")))
            .or_else(|| path("HOME").map(|dir| dir.join(".cache").join("huggingface")))
            .unwrap_or_else(|| PathBuf::from("huggingface"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = var("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let offline = var("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str()));
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            cache_dir: path("HF_HUB_CACHE").unwrap_or_else(|| hf_home.join("hub")),
            offline,
        }
    }
}

/// The token is not printed: options end up in logs.
impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .finish()
    }
}
