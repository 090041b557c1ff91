//! A plan of the scheduler carried out, and the guilty found if it cannot be.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use models::StepContext;
use scheduler::{Chunk, Plan, SequenceId};

use super::live::{Continuation, Lives};
use crate::draft::{DraftChunk, DraftInput};
use crate::ranks::panic_words;
use crate::sampler::{SampleRow, sample_rows};
use crate::speculation::{Drafter, Speculation};
use crate::step::{StepChunk, StepInput, StepTensors};
use crate::{Engine, EngineError, Sampled};

/// What a plan gave.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Who sampled what: one token, and one more for each guess that was right.
    pub(crate) sampled: Vec<(SequenceId, Result<Vec<Sampled>, EngineError>)>,
    /// What the MTP layer guesses to follow.
    pub(crate) guesses: Vec<(SequenceId, Vec<u32>)>,
    /// Hidden states `[count, D]` of prompts that are embedded.
    pub(crate) hidden: Vec<(SequenceId, usize, Vec<f32>)>,
    /// Sequences whose part could not be computed.
    pub(crate) failed: Vec<(SequenceId, EngineError)>,
}

/// Carries out `plan`. If it fails as a whole, its parts are run one by one, so that only the guilty fail.
///
/// # Errors
/// The engine is lost.
pub(crate) fn run(engine: &Engine, plan: &Plan, lives: &mut Lives) -> Result<Outcome, EngineError> {
    plan.preempted.iter().for_each(|id| lives.states.remove(*id));
    let copies = || plan.copies.iter().map(|copy| (copy.from, copy.to)).collect();
    let error = match attempt(engine, copies(), &plan.chunks, lives) {
        Ok(outcome) => return Ok(outcome),
        Err(error @ EngineError::Rank { .. }) => return Err(error),
        Err(error) => error,
    };
    let mut outcome = Outcome::default();
    if engine.keeps_state() {
        // The failed step may have changed any state, so that nothing can be run again.
        let reason = error.to_string();
        let fail = |chunk: &Chunk| (chunk.id, EngineError::State { reason: reason.clone() });
        outcome.failed.extend(plan.chunks.iter().map(fail));
        return Ok(outcome);
    }
    if let [only] = &plan.chunks[..] {
        outcome.failed.push((only.id, error));
    } else {
        attempt(engine, copies(), &[], lives)?;
        for chunk in &plan.chunks {
            match attempt(engine, Vec::new(), std::slice::from_ref(chunk), lives) {
                Ok(part) => outcome.join(part),
                Err(error @ EngineError::Rank { .. }) => return Err(error),
                Err(error) => outcome.failed.push((chunk.id, error)),
            }
        }
    }
    // A device that is lost fails whatever it is given, and nobody is guilty.
    engine.on_ranks(|rank| Ok(rank.device.synchronize()?))?;
    Ok(outcome)
}

impl Outcome {
    fn join(&mut self, part: Self) {
        self.sampled.extend(part.sampled);
        self.guesses.extend(part.guesses);
        self.hidden.extend(part.hidden);
        self.failed.extend(part.failed);
    }
}

/// A step, and who wants what of its rows.
#[derive(Default)]
struct Parts {
    input: StepInput,
    /// In the order of the step's rows of logits. Taken out for the step, which changes many of them at once.
    samplers: Vec<Sampling>,
    /// Who embeds, and how many of the step's rows of hidden states are its.
    embedded: Vec<(SequenceId, usize)>,
}

/// Who samples from one row of a step, and from one more behind each of its guesses.
struct Sampling {
    id: SequenceId,
    continuation: Box<Continuation>,
    guesses: Vec<u32>,
}

impl Parts {
    /// `slots` of `chunks`; those of snapshots begin at `first_snapshot`.
    fn new(
        copies: Vec<(u32, u32)>,
        chunks: &[Chunk],
        slots: &[Option<u32>],
        first_snapshot: u32,
        lives: &mut Lives,
    ) -> Self {
        let state_copies = lives.states.take_copies();
        let snapshots = || chunks.iter().zip(slots).filter_map(|(chunk, slot)| Some((chunk, (*slot)?)));
        let number = |snapshot: u32| first_snapshot + snapshot;
        let restores = snapshots().filter_map(|(chunk, slot)| Some((number(chunk.restore?), slot)));
        let saves = snapshots().filter_map(|(chunk, slot)| Some((slot, number(chunk.save?))));
        let (state_restores, state_saves) = (restores.collect(), saves.collect());
        let input = StepInput { copies, state_copies, state_restores, state_saves, ..StepInput::default() };
        let mut parts = Self { input, ..Self::default() };
        let mut end = 0;
        for (chunk, slot) in chunks.iter().zip(slots) {
            let Chunk { id, start, tokens, guesses, blocks, sample, .. } = chunk;
            let rows = end..end + tokens.len() as u32;
            end = rows.end;
            let guesses = &tokens[tokens.len() - guesses..];
            for &id in sample {
                if let Some(continuation) = lives.continuations.remove(&id) {
                    parts.input.logit_rows.extend(end - 1 - guesses.len() as u32..end);
                    parts.samplers.push(Sampling { id, continuation, guesses: guesses.to_vec() });
                }
            }
            if lives.means.contains_key(id) {
                parts.input.hidden_rows.extend(rows);
                parts.embedded.push((*id, tokens.len()));
            }
            let (tokens, blocks) = (tokens.clone(), blocks.clone());
            parts.input.chunks.push(StepChunk { tokens, start: *start, blocks, slot: *slot });
        }
        parts
    }
}

/// One step over `chunks`. A panic in it is an error like any other. A step that fails leaves all as it was.
fn attempt(
    engine: &Engine,
    copies: Vec<(u32, u32)>,
    chunks: &[Chunk],
    lives: &mut Lives,
) -> Result<Outcome, EngineError> {
    let slots = lives.states.of(engine, chunks)?;
    let Parts { input, mut samplers, embedded } =
        Parts::new(copies, chunks, &slots, engine.slots().count() as u32, lives);
    let ids: Vec<SequenceId> = samplers.iter().map(|sampling| sampling.id).collect();
    let state_saves = input.state_saves.clone();
    let result = catch_unwind(AssertUnwindSafe(|| step(engine, input, &mut samplers)));
    lives.continuations.extend(samplers.into_iter().map(|sampling| (sampling.id, sampling.continuation)));
    let (sampled, hidden) =
        result.unwrap_or_else(|panic| Err(EngineError::Panic { words: panic_words(&*panic) }))?;
    lives.states.part(chunks);
    let width = hidden.len() / embedded.iter().map(|(_, count)| count).sum::<usize>().max(1);
    let mut rest = &hidden[..];
    let hidden = embedded.into_iter().map(|(id, count)| {
        let (rows, others) = rest.split_at(count * width);
        rest = others;
        (id, count, rows.to_vec())
    });
    let hidden = hidden.collect();
    let sampled: Vec<_> = ids.into_iter().zip(sampled).collect();
    let guesses = draft(engine, chunks.iter().zip(&slots), state_saves, &sampled)?;
    Ok(Outcome { sampled, guesses, hidden, failed: Vec::new() })
}

/// The MTP layer's rows for what a step computed, and its guesses for those who sampled.
///
/// # Errors
/// The engine is lost. Any other failure costs the guesses of this step and nothing else: the tokens stand.
fn draft<'c>(
    engine: &Engine,
    chunks: impl Iterator<Item = (&'c Chunk, &'c Option<u32>)>,
    state_saves: Vec<(u32, u32)>,
    sampled: &[(SequenceId, Result<Vec<Sampled>, EngineError>)],
) -> Result<Vec<(SequenceId, Vec<u32>)>, EngineError> {
    let Some(Speculation { drafter: Drafter::Mtp, num_tokens }) = engine.speculation() else {
        return Ok(Vec::new());
    };
    let sampled: HashMap<SequenceId, &Vec<Sampled>> =
        sampled.iter().filter_map(|(id, sampled)| Some((*id, sampled.as_ref().ok()?))).collect();
    let (mut ids, mut drafts, mut first_row) = (Vec::new(), Vec::new(), 0);
    for (Chunk { id, start, tokens, guesses, blocks, sample, next, .. }, slot) in chunks {
        // Siblings that part share their last row, which can follow one of them only.
        let who = sample.iter().find_map(|id| Some((*id, *sampled.get(id)?)));
        let known = tokens.len() - guesses;
        let mut behind = tokens[1..known].to_vec();
        match who {
            Some((_, sampled)) => behind.extend(sampled.iter().map(|sampled| sampled.token)),
            // Of a prompt that ends here nothing follows, and any token will do.
            None => behind.extend(next.or(tokens.last().copied())),
        }
        let chunk = StepChunk { tokens: behind, start: *start, blocks: blocks.clone(), slot: *slot };
        drafts.push(DraftChunk { chunk, first_row, count: who.map_or(0, |_| num_tokens) });
        ids.push(who.map_or(*id, |(id, _)| id));
        first_row += tokens.len() as u32;
    }
    let input = DraftInput { chunks: drafts, state_saves };
    let result = catch_unwind(AssertUnwindSafe(|| engine.draft(input)));
    match result {
        Ok(Ok(guesses)) => Ok(ids.into_iter().zip(guesses).collect()),
        Ok(Err(error @ EngineError::Rank { .. })) => Err(error),
        Ok(Err(_)) | Err(_) => Ok(Vec::new()),
    }
}

type Samples = Vec<Result<Vec<Sampled>, EngineError>>;

/// The samples of a step and its hidden states, on the host.
fn step(
    engine: &Engine,
    input: StepInput,
    samplers: &mut [Sampling],
) -> Result<(Samples, Vec<f32>), EngineError> {
    let mut broken = Vec::new();
    let rows = samplers.iter_mut().enumerate().map(|(i, Sampling { continuation, guesses, .. })| {
        let (sampler, allowed) = continuation.row();
        // It takes part, because the row is in the step; what it gives is thrown away.
        let allowed = allowed.unwrap_or_else(|error| {
            broken.push((i, error));
            None
        });
        SampleRow { sampler, allowed, guesses }
    });
    let mut rows: Vec<SampleRow<'_>> = rows.collect();
    let mut ctx = StepContext::new(engine.device());
    let (mut sampled, hidden) =
        engine.step(&mut ctx, &Arc::new(input), |StepTensors { logits, hidden }| {
            let sampled = logits.map_or(Ok(Vec::new()), |logits| sample_rows(logits, &mut rows))?;
            let hidden = hidden.map_or(Ok(Vec::new()), |hidden| hidden.read_f32())?;
            Ok::<_, EngineError>((sampled, hidden))
        })??;
    for (i, error) in broken {
        sampled[i] = Err(error);
    }
    Ok((sampled, hidden))
}
