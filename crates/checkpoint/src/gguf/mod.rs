//! GGUF checkpoints: the header, the config in its metadata, and its tensors under their released names, so that what
//! reads a checkpoint need not know which kind of file it came in.

mod config;
mod files;
mod header;
mod kv_b;
mod metadata;
mod names;
mod reader;
mod tokenizer;

use std::collections::BTreeMap;

use safetensors::Dtype;

pub use config::ROPE_FREQS;
pub(crate) use files::{Files, find, is_gguf, model_of, part_names, stem};
use header::Entry;
pub(crate) use kv_b::SplitKvB;
use metadata::Metadata;
use names::Released;
pub use tokenizer::GgufTokenizer;

use crate::checkpoint::{Layout, Located, TensorInfo};
use crate::config::ModelConfig;
use crate::shard::Shard;
use crate::slice::RowOrder;
use crate::{CheckpointError, Result};

/// What the files of a model say.
pub(crate) struct Opened {
    pub(crate) config: ModelConfig,
    pub(crate) shards: Vec<Shard>,
    pub(crate) tensors: BTreeMap<String, Located>,
    pub(crate) tokenizer: Option<GgufTokenizer>,
}

/// Maps and checks `files`; reads no tensor.
pub(crate) fn open(files: &Files) -> Result<Opened> {
    let map = |name: &String| Shard::map(&files.dir.join(name), name);
    let shards = files.names.iter().map(map).collect::<Result<Vec<_>>>()?;
    let mut first = None;
    let mut entries = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let header = header::parse(shard.bytes(), &shard.file)?;
        files::check_part(&header.metadata, number, shards.len())?;
        entries.extend(header.tensors.into_iter().map(|entry| (number, entry)));
        first.get_or_insert(header.metadata);
    }
    let Some(metadata) = first else {
        let file = files.dir.display().to_string();
        return Err(CheckpointError::file(&file, "directory", "a GGUF file", "none"));
    };
    check_count(&metadata, entries.len())?;
    let shape = |name: &str| {
        entries.iter().find(|(_, entry)| entry.name == name).map(|(_, entry)| entry.shape.clone())
    };
    let config = config::config(&metadata, &shape)?;
    let tokenizer = GgufTokenizer::read(&metadata)?;
    let rotary_pairs = config::has_rotary_pairs(&metadata)?;
    let mut tensors = Tensors { shards: &shards, map: BTreeMap::new() };
    tensors.place_all(entries, rotary_pairs.then(|| config.common().head_dim))?;
    let mut tensors = tensors.map;
    for (index, tensor) in tensors.values_mut().enumerate() {
        tensor.index = index;
    }
    Ok(Opened { config, shards, tensors, tokenizer })
}

/// A split model says how many tensors all its parts have.
fn check_count(metadata: &Metadata, found: usize) -> Result<()> {
    const KEY: &str = "split.tensors.count";
    match metadata.unsigned(KEY)? {
        Some(count) if count != found as u64 => {
            Err(metadata.error(KEY, format!("{found}, which the parts have together")))
        }
        _ => Ok(()),
    }
}

/// The tensors under their released names.
struct Tensors<'a> {
    shards: &'a [Shard],
    map: BTreeMap<String, Located>,
}

impl Tensors<'_> {
    /// `pairs` is the width of a head whose rows are stored as rotated pairs, if the file does that.
    fn place_all(&mut self, entries: Vec<(usize, Entry)>, pairs: Option<usize>) -> Result<()> {
        let (mut keys, mut values) = (BTreeMap::new(), BTreeMap::new());
        for (shard, entry) in entries {
            match names::released(&entry.name, pairs.is_some()) {
                Released::Tensor(name) => self.place(shard, entry, name, RowOrder::Plain)?,
                Released::RotaryPairs(name) => {
                    let order = pairs.map_or(RowOrder::Plain, |head_dim| RowOrder::RotaryPairs { head_dim });
                    self.place(shard, entry, name, order)?;
                }
                Released::Experts { prefix, projection } => {
                    self.place_experts(shard, &entry, &prefix, projection)?;
                }
                Released::KeyHalf(prefix) => drop(keys.insert(prefix, (shard, entry))),
                Released::ValueHalf(prefix) => drop(values.insert(prefix, (shard, entry))),
            }
        }
        for (prefix, keys) in keys {
            let Some(values) = values.remove(&prefix) else {
                return Err(self.lonely_half(&keys, "attn_v_b"));
            };
            self.place_kv_b(format!("{prefix}.kv_b_proj.weight"), keys, values)?;
        }
        match values.first_key_value() {
            Some((_, half)) => Err(self.lonely_half(half, "attn_k_b")),
            None => Ok(()),
        }
    }

    fn place(&mut self, shard: usize, entry: Entry, name: String, order: RowOrder) -> Result<()> {
        let Entry { dtype, blocks, shape, range, .. } = entry;
        let info = TensorInfo { dtype, blocks, shape, size_bytes: range.len() };
        self.insert(name, Located { index: 0, shard, info, range, layout: Layout::Rows(order) })
    }

    /// The matrices of a stack `[E, n, k]`, which lie one after the other.
    fn place_experts(&mut self, shard: usize, entry: &Entry, prefix: &str, projection: &str) -> Result<()> {
        let &[experts, n, k] = entry.shape.as_slice() else {
            let (file, found) = (&self.shards[shard].file, format!("{:?}", entry.shape));
            return Err(CheckpointError::tensor(file, &entry.name, "shape", "one matrix per expert", found));
        };
        let size = entry.range.len() / experts;
        for expert in 0..experts {
            let start = entry.range.start + expert * size;
            let info =
                TensorInfo { dtype: entry.dtype, blocks: entry.blocks, shape: vec![n, k], size_bytes: size };
            let layout = Layout::Rows(RowOrder::Plain);
            let located = Located { index: 0, shard, info, range: start..start + size, layout };
            self.insert(format!("{prefix}.{expert}.{projection}.weight"), located)?;
        }
        Ok(())
    }

    fn place_kv_b(&mut self, name: String, keys: (usize, Entry), values: (usize, Entry)) -> Result<()> {
        // Both forms in one file hold the same values; the joint one stays packed.
        if self.map.contains_key(&name) {
            return Ok(());
        }
        let (shard, range) = (keys.0, keys.1.range.clone());
        let (halves, [n, k]) = SplitKvB::new(&self.shards[shard].file, keys, values)?;
        let (dtype, size_bytes) = (Dtype::F32, n * k * size_of::<f32>());
        let info = TensorInfo { dtype, blocks: None, shape: vec![n, k], size_bytes };
        self.insert(
            name,
            Located { index: 0, shard, info, range, layout: Layout::SplitKvB(Box::new(halves)) },
        )
    }

    fn insert(&mut self, name: String, located: Located) -> Result<()> {
        if let Some(first) = self.map.get(&name) {
            let expected =
                format!("one tensor of this meaning; {} has it too", self.shards[first.shard].file);
            let file = &self.shards[located.shard].file;
            return Err(CheckpointError::tensor(file, &name, "entry", expected, "a second one"));
        }
        self.map.insert(name, located);
        Ok(())
    }

    fn lonely_half(&self, (shard, entry): &(usize, Entry), other: &str) -> CheckpointError {
        let file = &self.shards[*shard].file;
        CheckpointError::tensor(file, &entry.name, "kv_b", format!("`{other}` beside it"), "nothing")
    }
}
