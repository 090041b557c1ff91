//! [`Fixture`]: a tiny random checkpoint in released tensor names, and what the reference implementation answered.
//!
//! `fixtures/README.md` says key by key what [`Golden`] holds, and where it came from.

use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};
use tempfile::TempDir;

/// Every fixture, one per family and storage form.
pub const FIXTURES: [&str; 15] = [
    "deepseek_coder_linear",
    "deepseek_moe_v1",
    "deepseek_v2",
    "deepseek_v2_lite",
    "deepseek_v3",
    "deepseek_v32",
    "deepseek_v3_bf16",
    "deepseek_v3_fp8",
    "deepseek_v3_mtp",
    "deepseek_v3_noscale",
    "deepseek_v4",
    "deepseek_v4_quant",
    "deepseek_v4_smallhca",
    "llama3_distill",
    "qwen2_distill",
];

/// Every fixture that is a GGUF file, in `fixtures/gguf`.
pub const GGUF_FIXTURES: [&str; 12] = [
    "llama-Q3_K_M",
    "llama_s-F16",
    "qwen2-Q4_0",
    "v2lite-IQ4_XS",
    "v2lite-MXFP4_MOE",
    "v2lite-Q2_K",
    "v2lite-Q3_K_M",
    "v2lite-Q4_1",
    "v2lite-Q5_K_M",
    "v2lite_s-JOINT_Q8_0",
    "v2lite_s-SPLIT",
    "v3_s-Q8_0",
];

/// A directory of `fixtures/`.
#[derive(Debug, Clone)]
pub struct Fixture {
    name: String,
    dir: PathBuf,
}

impl Fixture {
    /// The fixture `name`.
    ///
    /// # Panics
    /// If there is none.
    pub fn open(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
        assert!(dir.join("golden.safetensors").exists(), "no fixture {name}");
        Self { name: name.to_owned(), dir }
    }

    /// All fixtures.
    pub fn all() -> impl Iterator<Item = Self> {
        FIXTURES.into_iter().map(Self::open)
    }

    /// All GGUF fixtures.
    pub fn all_gguf() -> impl Iterator<Item = Self> {
        GGUF_FIXTURES
            .into_iter()
            .map(|name| Self { name: name.to_owned(), ..Self::open(&format!("gguf/{name}")) })
    }

    /// Its directory's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where `config.json` and `model.safetensors`, or the GGUF files, lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A copy of its checkpoint, for tests that change it; it vanishes when dropped.
    pub fn copy(&self) -> TempDir {
        let dir = TempDir::new().expect("a temporary directory");
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(self.dir.join(file), dir.path().join(file)).expect("a file of the fixture");
        }
        dir
    }

    /// As [`Fixture::copy`], with one more tensor, a vector of ones.
    pub fn copy_with(&self, name: &str, len: usize) -> TempDir {
        let dir = self.copy();
        let path = dir.path().join("model.safetensors");
        let bytes = std::fs::read(&path).expect("the copy's weights");
        let stored = SafeTensors::deserialize(&bytes).expect("valid weights");
        let ones = 1_f32.to_le_bytes().repeat(len);
        let more = TensorView::new(Dtype::F32, vec![len], &ones).expect("as many values as the shape says");
        let tensors = stored.iter().chain([(name, more)]);
        serialize_to_file(tensors, None, &path).expect("model.safetensors");
        dir
    }

    /// The opened checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::open(&self.dir).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// `config.json`, for tests that change it.
    pub fn config_json(&self) -> serde_json::Value {
        let bytes = std::fs::read(self.dir.join("config.json")).expect("a config");
        serde_json::from_slice(&bytes).expect("valid JSON")
    }

    /// The reference's answers.
    pub fn golden(&self) -> Golden {
        let path = self.dir.join("golden.safetensors");
        Golden { name: self.name.clone(), bytes: std::fs::read(path).expect("a golden file") }
    }
}

/// The tensors of `golden.safetensors`.
#[derive(Debug, Clone)]
pub struct Golden {
    name: String,
    bytes: Vec<u8>,
}

impl Golden {
    /// Whether the reference recorded `key`.
    pub fn contains(&self, key: &str) -> bool {
        self.parse().tensor(key).is_ok()
    }

    /// Lengths of the prompts that have logits, of those that the README names.
    pub fn prompt_lengths(&self) -> Vec<usize> {
        let parsed = self.parse();
        [1, 7, 33, 130].into_iter().filter(|n| parsed.tensor(&format!("p{n}.logits")).is_ok()).collect()
    }

    /// Keys that start with `prefix`, sorted.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys: Vec<String> =
            self.parse().names().into_iter().filter(|k| k.starts_with(prefix)).map(str::to_owned).collect();
        keys.sort();
        keys
    }

    /// The shape of `key`.
    pub fn shape(&self, key: &str) -> Vec<usize> {
        self.tensor(key).0
    }

    /// The values of an `F32` or `F64` tensor.
    pub fn f32s(&self, key: &str) -> Vec<f32> {
        let (_, dtype, bytes) = self.tensor(key);
        match dtype {
            Dtype::F32 => values(&bytes, f32::from_le_bytes).collect(),
            Dtype::F64 => values(&bytes, f64::from_le_bytes).map(|v| v as f32).collect(),
            other => panic!("{}: {key} is {other:?}, not a float", self.name),
        }
    }

    /// The values of a `U8` mask.
    pub fn u8s(&self, key: &str) -> Vec<u8> {
        let (_, dtype, bytes) = self.tensor(key);
        assert_eq!(dtype, Dtype::U8, "{}: {key}", self.name);
        bytes
    }

    /// The values of an `I32` or `I64` tensor of ids.
    pub fn u32s(&self, key: &str) -> Vec<u32> {
        let (_, dtype, bytes) = self.tensor(key);
        let id = |v: i64| u32::try_from(v).expect("an id");
        match dtype {
            Dtype::I32 => values(&bytes, i32::from_le_bytes).map(|v| id(v.into())).collect(),
            Dtype::I64 => values(&bytes, i64::from_le_bytes).map(id).collect(),
            other => panic!("{}: {key} is {other:?}, not an integer", self.name),
        }
    }

    fn tensor(&self, key: &str) -> (Vec<usize>, Dtype, Vec<u8>) {
        let file = self.parse();
        let view = file.tensor(key).unwrap_or_else(|e| panic!("{}: {key}: {e}", self.name));
        (view.shape().to_vec(), view.dtype(), view.data().to_vec())
    }

    fn parse(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a safetensors file")
    }
}

fn values<const N: usize, T>(bytes: &[u8], from: fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    bytes.chunks_exact(N).map(move |chunk| from(chunk.try_into().expect("a chunk of N")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixture_opens_and_has_its_prompts() {
        for fixture in Fixture::all() {
            let (golden, checkpoint) = (fixture.golden(), fixture.checkpoint());
            let vocab = checkpoint.config().common().vocab_size;
            let lengths = golden.prompt_lengths();
            assert!(lengths.starts_with(&[1, 7, 33]), "{}", fixture.name());
            for n in lengths {
                assert_eq!(golden.u32s(&format!("p{n}.ids")).len(), n, "{}", fixture.name());
                assert_eq!(golden.shape(&format!("p{n}.logits")), [n, vocab], "{}", fixture.name());
            }
            assert!(golden.contains("greedy.tokens") && !golden.contains("p2.ids"));
            assert_eq!(golden.keys("p33.ids"), ["p33.ids"]);
        }
    }

    #[test]
    fn no_fixture_is_left_out_of_the_list() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        for (dir, listed) in [(dir.clone(), &FIXTURES[..]), (dir.join("gguf"), &GGUF_FIXTURES)] {
            let mut found: Vec<_> = std::fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap())
                .filter(|entry| entry.path().join("golden.safetensors").exists())
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect();
            found.sort();
            assert_eq!(found, listed);
        }
    }
}
