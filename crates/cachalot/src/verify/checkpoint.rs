//! [`verify_checkpoint`]: a model directory against its golden file, key by key.

use std::collections::HashMap;
use std::path::Path;

use checkpoint::{Checkpoint, CheckpointError, ModelConfig};
use engine::{Engine, EngineOptions};
use kernels::DType;
use models::{ExpertFormat, IndexFormat, ModelOptions};

use super::runner::{Observed, Rows, Runner};
use super::{Golden, Key, Report, RouterPart, Row, Tolerances, Verdict};
use crate::device::{DeviceOptions, OpenDevices};
use crate::{Error, ranks};

/// How a checkpoint is verified.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Prompt tokens per step; `None` runs each prompt whole.
    pub chunk: Option<usize>,
    /// How far values may be from their references.
    pub tolerances: Tolerances,
    /// Ranks that the model is split over, at least 1.
    pub tensor_parallel: usize,
    /// Where the ranks live.
    pub device: DeviceOptions,
    /// What becomes of routed experts when they are loaded.
    pub experts: ExpertFormat,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            chunk: None,
            tolerances: Tolerances::default(),
            tensor_parallel: 1,
            device: DeviceOptions::default(),
            experts: ExpertFormat::AsStored,
        }
    }
}

/// Runs the model of `path`, a directory (`config.json`, `model*.safetensors`) or a GGUF file, and compares everything that
/// `golden.safetensors` in it or beside it holds. `progress` hears each prompt before it runs.
///
/// The cache is single precision, paged, and poisoned with NaN, so that a stray read fails.
///
/// # Errors
/// [`Error::Golden`] for a golden file that contradicts itself or the config, errors of loading and running. A value
/// that is merely wrong is a row of the report.
pub fn verify_checkpoint(
    path: &Path,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Report, Error> {
    if options.chunk == Some(0) {
        return Err(Error::option("chunk", "at least 1", 0));
    }
    // First, so that a damaged file says so, whatever is beside it.
    let checkpoint = match Checkpoint::open(path) {
        // Not a failure of the checkpoint: this build has no family to run it with.
        Err(CheckpointError::Config { key, found, .. }) if key == "architectures" || key == "model_type" => {
            Err(found)
        }
        opened => Ok(opened?),
    };
    let dir = if path.is_file() { path.parent() } else { None };
    let golden = Golden::open(dir.unwrap_or(path))?;
    let keys = golden.keys();
    options.tolerances.check(keys.iter().map(|(name, _)| name.as_str()))?;
    let checkpoint = match checkpoint {
        Ok(checkpoint) => checkpoint,
        Err(found) => return Ok(unsupported(&golden, &keys, &found)),
    };
    let vocab_size = checkpoint.config().common().vocab_size;
    let prompts = Prompts::read(&golden, &keys, vocab_size)?;
    progress("loading the weights");
    let OpenDevices { ranks, notice } =
        ranks::open_devices(&checkpoint, &options.device, options.tensor_parallel)?;
    if let Some(notice) = &notice {
        progress(notice);
    }
    // Goldens are exact maths, and what is selected is compared key by key.
    let forms = ModelOptions { experts: options.experts, index: IndexFormat::Exact, mtp: true };
    let ranks = ranks::load(&checkpoint, ranks, options.device.transport, |_| forms, &mut |_| {})?;
    if let Some(notice) = ranks::int8_notice(&ranks) {
        progress(&notice);
    }
    let engine_options = EngineOptions {
        context_len: Some(prompts.longest().max(2)),
        kv_dtype: Some(DType::F32),
        block_size: 16,
        prefill_chunk: options.chunk.unwrap_or(usize::MAX),
        max_sequences: 1,
        state_slots: 1,
        poison_cache: true,
        ..EngineOptions::default()
    };
    let runner = Runner { engine: Engine::new(ranks, &engine_options)?, chunk: options.chunk };
    let mut checks = Checks { golden: &golden, options, runner, prompts, observed: HashMap::new() };
    let rows = keys.iter().map(|(name, key)| checks.row(name, key, progress)).collect::<Result<_, _>>()?;
    Ok(Report { rows })
}

/// The report on a model that this build cannot run: nothing is checked, nothing has failed.
fn unsupported(golden: &Golden, keys: &[(String, Key)], found: &str) -> Report {
    let row = |(name, key): &(String, Key)| {
        let verdict = match key {
            Key::Input { .. } => Verdict::Input,
            _ => Verdict::Unchecked,
        };
        let shape = golden.get(name).map(|t| t.shape.clone()).unwrap_or_default();
        let note = (verdict == Verdict::Unchecked).then(|| format!("unsupported model: {found}"));
        Row::plain(name, &shape, verdict, note)
    };
    Report { rows: keys.iter().map(row).collect() }
}

/// Everything that is fed in, checked before a weight is read.
struct Prompts {
    by_length: HashMap<usize, Vec<u32>>,
    greedy: Option<Greedy>,
}

struct Greedy {
    prompt: Vec<u32>,
    /// Empty if the golden file has logits only.
    tokens: Vec<u32>,
    /// Steps of the golden run.
    steps: usize,
}

impl Prompts {
    fn read(golden: &Golden, keys: &[(String, Key)], vocab_size: usize) -> Result<Self, Error> {
        let mut by_length = HashMap::new();
        for (name, key) in keys {
            // A key without a check needs no prompt; every other key does.
            let Some(n) = key.prompt().filter(|_| !matches!(key, Key::Unknown { .. })) else {
                continue;
            };
            let ids_key = format!("p{n}.ids");
            let ids = golden.token_ids(&ids_key, name, vocab_size)?;
            if ids.len() != n {
                return Err(Error::golden(ids_key, format!("{n} ids"), ids.len().to_string()));
            }
            by_length.insert(n, ids);
        }
        Ok(Self { by_length, greedy: Greedy::read(golden, vocab_size)? })
    }

    /// Positions that the longest run needs.
    fn longest(&self) -> usize {
        let greedy = self.greedy.as_ref().map(|g| g.prompt.len() + g.steps);
        self.by_length.keys().copied().chain(greedy).max().unwrap_or(0)
    }
}

impl Greedy {
    fn read(golden: &Golden, vocab_size: usize) -> Result<Option<Self>, Error> {
        let needed_by = ["greedy.tokens", "greedy.logits"].into_iter().find(|k| golden.get(k).is_some());
        let Some(needed_by) = needed_by else {
            return Ok(None);
        };
        let prompt = golden.token_ids("greedy.prompt", needed_by, vocab_size)?;
        let tokens = match golden.get("greedy.tokens") {
            Some(_) => golden.token_ids("greedy.tokens", "greedy.logits", vocab_size)?,
            None => Vec::new(),
        };
        let logits = golden.get("greedy.logits");
        let steps = match (tokens.len(), logits.and_then(|l| l.shape.first().copied())) {
            (0, Some(0)) => return Err(Error::golden("greedy.logits", "at least one row", "none")),
            (0, rows) => rows.unwrap_or(0),
            (count, _) => count,
        };
        Ok(Some(Self { prompt, tokens, steps }))
    }
}

struct Checks<'a> {
    golden: &'a Golden,
    options: &'a VerifyOptions,
    runner: Runner,
    prompts: Prompts,
    /// What each prompt showed; a prompt runs once, when its first key comes up.
    observed: HashMap<usize, Observed>,
}

impl Checks<'_> {
    fn row(&mut self, name: &str, key: &Key, progress: &mut dyn FnMut(&str)) -> Result<Row, Error> {
        if let Some(n) = key.prompt().filter(|_| !matches!(key, Key::Unknown { .. } | Key::Input { .. }))
            && !self.observed.contains_key(&n)
        {
            progress(&format!("prompt of {n} tokens"));
            self.observed.insert(n, self.runner.prompt(&self.prompts.by_length[&n])?);
        }
        let shape = self.golden.get(name).map(|t| t.shape.clone()).unwrap_or_default();
        match key {
            Key::Input { .. } => Ok(Row::plain(name, &shape, Verdict::Input, None)),
            Key::Unknown { .. } => {
                let note = "this build has no check for this key".to_owned();
                Ok(Row::plain(name, &shape, Verdict::Unchecked, note))
            }
            Key::Logits { n } => self.rows(name, key, *n, Some(&self.observed[n].logits), ""),
            Key::OtherArithmetic { n } => {
                let row = self.rows(name, key, *n, Some(&self.observed[n].logits), "")?;
                Ok(Row { verdict: Verdict::Info, tolerance: None, ..row })
            }
            Key::Hidden { n, place } => {
                self.rows(name, key, *n, self.observed[n].hidden.get(place), "the model has no such layer")
            }
            Key::Router { n, layer, part } => self.router(name, key, *n, *layer, *part),
            Key::Selection { n, layer } => self.selection(name, key, *n, *layer),
            Key::MtpLogits { n } => match self.runner.engine.model().config() {
                // The streams that leave the last layer.
                ModelConfig::DeepseekV4(_) => self.mtp(name, key, *n, &self.last_layer()),
                _ => self.mtp(name, key, *n, "final_norm"),
            },
            Key::MtpLogitsPrenorm { n } => self.mtp(name, key, *n, &self.last_layer()),
            Key::GreedyTokens => {
                progress("greedy tokens");
                self.greedy_tokens(name)
            }
            Key::GreedyLogits => {
                progress("greedy logits");
                self.greedy_logits(name, key)
            }
        }
    }

    /// Compares `count` rows; `None` means the model has nothing of that name.
    fn rows(
        &self,
        name: &str,
        key: &Key,
        count: usize,
        actual: Option<&Rows>,
        absent: &str,
    ) -> Result<Row, Error> {
        let Some(actual) = actual else {
            let shape = self.golden.get(name).map(|t| t.shape.clone()).unwrap_or_default();
            return Ok(Row::plain(name, &shape, Verdict::Fail, absent.to_owned()));
        };
        // A row of the golden file may be several streams.
        let fits = |shape: &Vec<usize>| {
            shape.first() == Some(&count) && shape[1..].iter().product::<usize>() == actual.width
        };
        let stored = self.golden.get(name).map(|t| t.shape.clone()).filter(fits);
        let shape = stored.unwrap_or_else(|| vec![count, actual.width]);
        let expected = self.golden.floats(name, &shape)?;
        let diff = max_abs_diff(&actual.values, expected);
        Ok(Row::compared(name, &shape, diff, self.options.tolerances.of(name, key)))
    }

    fn router(&self, name: &str, key: &Key, n: usize, layer: usize, part: RouterPart) -> Result<Row, Error> {
        let Some(router) = self.observed[&n].routers.get(&layer) else {
            return self.rows(name, key, n, None, "the model has no router in this layer");
        };
        match part {
            RouterPart::Logits => self.rows(name, key, n, Some(&router.logits), ""),
            RouterPart::Weights => {
                let weights = Rows { width: router.top_k, values: router.weights.clone() };
                self.rows(name, key, n, Some(&weights), "")
            }
            RouterPart::Indices => {
                let shape = [n, router.top_k];
                let expected = self.golden.integers(name, &shape)?;
                if !expected.chunks(router.top_k).all(|ids| ids.is_sorted_by(|a, b| a < b)) {
                    return Err(Error::golden(name, "ascending ids in each row", "another order"));
                }
                Ok(exact(name, &shape, &router.indices, expected))
            }
        }
    }

    /// A mask `[n, keys]`: 1 where a token attends to a key.
    fn selection(&self, name: &str, key: &Key, n: usize, layer: usize) -> Result<Row, Error> {
        let Some(tokens) = self.observed[&n].selections.get(&layer) else {
            return self.rows(name, key, n, None, "the model has no indexer in this layer");
        };
        let keys = match self.golden.get(name).map(|t| &t.shape[..]) {
            Some(&[_, keys]) => keys,
            _ => return Err(Error::golden(name, "a mask of two dimensions", "another shape")),
        };
        let expected = self.golden.integers(name, &[n, keys])?;
        let mut ours = vec![0; n * keys];
        for (row, selected) in ours.chunks_mut(keys.max(1)).zip(tokens) {
            // The reference has no such key: no entry of the mask agrees.
            for &selected in selected {
                match row.get_mut(selected as usize) {
                    Some(entry) => *entry = 1,
                    None => return Ok(exact(name, &[n, keys], &[], expected)),
                }
            }
        }
        Ok(exact(name, &[n, keys], &ours, expected))
    }

    fn last_layer(&self) -> String {
        format!("layer{}", self.runner.engine.model().config().common().num_hidden_layers - 1)
    }

    fn mtp(&self, name: &str, key: &Key, n: usize, place: &str) -> Result<Row, Error> {
        if n < 2 {
            return Err(Error::golden(name, "a prompt of at least 2 tokens", n.to_string()));
        }
        let logits = match self.observed[&n].hidden.get(place) {
            Some(hidden) => self.runner.mtp(&self.prompts.by_length[&n], hidden)?,
            None => None,
        };
        self.rows(name, key, n - 1, logits.as_ref(), "the checkpoint has no MTP layer")
    }

    fn greedy(&self) -> Result<&Greedy, Error> {
        // `Prompts::read` made one for every file that has a greedy key.
        self.prompts.greedy.as_ref().ok_or_else(|| Error::golden("greedy.prompt", "token ids", "nothing"))
    }

    fn greedy_tokens(&self, name: &str) -> Result<Row, Error> {
        let Greedy { prompt, tokens, steps } = self.greedy()?;
        let ours = self.runner.greedy_tokens(prompt, *steps)?;
        let [ours, expected] =
            [&ours, tokens].map(|ids| ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>());
        Ok(exact(name, &[*steps], &ours, &expected))
    }

    /// Logits along the golden tokens, so that one wrong token does not put every later row in doubt.
    fn greedy_logits(&self, name: &str, key: &Key) -> Result<Row, Error> {
        let Greedy { prompt, tokens, steps } = self.greedy()?;
        let logits = if tokens.is_empty() {
            let ours = self.runner.greedy_tokens(prompt, *steps)?;
            self.runner.incremental_logits(prompt, &ours)?
        } else {
            self.runner.incremental_logits(prompt, tokens)?
        };
        self.rows(name, key, *steps, Some(&logits), "")
    }
}

/// Ids must be equal; the difference is how many are not.
fn exact(name: &str, shape: &[usize], actual: &[i64], expected: &[i64]) -> Row {
    let differing = |(a, b): (&i64, &i64)| a != b;
    let missing = actual.len().abs_diff(expected.len());
    let count = actual.iter().zip(expected).filter(|pair| differing(*pair)).count() + missing;
    let first = actual.iter().zip(expected).position(differing);
    let note = first.map(|i| format!("element {i} is {}, expected {}", actual[i], expected[i]));
    Row::compared(name, shape, count as f64, 0.0).with_note(note)
}

/// Largest absolute difference; NaN if any is, infinite if the lengths differ.
fn max_abs_diff(actual: &[f32], expected: &[f64]) -> f64 {
    if actual.len() != expected.len() {
        return f64::INFINITY;
    }
    let differences = actual.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - b).abs());
    // `f64::max` would drop a NaN, and with it the failure.
    differences.fold(0.0, |most, diff| if diff.is_nan() || diff > most { diff } else { most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_anywhere_is_the_difference() {
        assert!(max_abs_diff(&[0.0, f32::NAN, 1.0], &[0.0, 0.0, 5.0]).is_nan());
        assert_eq!(max_abs_diff(&[1.0, 2.0], &[1.5, 2.0]), 0.5);
        assert_eq!(max_abs_diff(&[1.0], &[1.0, 2.0]), f64::INFINITY);
    }

    #[test]
    fn exact_counts_and_names_the_first() {
        let row = exact("k", &[3], &[1, 2, 3], &[1, 5, 4]);
        assert_eq!((row.max_abs_diff, row.verdict), (Some(2.0), Verdict::Fail));
        assert_eq!(row.note.as_deref(), Some("element 1 is 2, expected 5"));
        assert_eq!(exact("k", &[2], &[1, 2], &[1, 2]).verdict, Verdict::Pass);
        assert_eq!(exact("k", &[2], &[1], &[1, 2]).verdict, Verdict::Fail);
    }
}
