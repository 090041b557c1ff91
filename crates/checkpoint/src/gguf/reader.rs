//! [`Reader`]: the little-endian primitives of a GGUF header, every one checked against the end of the file before it
//! is read, with errors that say which key or tensor was being read.

use crate::{CheckpointError, Result};

/// What is being read, for errors.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// The file's own fields.
    Header,
    /// A metadata key.
    Key(String),
    /// A tensor's entry.
    Tensor(String),
}

/// A position in the bytes of one file.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) file: &'a str,
    pub(super) subject: Subject,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], file: &'a str) -> Self {
        Self { file, subject: Subject::Header, bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Bytes that follow.
    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// An error about the subject.
    pub(super) fn error(
        &self,
        what: &'static str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> CheckpointError {
        match &self.subject {
            Subject::Header => CheckpointError::file(self.file, what, expected, found),
            Subject::Key(key) => {
                CheckpointError::config(self.file, key, format!("{what}: {}", expected.into()), found)
            }
            Subject::Tensor(name) => CheckpointError::tensor(self.file, name, what, expected, found),
        }
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64, what: &'static str) -> Result<&'a [u8]> {
        if count > self.remaining() {
            let expected = format!("{count} bytes at byte {} of the file", self.at);
            return Err(self.error(what, expected, format!("{} bytes until its end", self.remaining())));
        }
        // Not above the length of a slice.
        let taken = &self.bytes[self.at..][..count as usize];
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, what)?);
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things that take at least `size` bytes each, so that a promise of more than the file can hold is
    /// refused before anything is allocated.
    pub(super) fn count(&mut self, size: u64, what: &'static str) -> Result<usize> {
        let count = self.u64(what)?;
        let most = self.remaining() / size;
        if count > most {
            let expected = format!("at most {most}, for which the file has room");
            return Err(self.error(what, expected, count));
        }
        Ok(count as usize)
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn string(&mut self, what: &'static str) -> Result<&'a str> {
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|error| self.error(what, "UTF-8 text", error))
    }
}
