//! A writer of GGUF files for tests, which writes whatever it is told.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::Path;

use checkpoint::{Checkpoint, CheckpointError};

/// A metadata value.
#[derive(Debug, Clone)]
pub(crate) enum Meta {
    U16(u16),
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<&'static str>),
    I32s(Vec<i32>),
}

impl Meta {
    fn bytes(&self) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let tagged = |tag: u32, bytes: &[u8]| [&tag.to_le_bytes()[..], bytes].concat();
        let list = |tag: u32, count: usize, bytes: Vec<u8>| {
            tagged(9, &[&tag.to_le_bytes()[..], &(count as u64).to_le_bytes(), &bytes].concat())
        };
        match self {
            Self::U16(n) => tagged(2, &n.to_le_bytes()),
            Self::U32(n) => tagged(4, &n.to_le_bytes()),
            Self::F32(x) => tagged(6, &x.to_le_bytes()),
            Self::Bool(flag) => tagged(7, &[u8::from(*flag)]),
            Self::Text(value) => tagged(8, &text(value)),
            Self::Texts(values) => list(8, values.len(), values.iter().flat_map(|v| text(v)).collect()),
            Self::I32s(values) => {
                list(5, values.len(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
            }
        }
    }
}

/// A tensor; the data is padded by the writer.
#[derive(Debug, Clone)]
pub(crate) struct TensorDraft {
    pub(crate) name: String,
    /// Fastest first.
    pub(crate) ne: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

/// A file, sound or not.
#[derive(Debug, Clone)]
pub(crate) struct GgufFile {
    pub(crate) meta: Vec<(&'static str, Meta)>,
    pub(crate) tensors: Vec<TensorDraft>,
}

pub(crate) fn f32_tensor(name: &str, ne: &[u64], values: &[f32]) -> TensorDraft {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    TensorDraft { name: name.to_owned(), ne: ne.to_vec(), kind: 0, data }
}

impl GgufFile {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            out.extend((key.len() as u64).to_le_bytes());
            out.extend(key.as_bytes());
            out.extend(value.bytes());
        }
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            out.extend((tensor.name.len() as u64).to_le_bytes());
            out.extend(tensor.name.as_bytes());
            out.extend((tensor.ne.len() as u32).to_le_bytes());
            tensor.ne.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += tensor.data.len().next_multiple_of(32) as u64;
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.data);
        }
        out
    }

    /// Writes it to a directory of its own and opens that.
    pub(crate) fn open(&self) -> Result<Checkpoint, CheckpointError> {
        open_bytes(&self.bytes())
    }

    /// Without the tensor `name`.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    /// With another value of `key`, or a new one.
    pub(crate) fn with(mut self, key: &'static str, value: Meta) -> Self {
        self.meta.retain(|(name, _)| *name != key);
        self.meta.push((key, value));
        self
    }

    pub(crate) fn without_key(mut self, key: &str) -> Self {
        self.meta.retain(|(name, _)| *name != key);
        self
    }

    pub(crate) fn with_tensor(self, tensor: TensorDraft) -> Self {
        let mut file = self.without(&tensor.name);
        file.tensors.push(tensor);
        file
    }
}

/// Opens `bytes` as the only file of a directory.
pub(crate) fn open_bytes(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "model.gguf", bytes);
    Checkpoint::open(dir.path())
}

pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(dir.join(name), bytes).unwrap();
}
