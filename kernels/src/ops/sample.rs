//! Sampling: a row of logits and how to choose from it become one token.

use crate::cpu::{self, Candidate};
use crate::{DType, KernelError, Result, Tensor};

/// Largest vocabulary: the sum of so many masses (`cpu::sample`) still fits 64 bits.
const MAX_VOCAB: usize = 1 << 19;
/// Marks an id as "the logit of this token defines no distribution".
const NO_CHOICE: u32 = 1 << 31;

/// How one row is sampled. The order is: edits, the mask of allowed tokens, then either the largest logit or temperature,
/// `min_p`, `top_k`, `top_p` and one draw. Each filter works on what the one before it left, renormalised.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::NoUninit)]
#[repr(C)]
pub struct SampleParams {
    /// Uniformly random bits for the draw, the only randomness there is.
    pub random: u64,
    /// Divides the logits; 0 takes the largest logit, a tie goes to the lowest id, and what follows has no effect.
    pub temperature: f32,
    /// Keeps the smallest set of most probable tokens whose probabilities sum to at least so much. Above 0; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least so many times as probable as the most probable one. In [0, 1].
    pub min_p: f32,
    /// For tokens that were seen: a positive logit is divided by it, a negative one multiplied.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of a token that was generated.
    pub presence_penalty: f32,
    /// Subtracted once for each time that the token was generated.
    pub frequency_penalty: f32,
    /// Keeps so many of the most probable tokens, ties going to the lower id; 0 keeps all.
    pub top_k: u32,
    /// 1 if the log-probability of the token is wanted, else 0.
    pub logprob: u32,
}

impl Default for SampleParams {
    /// Greedy, without penalties and log-probability.
    fn default() -> Self {
        Self {
            random: 0,
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            top_k: 0,
            logprob: 0,
        }
    }
}

/// What changes one token's logit before anything else: first its bias is added, then the row's penalties are taken.
#[derive(Debug, Clone, Copy, PartialEq, Default, bytemuck::NoUninit)]
#[repr(C)]
pub struct LogitEdit {
    /// The token.
    pub token: u32,
    /// Added to its logit; negative infinity bans it.
    pub bias: f32,
    /// 1 if the token is in the prompt or the output, else 0.
    pub seen: u32,
    /// How often it was generated.
    pub generated: u32,
}

/// The rows of one call.
#[derive(Debug, Clone)]
pub struct SampleBatch {
    pub(crate) params: Vec<SampleParams>,
    pub(crate) edits: Vec<LogitEdit>,
    /// `[R + 1]`: the edits of row `r` are `edits[offsets[r]..offsets[r + 1]]`.
    pub(crate) offsets: Vec<u32>,
    pub(crate) allowed: Option<Vec<u32>>,
}

impl Default for SampleBatch {
    /// No rows.
    fn default() -> Self {
        Self { params: Vec::new(), edits: Vec::new(), offsets: vec![0], allowed: None }
    }
}

impl SampleBatch {
    /// Adds a row; at most one edit per token, by rising token.
    pub fn push(&mut self, params: SampleParams, edits: &[LogitEdit]) {
        self.params.push(params);
        self.edits.extend_from_slice(edits);
        self.offsets.push(self.edits.len() as u32);
    }

    /// Allows only the tokens whose bit is set: bit `t % 32` of word `t / 32` of a row of `ceil(V / 32)` words.
    pub fn allow(&mut self, words: Vec<u32>) {
        self.allowed = Some(words);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.params.len()
    }

    /// A row's parameters and edits.
    pub fn row(&self, row: usize) -> (&SampleParams, &[LogitEdit]) {
        let edits = self.offsets[row] as usize..self.offsets[row + 1] as usize;
        (&self.params[row], &self.edits[edits])
    }

    /// A row's words of the mask over `vocab` tokens, if there is a mask.
    pub fn allowed(&self, row: usize, vocab: usize) -> Option<&[u32]> {
        let words = vocab.div_ceil(32);
        self.allowed.as_ref().map(|all| &all[row * words..][..words])
    }

    fn check(&self, vocab: usize) -> Result<()> {
        for row in 0..self.rows() {
            let (params, edits) = self.row(row);
            check_row(params, edits, vocab)?;
        }
        let words = self.rows() * vocab.div_ceil(32);
        match &self.allowed {
            Some(allowed) if allowed.len() != words => {
                Err(KernelError::shape(OP, "allowed", format!("[{words}] words"), &[allowed.len()]))
            }
            _ => Ok(()),
        }
    }
}

/// What a row gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// A token, with its log-probability under the logits as they came, before edits and temperature; NaN if it was
    /// not wanted.
    Token {
        /// The token.
        id: u32,
        /// Its log-probability.
        logprob: f32,
    },
    /// There is no distribution to choose from: the first logit that is NaN or positive infinity, or the largest after
    /// the edits if that is infinite.
    NoDistribution {
        /// The token of that logit.
        token: u32,
        /// The logit.
        logit: f32,
    },
}

impl Choice {
    fn encode(self) -> (u32, f32) {
        match self {
            Self::Token { id, logprob } => (id, logprob),
            Self::NoDistribution { token, logit } => (token | NO_CHOICE, logit),
        }
    }

    fn decode((id, value): (u32, f32)) -> Self {
        match id & NO_CHOICE {
            0 => Self::Token { id, logprob: value },
            _ => Self::NoDistribution { token: id & !NO_CHOICE, logit: value },
        }
    }
}

/// The choices of all rows, where the logits were.
#[derive(Debug, Clone)]
pub struct SampledRows {
    /// `[R]` `U32`: the tokens. An id with its highest bit set means that there was none to choose.
    pub ids: Tensor,
    /// `[R]` `F32`: their log-probabilities.
    pub logprobs: Tensor,
}

impl SampledRows {
    /// The choices on the host; waits for the device.
    ///
    /// # Errors
    /// What the device met since the last wait.
    pub fn read(&self) -> Result<Vec<Choice>> {
        let (ids, logprobs) = (self.ids.to_vec_u32()?, self.logprobs.read_f32()?);
        Ok(ids.into_iter().zip(logprobs).map(Choice::decode).collect())
    }
}

const OP: &str = "sample";

/// Chooses a token from each of the first rows of `logits` `[R, V]` `F32`, as many as the batch has; what is behind them is
/// not read. Every sum is over integers, so the same logits give the same tokens on every device.
pub fn sample(logits: &Tensor, batch: &SampleBatch) -> Result<SampledRows> {
    let [rows, vocab] = logits.dims(OP, "logits", "[R, V]")?;
    logits.expect_dtype(DType::F32, "F32", OP, "logits")?;
    if rows < batch.rows() || vocab == 0 || vocab > MAX_VOCAB {
        let expected = format!("[at least {}, 1 to {MAX_VOCAB}]", batch.rows());
        return Err(KernelError::shape(OP, "logits", expected, logits.shape()));
    }
    batch.check(vocab)?;
    #[cfg(feature = "cuda-host")]
    if logits.is_cuda() {
        return crate::cuda::sample::sample(logits, batch);
    }
    let rows = batch.rows();
    let (mut ids, mut logprobs) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let mut candidates = Vec::new();
    let device = logits.device();
    for (row, logits) in logits.f32s(OP, "logits")?.chunks_exact(vocab).take(rows).enumerate() {
        let ((params, edits), allowed) = (batch.row(row), batch.allowed(row, vocab));
        let choice = cpu::sample_row(&mut logits.to_vec(), params, edits, allowed, &mut candidates);
        let (id, logprob) = choice.encode();
        ids.push(id);
        logprobs.push(logprob);
    }
    let ids = Tensor::from_u32(&device, &[rows], &ids)?;
    Ok(SampledRows { ids, logprobs: Tensor::from_f32(&device, &[rows], &logprobs)? })
}

/// [`sample`] for one row that the host has; the logits are left as the edits changed them. `candidates` is scratch,
/// worth keeping from call to call.
pub fn sample_host(
    logits: &mut [f32],
    params: &SampleParams,
    edits: &[LogitEdit],
    candidates: &mut Vec<Candidate>,
) -> Result<Choice> {
    if logits.is_empty() || logits.len() > MAX_VOCAB {
        return Err(KernelError::shape(OP, "logits", format!("[1 to {MAX_VOCAB}]"), &[logits.len()]));
    }
    check_row(params, edits, logits.len())?;
    Ok(cpu::sample_row(logits, params, edits, None, candidates))
}

fn check_row(params: &SampleParams, edits: &[LogitEdit], vocab: usize) -> Result<()> {
    let SampleParams { temperature, top_p, min_p, .. } = *params;
    if !(temperature >= 0.0 && temperature.is_finite()) {
        return Err(KernelError::value(OP, "temperature", "a finite number of at least 0", temperature));
    }
    if top_p.is_nan() || top_p <= 0.0 {
        return Err(KernelError::value(OP, "top_p", "a number above 0", top_p));
    }
    if !(0.0..=1.0).contains(&min_p) {
        return Err(KernelError::value(OP, "min_p", "0 to 1", min_p));
    }
    if let Some(edit) = edits.iter().find(|edit| edit.token as usize >= vocab) {
        return Err(KernelError::value(OP, "edits", format!("token ids below {vocab}"), edit.token));
    }
    if let Some(pair) = edits.windows(2).find(|pair| pair[0].token >= pair[1].token) {
        return Err(KernelError::value(
            OP,
            "edits",
            format!("token ids that rise after {}", pair[0].token),
            pair[1].token,
        ));
    }
    Ok(())
}
