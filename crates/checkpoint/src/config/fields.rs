//! Typed access to the keys of one JSON object, with errors that name the file, the key, the accepted and the found
//! value. A key that is `null` counts as absent, as it does upstream.

use serde_json::{Map, Value};

use crate::{CheckpointError, Result};

/// One JSON object of a config file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    file: &'a str,
    /// Path of the object inside the file, empty or ending in a dot.
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The keys of `value`, which sits at `prefix` in `file`.
    pub(crate) fn new(file: &'a str, prefix: &'a str, value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { file, prefix, map }),
            other => {
                let key = if prefix.is_empty() { "the document" } else { prefix.trim_end_matches('.') };
                Err(CheckpointError::config(file, key, "a JSON object", excerpt(other)))
            }
        }
    }

    /// The value of `key` unless it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is written at all, null included.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The object at `key`; `prefix` is its path, ending in a dot.
    pub(crate) fn object(&self, key: &str, prefix: &'a str) -> Result<Option<Fields<'a>>> {
        self.get(key).map(|value| Fields::new(self.file, prefix, value)).transpose()
    }

    /// An error about `key`: the value that is there (or `nothing`) against what was expected.
    pub(crate) fn error(&self, key: &str, expected: impl Into<String>) -> CheckpointError {
        let found = self.get(key).map_or_else(|| "nothing".to_owned(), excerpt);
        self.error_found(key, expected, found)
    }

    /// An error about `key` with the finding in words.
    pub(crate) fn error_found(
        &self,
        key: &str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> CheckpointError {
        CheckpointError::config(self.file, format!("{}{key}", self.prefix), expected, found)
    }

    /// A count between 1 and `max`, or `None` if absent.
    pub(crate) fn size_opt(&self, key: &str, max: usize) -> Result<Option<usize>> {
        self.count_opt(key, 1, max)
    }

    /// A count between 1 and `max`.
    pub(crate) fn size(&self, key: &str, max: usize) -> Result<usize> {
        self.size_opt(key, max)?.ok_or_else(|| self.error(key, format!("an integer from 1 to {max}")))
    }

    /// A count between 0 and `max`, or `None` if absent.
    pub(crate) fn count_or_zero_opt(&self, key: &str, max: usize) -> Result<Option<usize>> {
        self.count_opt(key, 0, max)
    }

    fn count_opt(&self, key: &str, min: usize, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|v| usize::try_from(v).ok()) {
            Some(count) if (min..=max).contains(&count) => Ok(Some(count)),
            _ => Err(self.error(key, format!("an integer from {min} to {max}"))),
        }
    }

    /// A number in `range`, or `None` if absent.
    pub(crate) fn number_opt(&self, key: &str, min: f64, max: f64) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(self.error(key, format!("a number from {min:e} to {max:e}"))),
        }
    }

    /// A number in `range`.
    pub(crate) fn number(&self, key: &str, min: f64, max: f64) -> Result<f64> {
        self.number_opt(key, min, max)?
            .ok_or_else(|| self.error(key, format!("a number from {min:e} to {max:e}")))
    }

    /// A boolean, or `default` if absent.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.error(key, "true or false")),
        }
    }

    /// A string, or `None` if absent.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(key, "a string")),
        }
    }

    /// One value out of a table of spellings, or `default` if absent.
    pub(crate) fn choice<T: Copy>(&self, key: &str, table: &[(&str, T)], default: Option<T>) -> Result<T> {
        let found = self.text(key)?;
        let chosen = match found {
            None => default,
            Some(text) => table.iter().find(|(name, _)| *name == text).map(|(_, value)| *value),
        };
        chosen.ok_or_else(|| {
            let names: Vec<_> = table.iter().map(|(name, _)| format!("`{name}`")).collect();
            self.error(key, names.join(" or "))
        })
    }

    /// Fails unless `key` is absent or equal to `only`: an option that this build has one value for.
    pub(crate) fn only(&self, key: &str, only: &Value) -> Result<()> {
        match self.get(key) {
            Some(value) if value != only => Err(self.error(key, format!("{only}, the only supported value"))),
            _ => Ok(()),
        }
    }

    /// Token ids written as one integer or a list of them; empty if absent.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.error(key, "a token id or a list of token ids"))
    }
}

/// A value as JSON, cut to a length that fits an error line.
fn excerpt(value: &Value) -> String {
    const MAX_CHARS: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}
