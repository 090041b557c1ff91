//! [`Checkpoint`]: an opened and checked checkpoint, from which tensors can be read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use kernels::GgmlType;
use safetensors::Dtype;

use crate::config::{GenerationConfig, ModelConfig};
use crate::progress::Tally;
use crate::shard::Shard;
use crate::slice::RowOrder;
use crate::{CheckpointError, GgufTokenizer, LoadProgress, Result, gguf, header, scale, shard_index};

const CONFIG_FILE: &str = "config.json";
const GENERATION_FILE: &str = "generation_config.json";
/// Name of the only file of an embedded checkpoint, in errors.
const EMBEDDED_FILE: &str = "embedded model.safetensors";

/// A checkpoint whose config and headers are sound. Reading a tensor touches only that tensor's bytes.
#[derive(Debug)]
pub struct Checkpoint {
    config: ModelConfig,
    generation: GenerationConfig,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Located>,
    gguf_tokenizer: Option<GgufTokenizer>,
    tally: Tally,
    bytes_read: AtomicU64,
}

/// Where a tensor lies.
#[derive(Debug)]
pub(crate) struct Located {
    /// Position in the tally.
    pub(crate) index: usize,
    pub(crate) shard: usize,
    pub(crate) info: TensorInfo,
    /// Byte range in the file.
    pub(crate) range: Range<usize>,
    pub(crate) layout: Layout,
}

/// How a tensor lies in its range of bytes.
#[derive(Debug)]
pub(crate) enum Layout {
    /// Row after row.
    Rows(RowOrder),
    /// In two tensors, of which the range is the first.
    SplitKvB(Box<gguf::SplitKvB>),
}

/// What a header says about a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Stored element type; `U8` for blocks.
    pub dtype: Dtype,
    /// The blocks of ggml that the rows are stored in, if they are.
    pub blocks: Option<GgmlType>,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Stored bytes; where a tensor is put together when it is read, the bytes that it then has.
    pub size_bytes: usize,
}

impl TensorInfo {
    /// Out and in features of the weight that is stored so; of FP4 (`I8`) two columns lie in a byte. `None` for tensors that
    /// are no matrices.
    pub fn matrix(&self) -> Option<[usize; 2]> {
        let &[n, k] = self.shape.as_slice() else { return None };
        Some([n, if self.dtype == Dtype::I8 { 2 * k } else { k }])
    }

    /// What the elements are stored in, such as `BF16` or `Q4_K`.
    pub fn storage(&self) -> String {
        self.blocks.map_or_else(|| format!("{:?}", self.dtype), |kind| kind.to_string())
    }
}

/// A tensor as it lies in its file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) name: &'a str,
    pub(crate) info: &'a TensorInfo,
    shard: &'a Shard,
    located: &'a Located,
}

impl<'a> Stored<'a> {
    /// The file, for errors.
    pub(crate) fn file(&self) -> &'a str {
        &self.shard.file
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        &self.shard.bytes()[self.located.range.clone()]
    }

    /// Gives the pages of a byte range of this tensor back.
    pub(crate) fn release(&self, range: Range<usize>) {
        let start = self.located.range.start;
        self.shard.release(start + range.start..start + range.end);
    }

    /// How it lies in its bytes.
    pub(crate) fn layout(&self) -> &'a Layout {
        &self.located.layout
    }

    /// The order of its rows.
    pub(crate) fn row_order(&self) -> RowOrder {
        match self.located.layout {
            Layout::Rows(order) => order,
            Layout::SplitKvB(_) => RowOrder::Plain,
        }
    }

    /// A [`CheckpointError::Tensor`] about this tensor.
    pub(crate) fn error(
        &self,
        what: &'static str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> CheckpointError {
        CheckpointError::tensor(self.file(), self.name, what, expected, found)
    }

    /// Fails unless the tensor has exactly this shape.
    pub(crate) fn expect_shape(&self, shape: &[usize]) -> Result<()> {
        if self.info.shape == shape {
            return Ok(());
        }
        Err(self.error("shape", format!("{shape:?}"), format!("{:?}", self.info.shape)))
    }
}

impl Checkpoint {
    /// Opens the model directory `path`: `config.json`, optionally `generation_config.json`, and one or more
    /// safetensors files; or, where there is no `config.json`, a GGUF model, whole or in parts. `path` may also be a GGUF
    /// file. No tensor data is read.
    ///
    /// # Errors
    /// Any [`CheckpointError`]: an unsupported config, a damaged or missing file, FP8 weights without fitting scales.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.join(CONFIG_FILE).is_file()
            && let Some(files) = gguf::find(path)?
        {
            return Self::open_gguf(&files);
        }
        Self::open_safetensors(path)
    }

    fn open_gguf(files: &gguf::Files) -> Result<Self> {
        let gguf::Opened { config, shards, tensors, tokenizer } = gguf::open(files)?;
        let checkpoint = Self::new(config, GenerationConfig::default(), shards, tensors)?;
        Ok(Self { gguf_tokenizer: tokenizer, ..checkpoint })
    }

    fn open_safetensors(dir: &Path) -> Result<Self> {
        let config_path = dir.join(CONFIG_FILE);
        let config = std::fs::read(&config_path).map_err(CheckpointError::io("read", &config_path))?;
        let config = ModelConfig::from_json(&config, CONFIG_FILE)?;
        let generation_path = dir.join(GENERATION_FILE);
        let generation = match std::fs::read(&generation_path) {
            Ok(bytes) => GenerationConfig::from_json(&bytes, GENERATION_FILE)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => GenerationConfig::default(),
            Err(error) => return Err(CheckpointError::io("read", &generation_path)(error)),
        };
        let index = shard_index::find(dir)?;
        let shards =
            index.files.iter().map(|file| Shard::map(&dir.join(file), file)).collect::<Result<Vec<_>>>()?;
        let tensors = locate(&shards, &index.weight_map)?;
        Self::new(config, generation, shards, tensors)
    }

    /// A checkpoint that is part of the program: the bytes of `config.json` and of one safetensors file.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_parts(config: &[u8], safetensors: &'static [u8]) -> Result<Self> {
        let config = ModelConfig::from_json(config, CONFIG_FILE)?;
        let shards = vec![Shard::embedded(safetensors, EMBEDDED_FILE)];
        let tensors = locate(&shards, &BTreeMap::new())?;
        Self::new(config, GenerationConfig::default(), shards, tensors)
    }

    fn new(
        config: ModelConfig,
        generation: GenerationConfig,
        shards: Vec<Shard>,
        tensors: BTreeMap<String, Located>,
    ) -> Result<Self> {
        let bytes_total = tensors.values().map(|tensor| tensor.info.size_bytes as u64).sum();
        let tally = Tally::new(tensors.len(), bytes_total);
        let bytes_read = AtomicU64::new(0);
        let gguf_tokenizer = None;
        let checkpoint = Self { config, generation, shards, tensors, gguf_tokenizer, tally, bytes_read };
        scale::check_all(&checkpoint)?;
        Ok(checkpoint)
    }

    /// Calls `hook` after each tensor that is read for the first time.
    #[must_use]
    pub fn with_progress(mut self, hook: impl FnMut(LoadProgress) + Send + 'static) -> Self {
        self.tally.set_hook(Box::new(hook));
        self
    }

    /// The model's config.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Sampling defaults, empty if the model has none.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation
    }

    /// The vocabulary that a GGUF file has inside; `None` if it has none, and for other files.
    pub fn gguf_tokenizer(&self) -> Option<&GgufTokenizer> {
        self.gguf_tokenizer.as_ref()
    }

    /// Names of all tensors, sorted. Those of a GGUF file have their released names, or, where there is none, their own.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What the header says about a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|tensor| &tensor.info)
    }

    /// Whether a tensor exists.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Columns of the longest blocks of ggml that a tensor is stored in; slices of columns that keep them whole stay
    /// packed.
    pub fn longest_block(&self) -> Option<usize> {
        self.tensors.values().filter_map(|tensor| tensor.info.blocks).map(GgmlType::block_len).max()
    }

    /// Bytes of the files, headers included.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes().len() as u64).sum()
    }

    /// Bytes of weights, vectors and scales copied out of the files so far; what is read twice counts twice.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// The stored bytes of a tensor of any dtype, row-major and little-endian, without a copy.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] if there is no such tensor, or its rows do not lie in order.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let stored = self.stored(name)?;
        if !matches!(stored.layout(), Layout::Rows(RowOrder::Plain)) {
            return Err(stored.error("layout", "rows in order", "rows in another order, or in two tensors"));
        }
        self.mark(&stored);
        Ok(stored.bytes())
    }

    /// Names of the tensors that nothing has read yet, sorted: after loading, what the model ignored.
    pub fn unused(&self) -> Vec<&str> {
        let used = self.tally.used();
        let unused = self.tensors.iter().filter(|(_, tensor)| !used[tensor.index]);
        unused.map(|(name, _)| name.as_str()).collect()
    }

    /// The tensor `name`, or an error that says where it was looked for.
    pub(crate) fn stored(&self, name: &str) -> Result<Stored<'_>> {
        self.find(name).ok_or_else(|| {
            let file = match self.shards.as_slice() {
                [one] => one.file.clone(),
                many if many.iter().any(|shard| shard.file.ends_with(".gguf")) => {
                    format!("{} GGUF files", many.len())
                }
                many => format!("{} safetensors files", many.len()),
            };
            let expected = "a tensor of this name";
            CheckpointError::tensor(&file, name, "entry", expected, format!("{} others", self.tensors.len()))
        })
    }

    /// The tensor `name` if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<Stored<'_>> {
        let (name, located) = self.tensors.get_key_value(name)?;
        Some(Stored { name, info: &located.info, shard: &self.shards[located.shard], located })
    }

    /// File `number`.
    pub(crate) fn shard(&self, number: usize) -> &Shard {
        &self.shards[number]
    }

    /// Adds to [`Checkpoint::bytes_read`].
    pub(crate) fn count_read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes that a tensor has been read, whole or in part.
    pub(crate) fn mark(&self, stored: &Stored<'_>) {
        self.tally.mark(stored.located.index, stored.info.size_bytes);
    }
}

/// Places every tensor of every shard, once, where the index (if there is one) says.
fn locate(shards: &[Shard], weight_map: &BTreeMap<String, String>) -> Result<BTreeMap<String, Located>> {
    let mut tensors = BTreeMap::<String, Located>::new();
    for (number, shard) in shards.iter().enumerate() {
        let header = header::parse(shard.bytes(), &shard.file)?;
        for header::HeaderEntry { name, entry } in header.entries {
            if let Some(first) = tensors.get(&name) {
                let expected = format!("one copy; {} has it too", shards[first.shard].file);
                return Err(CheckpointError::tensor(&shard.file, &name, "entry", expected, "a second copy"));
            }
            let (begin, end) = entry.data_offsets;
            let range = header.data_start + begin..header.data_start + end;
            let info =
                TensorInfo { dtype: entry.dtype, blocks: None, shape: entry.shape, size_bytes: end - begin };
            let layout = Layout::Rows(RowOrder::Plain);
            tensors.insert(name, Located { index: 0, shard: number, info, range, layout });
        }
    }
    for (index, tensor) in tensors.values_mut().enumerate() {
        tensor.index = index;
    }
    for (name, file) in weight_map {
        let place = tensors.get(name).map(|tensor| shards[tensor.shard].file.as_str());
        if place != Some(file) {
            let expected = format!("an entry, as {} says", shard_index::INDEX_FILE);
            let found = place.map_or_else(|| "none".to_owned(), |other| format!("it in {other}"));
            return Err(CheckpointError::tensor(file, name, "entry", expected, found));
        }
    }
    Ok(tensors)
}
