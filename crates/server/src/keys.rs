//! [`Keyring`]: the keys that open the server, as digests, from the command line and from a file that may change.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::{ApiResult, ServerError};
use crate::options::ServerOptions;
use crate::quota::{self, Permit, QuotaLimits, Used};

/// How soon a change of the file is noticed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A key, by its digest.
#[derive(Debug)]
pub(crate) struct Key {
    /// For logs.
    pub(crate) name: String,
    pub(crate) digest: [u8; 32],
    limits: QuotaLimits,
    used: Arc<Used>,
}

impl Key {
    /// Lets a request in, within the key's quota.
    pub(crate) fn admit(&self) -> ApiResult<Permit> {
        quota::admit(&self.used, &self.limits, Instant::now())
    }
}

/// The keys file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    #[serde(default, rename = "key")]
    keys: Vec<KeyEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    name: String,
    /// Of the key's bytes, in hexadecimal.
    sha256: String,
    concurrency: Option<usize>,
    requests_per_minute: Option<u64>,
    tokens_per_minute: Option<u64>,
}

/// All keys that open the server.
#[derive(Debug)]
pub(crate) struct Keyring {
    /// From the command line: fixed, without limits.
    fixed: Vec<Arc<Key>>,
    file: Option<PathBuf>,
    /// From the file, as it was read last.
    filed: RwLock<Arc<Vec<Arc<Key>>>>,
}

impl Keyring {
    pub(crate) fn new(options: &ServerOptions) -> Result<Self, ServerError> {
        let fixed = options.api_keys.iter().enumerate().map(|(index, key)| {
            Arc::new(Key {
                name: format!("key-{}", index + 1),
                digest: Sha256::digest(key).into(),
                limits: QuotaLimits::default(),
                used: Arc::default(),
            })
        });
        let file = options.keys_file.clone();
        let filed = match &file {
            Some(path) => read(path, &read_text(path)?, &[])?,
            None => Vec::new(),
        };
        Ok(Self { fixed: fixed.collect(), file, filed: RwLock::new(Arc::new(filed)) })
    }

    /// Whether no key is needed. A file without keys lets nobody in.
    pub(crate) fn is_open(&self) -> bool {
        self.fixed.is_empty() && self.file.is_none()
    }

    /// The key of these bytes. Every key is looked at whole, so that the time says nothing about which came close.
    pub(crate) fn find(&self, presented: &[u8]) -> Option<Arc<Key>> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let filed = self.filed();
        let mut found = None;
        for key in self.fixed.iter().chain(filed.iter()) {
            if bool::from(key.digest.ct_eq(&digest)) {
                found = Some(Arc::clone(key));
            }
        }
        found
    }

    fn filed(&self) -> Arc<Vec<Arc<Key>>> {
        Arc::clone(&self.filed.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again whenever it changes, for ever. A file that cannot be read leaves the keys as they are.
    pub(crate) async fn watch(&self) {
        let Some(path) = &self.file else { return std::future::pending().await };
        let mut seen = None;
        loop {
            let text = {
                let path = path.clone();
                tokio::task::spawn_blocking(move || read_text(&path)).await
            };
            if let Ok(Ok(text)) = text
                && seen.as_ref() != Some(&text)
            {
                match read(path, &text, &self.filed()) {
                    Ok(keys) => {
                        tracing::info!("{} keys from {}", keys.len(), path.display());
                        *self.filed.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                    }
                    Err(error) => tracing::error!("the keys stay as they were: {error}"),
                }
                seen = Some(text);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn read_text(path: &Path) -> Result<String, ServerError> {
    std::fs::read_to_string(path)
        .map_err(|error| ServerError::Keys { path: path.to_owned(), reason: format!("cannot read: {error}") })
}

/// The keys in a file. One that was there before keeps what it has used.
fn read(path: &Path, text: &str, before: &[Arc<Key>]) -> Result<Vec<Arc<Key>>, ServerError> {
    let wrong = |reason: String| ServerError::Keys { path: path.to_owned(), reason };
    let file: KeysFile = toml::from_str(text).map_err(|error| {
        // Without the line itself, which might be a key that somebody put there.
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        wrong(format!("line {line}: {}", error.message()))
    })?;
    let mut names = HashSet::new();
    let mut keys = Vec::with_capacity(file.keys.len());
    for (index, entry) in file.keys.into_iter().enumerate() {
        let KeyEntry { name, sha256, concurrency, requests_per_minute, tokens_per_minute } = entry;
        let Some(digest) = digest(&sha256) else {
            let expected = "64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them";
            return Err(wrong(format!(
                "key[{index}].sha256: expected {expected}, found {} bytes",
                sha256.len()
            )));
        };
        if name.is_empty() || !names.insert(name.clone()) {
            return Err(wrong(format!("key[{index}].name: expected a name of its own, found {name:?}")));
        }
        let limits = QuotaLimits { concurrency, requests_per_minute, tokens_per_minute };
        let known = before.iter().find(|key| key.digest == digest);
        let used = known.map(|key| Arc::clone(&key.used)).unwrap_or_default();
        keys.push(Arc::new(Key { name, digest, limits, used }));
    }
    Ok(keys)
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    // `from_str_radix` would take a sign.
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn parse(text: &str) -> Result<Vec<Arc<Key>>, String> {
        read(Path::new("keys.toml"), text, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_is_its_digest() {
        let keys = parse(&format!("[[key]]\nname = \"a\"\nsha256 = \"{HELLO}\"\nconcurrency = 2")).unwrap();
        assert_eq!(keys[0].digest, <[u8; 32]>::from(Sha256::digest("hello")));
        assert_eq!(keys[0].limits.concurrency, Some(2));
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn a_damaged_file_says_where() {
        let entry = format!("[[key]]\nname = \"a\"\nsha256 = \"{HELLO}\"\n");
        for (text, part) in [
            ("[[key]]\nname = \"a\"\nsha256 = \"hello\"".to_owned(), "key[0].sha256: expected 64"),
            (format!("{entry}{entry}"), "key[1].name: expected a name of its own"),
            (format!("{entry}rpm = 5"), "unknown field `rpm`"),
            ("[[key]]\nname = \"a\"".to_owned(), "missing field `sha256`"),
            ("nonsense".to_owned(), "keys.toml"),
            ("[[key]]\nname = \"a\"\nsha256 = \"+1".to_owned() + &HELLO[2..] + "\"", "key[0].sha256"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(part), "{error}");
            assert!(!error.contains("hello"), "a key given by mistake is not repeated: {error}");
        }
    }

    #[test]
    fn a_key_that_stays_keeps_what_it_used() {
        let entry = |limit: u64| {
            format!("[[key]]\nname = \"a\"\nsha256 = \"{HELLO}\"\nrequests_per_minute = {limit}")
        };
        let before = parse(&entry(1)).unwrap();
        drop(before[0].admit().unwrap());
        let after = read(Path::new("keys.toml"), &entry(1), &before).unwrap();
        assert!(after[0].admit().is_err());
        assert!(parse(&entry(1)).unwrap()[0].admit().is_ok());
    }
}
