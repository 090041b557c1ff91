//! Random numbers that are the same on every machine, and checkpoints filled with them.

use std::collections::BTreeMap;

use checkpoint::Checkpoint;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use tempfile::TempDir;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// An integer below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }

    /// A number that is roughly normal with mean 0 and deviation 1 (the sum of twelve uniform ones).
    pub fn normal(&mut self) -> f32 {
        let uniform = |random: &mut Self| (random.next_u64() >> 40) as f32 / (1 << 24) as f32;
        (0..12).map(|_| uniform(self)).sum::<f32>() - 6.0
    }

    /// `count` numbers of [`Random::normal`], times `deviation`.
    pub fn normals(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        (0..count).map(|_| self.normal() * deviation).collect()
    }

    /// `0..count` in random order.
    pub fn permutation(&mut self, count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count as u32).collect();
        for i in (1..count).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// A checkpoint under construction: a config and `F32` tensors.
#[derive(Debug, Clone)]
pub struct RandomCheckpoint {
    config: serde_json::Value,
    random: Random,
    tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
}

impl RandomCheckpoint {
    /// An empty checkpoint with `config`, whose values will come from `seed`.
    pub fn new(config: serde_json::Value, seed: u64) -> Self {
        Self { config, random: Random::new(seed), tensors: BTreeMap::new() }
    }

    /// Adds a matrix `[n, k]` that keeps the size of what passes through it.
    pub fn matrix(&mut self, name: &str, shape: [usize; 2]) -> &mut Self {
        let values = self.random.normals(shape[0] * shape[1], (shape[1] as f32).powf(-0.5));
        self.tensor(name, &shape, &values)
    }

    /// Adds a vector `[n]` around `mean`.
    pub fn vector(&mut self, name: &str, n: usize, mean: f32) -> &mut Self {
        let values: Vec<f32> = self.random.normals(n, 0.2).iter().map(|v| v + mean).collect();
        self.tensor(name, &[n], &values)
    }

    /// Adds a tensor with the given values.
    pub fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.insert(name.to_owned(), (shape.to_vec(), bytes));
        self
    }

    /// Takes a tensor out again.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        assert!(self.tensors.remove(name).is_some(), "no tensor {name}");
        self
    }

    /// Names of all tensors so far, sorted.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).0.clone()
    }

    /// The stored values of a tensor.
    pub fn values(&self, name: &str) -> Vec<f32> {
        let (_, bytes) = self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"));
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
    }

    /// Writes `config.json` and `model.safetensors` into a directory that vanishes when dropped.
    pub fn write(&self) -> TempDir {
        let dir = TempDir::new().expect("a temporary directory");
        std::fs::write(dir.path().join("config.json"), self.config.to_string()).expect("config.json");
        let views = self.tensors.iter().map(|(name, (shape, bytes))| {
            (
                name,
                TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many values as the shape says"),
            )
        });
        serialize_to_file(views, None, &dir.path().join("model.safetensors")).expect("model.safetensors");
        dir
    }

    /// Writes and opens it. The directory must outlive the checkpoint.
    pub fn open(&self) -> (TempDir, Checkpoint) {
        let dir = self.write();
        let checkpoint = Checkpoint::open(dir.path()).unwrap_or_else(|e| panic!("{e}"));
        (dir, checkpoint)
    }
}
