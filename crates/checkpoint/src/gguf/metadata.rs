//! [`Metadata`]: the key/value pairs of a GGUF header.

use std::collections::BTreeMap;
use std::fmt;

use super::reader::{Reader, Subject};
use crate::{CheckpointError, Result};

/// Bytes of the shortest pair: an empty key, a type, a value of one byte.
pub(super) const SHORTEST_PAIR: u64 = 13;
/// Elements of the longest array; the largest vocabularies have a sixteenth of it.
const MAX_ELEMENTS: usize = 1 << 22;
const MAX_KEY_BYTES: usize = 1 << 16;

/// A value. Numbers are widened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Vec<Value>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(n) => write!(f, "{n}"),
            Self::Signed(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Text(text) => write!(f, "`{}`", text.chars().take(80).collect::<String>()),
            Self::Array(list) => write!(f, "an array of {}", list.len()),
        }
    }
}

impl Value {
    fn as_unsigned(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(n) => Some(n),
            Self::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }
}

/// The metadata of a file, by key.
#[derive(Debug)]
pub(crate) struct Metadata {
    file: String,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// Reads `count` pairs.
    pub(super) fn read(reader: &mut Reader<'_>, count: usize) -> Result<Self> {
        let mut values = BTreeMap::new();
        for _ in 0..count {
            reader.subject = Subject::Header;
            let key = reader.string("metadata key")?;
            if key.len() > MAX_KEY_BYTES {
                let expected = format!("at most {MAX_KEY_BYTES} bytes");
                return Err(reader.error("metadata key", expected, key.len()));
            }
            reader.subject = Subject::Key(key.to_owned());
            let kind = reader.u32("value type")?;
            let value = value(reader, kind)?;
            if values.insert(key.to_owned(), value).is_some() {
                return Err(reader.error("key", "one per name", "a second one"));
            }
        }
        reader.subject = Subject::Header;
        Ok(Self { file: reader.file.to_owned(), values })
    }

    /// The file, for errors.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// An error about `key`.
    pub(crate) fn error(&self, key: &str, expected: impl Into<String>) -> CheckpointError {
        let found = self.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
        CheckpointError::config(&self.file, key, expected, found)
    }

    /// The value of `key` as `read` understands it, or `None` if there is none.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.error(key, expected))
    }

    pub(crate) fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an integer of at least 0", Value::as_unsigned)
    }

    /// A token id.
    pub(crate) fn id(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "a token id", |value| value.as_unsigned().and_then(|id| u32::try_from(id).ok()))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a truth value", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of texts.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.list(key, "an array of texts", |value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        })
    }

    /// An array of integers of at least 0.
    pub(crate) fn unsigneds(&self, key: &str) -> Result<Option<Vec<u64>>> {
        self.list(key, "an array of integers of at least 0", Value::as_unsigned)
    }

    fn list<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        self.typed(key, expected, |value| match value {
            Value::Array(list) => list.iter().map(&read).collect(),
            _ => None,
        })
    }
}

const ARRAY: u32 = 9;

/// Bytes of the shortest value of a type, or `None` for a type that an array cannot hold.
fn least_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        // A text is at least its length.
        8 | 10..=12 => Some(8),
        _ => None,
    }
}

fn value(reader: &mut Reader<'_>, kind: u32) -> Result<Value> {
    const WHAT: &str = "value";
    Ok(match kind {
        0 => Value::Unsigned(u8::from_le_bytes(reader.array(WHAT)?).into()),
        1 => Value::Signed(i8::from_le_bytes(reader.array(WHAT)?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(reader.array(WHAT)?).into()),
        3 => Value::Signed(i16::from_le_bytes(reader.array(WHAT)?).into()),
        4 => Value::Unsigned(u32::from_le_bytes(reader.array(WHAT)?).into()),
        5 => Value::Signed(i32::from_le_bytes(reader.array(WHAT)?).into()),
        6 => Value::Float(f32::from_le_bytes(reader.array(WHAT)?).into()),
        7 => match reader.array::<1>(WHAT)? {
            [flag @ (0 | 1)] => Value::Bool(flag == 1),
            [other] => return Err(reader.error("truth value", "0 or 1", other)),
        },
        8 => Value::Text(reader.string("text")?.to_owned()),
        ARRAY => array(reader)?,
        10 => Value::Unsigned(u64::from_le_bytes(reader.array(WHAT)?)),
        11 => Value::Signed(i64::from_le_bytes(reader.array(WHAT)?)),
        12 => Value::Float(f64::from_le_bytes(reader.array(WHAT)?)),
        other => return Err(reader.error("value type", "a type from 0 to 12", other)),
    })
}

/// Arrays of arrays are legal, but no model has one, and refusing them bounds the recursion.
fn array(reader: &mut Reader<'_>) -> Result<Value> {
    let kind = reader.u32("element type")?;
    let Some(size) = least_bytes(kind) else {
        let found = if kind == ARRAY { "an array of arrays".to_owned() } else { format!("type {kind}") };
        return Err(reader.error("element type", "numbers, truth values or texts", found));
    };
    let count = reader.count(size, "array length")?;
    if count > MAX_ELEMENTS {
        return Err(reader.error("array length", format!("at most {MAX_ELEMENTS}"), count));
    }
    Ok(Value::Array((0..count).map(|_| value(reader, kind)).collect::<Result<_>>()?))
}
