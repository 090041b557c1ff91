//! [`Sequence`]: the tokens whose keys and values lie in the KV cache, and the blocks that hold them.

use scheduler::BlockTable;

use crate::state_slots::StateSlot;

/// The cached part of one conversation. Dropping it returns its blocks to the engine.
#[derive(Debug)]
pub struct Sequence {
    tokens: Vec<u32>,
    pub(crate) table: BlockTable,
    /// Where the model keeps what is not paged, from the first step on; `None` for models that keep no such thing.
    pub(crate) slot: Option<StateSlot>,
}

impl Sequence {
    pub(crate) fn new(table: BlockTable) -> Self {
        Self { tokens: Vec::new(), table, slot: None }
    }

    /// The tokens whose keys and values are cached, in order.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens cached.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True if nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Keeps what `prompt` begins with and returns the number of tokens kept. At least one token of the prompt is
    /// left to compute, because the next token is sampled from the last one's logits.
    pub fn reuse_for(&mut self, prompt: &[u32]) -> usize {
        let limit = prompt.len().saturating_sub(1);
        let shared = self.tokens.iter().zip(&prompt[..limit]).take_while(|(a, b)| a == b).count();
        self.truncate(shared);
        self.len()
    }

    /// Forgets the tokens from position `len` on. A model's state of the sequence can go back only as many tokens as a step
    /// may guess, counted from the furthest that the sequence ever got; where it cannot, all tokens are forgotten.
    pub fn truncate(&mut self, len: usize) {
        let len = len.min(self.len());
        let len = self.slot.as_mut().map_or(len, |slot| slot.step_back(len));
        self.tokens.truncate(len);
        self.table.truncate(len);
    }

    /// Takes the blocks of `count` tokens more, if there are so many.
    pub(crate) fn has_room(&mut self, count: usize) -> bool {
        self.table.grow_to(self.tokens.len() + count).is_ok()
    }

    pub(crate) fn commit(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        if let Some(slot) = &mut self.slot {
            slot.advance(self.tokens.len());
        }
        debug_assert_eq!(self.tokens.len(), self.table.num_tokens(), "every cached token has its row");
    }
}
