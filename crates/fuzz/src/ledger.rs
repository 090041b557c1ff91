//! [`Ledger`]: what a scheduler's caller knows of its sequences, and what a plan must therefore look like.

use std::collections::{BTreeMap, HashSet};

use scheduler::{Plan, SchedulerOptions, SequenceId};

/// A sequence as its caller knows it.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The prompt and what was sampled.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_len: usize,
    pub(crate) max_tokens: usize,
}

/// Living sequences by name.
#[derive(Debug, Default)]
pub(crate) struct Ledger(pub(crate) BTreeMap<u64, Job>);

impl Ledger {
    /// Every chunk is within bounds, has its own sequence's tokens and room for them, and writes where no other does.
    pub(crate) fn check(&self, plan: &Plan, options: &SchedulerOptions, block_size: usize) {
        assert!(plan.num_tokens() <= options.max_num_batched_tokens, "{plan:?}");
        let siblings: usize = plan.chunks.iter().map(|chunk| chunk.sample.len().max(1)).sum();
        assert!(siblings <= options.max_num_seqs, "{plan:?}");
        let mut written: HashSet<u32> = HashSet::new();
        for chunk in &plan.chunks {
            let end = chunk.start + chunk.tokens.len();
            let job = &self.0[&chunk.id.0];
            assert!(!chunk.tokens.is_empty() && end <= chunk.blocks.len() * block_size, "{chunk:?}");
            assert_eq!(chunk.tokens, job.tokens[chunk.start..end], "{chunk:?}");
            let blocks = &chunk.blocks[chunk.start / block_size..end.div_ceil(block_size)];
            assert!(blocks.iter().all(|&block| written.insert(block)), "{chunk:?} writes to another's block");
            let samples = job.max_tokens > 0 && end == job.tokens.len();
            assert_eq!(samples, !chunk.sample.is_empty(), "{chunk:?}");
            assert!(chunk.sample.iter().all(|id| self.0.contains_key(&id.0)), "{chunk:?}");
        }
    }

    /// Enters what a plan gave, and names the sequences that have all they wanted.
    pub(crate) fn enter(&mut self, plan: &Plan, sampled: &[(SequenceId, u32)]) -> Vec<SequenceId> {
        let mut complete = Vec::new();
        for (id, token) in sampled {
            let Some(job) = self.0.get_mut(&id.0) else { continue };
            job.tokens.push(*token);
            if job.tokens.len() == job.prompt_len + job.max_tokens {
                complete.push(*id);
            }
        }
        let prefilled = plan.chunks.iter().filter(|chunk| {
            let end = chunk.start + chunk.tokens.len();
            self.0.get(&chunk.id.0).is_some_and(|job| job.max_tokens == 0 && job.prompt_len == end)
        });
        complete.extend(prefilled.map(|chunk| chunk.id));
        complete
    }

    /// Steps that suffice for all that is left, wherever it stands.
    pub(crate) fn most_steps(&self) -> usize {
        self.0.values().map(|job| 2 * (job.prompt_len + job.max_tokens + 1)).sum()
    }
}
