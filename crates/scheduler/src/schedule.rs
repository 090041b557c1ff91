//! [`Scheduler::schedule`]: who runs next.
//!
//! Running sequences with one token to compute come first, the oldest before the others; what is left of the token
//! budget goes to prompts, in the fair order of their owners, whether they run already or wait. When blocks run out,
//! idle sequences lose theirs first, then the newest running one, but only to an older one: so the oldest always
//! advances, and no two take blocks from each other for ever.

use crate::plan::{BlockCopy, Chunk, Flight, FlightChunk, FlightCopy, Plan};
use crate::queue::Rank;
use crate::sequence::Sequence;
use crate::table::BlockTable;
use crate::{Scheduler, SchedulerError};

/// A plan in the making.
#[derive(Default)]
struct Draft {
    plan: Plan,
    chunks: Vec<FlightChunk>,
    copies: Vec<FlightCopy>,
    budget: usize,
    /// Members of all running sequences, and of those that are not idle.
    running: usize,
    active: usize,
    /// Running sequences that nobody waits for; anybody may take their blocks.
    idle: Vec<u64>,
    /// Running sequences that are not in the plan yet, the newest last.
    victims: Vec<u64>,
    /// Running sequences with more than one token to compute.
    prefills: Vec<u64>,
}

impl Scheduler {
    /// What to compute next. Blocks are assigned, and sequences that had to make room are named.
    ///
    /// A plan that was neither committed nor aborted counts as aborted. An empty plan means that there is nothing to
    /// do, that everything is paused, or that blocks are lacking ([`Plan::short_of_blocks`]).
    pub fn schedule(&mut self) -> Plan {
        self.abort_flight();
        let mut draft = self.draft();
        for ticket in draft.victims.clone() {
            self.schedule_decode(ticket, &mut draft);
        }
        self.schedule_prompts(&mut draft);
        let Draft { mut plan, chunks, copies, .. } = draft;
        if !plan.is_empty() {
            self.stats.steps += 1;
            self.stats.scheduled_tokens += plan.num_tokens() as u64;
            plan.step = self.stats.steps;
            self.flight = Some(Flight { step: plan.step, chunks, copies, ended: Vec::new() });
        }
        plan
    }

    fn draft(&mut self) -> Draft {
        let budget = self.options.max_num_batched_tokens;
        let mut draft = Draft { budget, ..Draft::default() };
        for &ticket in &self.running {
            let Some(sequence) = self.sequences.get(&ticket) else { continue };
            draft.running += sequence.members.len();
            if sequence.is_idle() {
                draft.idle.push(ticket);
                continue;
            }
            draft.active += sequence.members.len();
            draft.victims.push(ticket);
            if sequence.remaining() > 1 {
                draft.prefills.push(ticket);
            }
        }
        self.stats.visits += self.running.len() as u64;
        draft
    }

    /// Plans the one token that a running sequence lacks, if it lacks one and there is room for its key.
    fn schedule_decode(&mut self, ticket: u64, draft: &mut Draft) {
        loop {
            let Some(sequence) = self.sequences.get_mut(&ticket) else { return };
            if !sequence.running || sequence.remaining() != 1 {
                return;
            }
            match make_writable(sequence, &self.blocks, draft) {
                Ok(()) => break,
                Err(_) if self.preempt_one(Some(ticket), draft) => {}
                Err(_) => {
                    draft.plan.short_of_blocks = true;
                    return;
                }
            }
        }
        let guesses = self.take_guesses(ticket, draft);
        self.schedule_chunk(ticket, guesses, draft);
    }

    /// The guesses at what follows a running sequence that there is room for. Nobody loses blocks or a turn to a guess.
    fn take_guesses(&mut self, ticket: u64, draft: &mut Draft) -> Vec<u32> {
        let Some(sequence) = self.sequences.get_mut(&ticket) else { return Vec::new() };
        let mut guesses = std::mem::take(&mut sequence.guesses);
        let next = sequence.computed + 1;
        // Each running sequence may need its own token computed, in a block of its own.
        let spare = draft.budget.saturating_sub(draft.active);
        guesses.truncate(spare.min(sequence.max_computed.saturating_sub(next)));
        let end = next + guesses.len();
        let wanted = end.div_ceil(self.blocks.block_size()).saturating_sub(sequence.table.blocks().len());
        let has_room = wanted == 0 || wanted + draft.active <= self.blocks.num_free_blocks();
        if !has_room || sequence.table.grow_to(end).is_err() {
            guesses.clear();
        }
        guesses
    }

    /// Spends what is left of the budget on prompts.
    fn schedule_prompts(&mut self, draft: &mut Draft) {
        let mut admitting = true;
        while draft.budget > 0 {
            let prefill = self.next_prefill(draft);
            let waiting = self.queue.first().filter(|_| admitting);
            match (prefill, waiting) {
                (Some((at, rank)), head) if head.is_none_or(|(head, _)| rank <= head) => {
                    let ticket = draft.prefills.swap_remove(at);
                    self.schedule_chunk(ticket, Vec::new(), draft);
                }
                (_, Some((_, ticket))) => {
                    admitting = self.admit(ticket, draft);
                    if admitting {
                        self.schedule_chunk(ticket, Vec::new(), draft);
                    }
                }
                _ => break,
            }
        }
    }

    /// Of the running prompts the one whose owner is the most entitled, the oldest of its owner.
    fn next_prefill(&mut self, draft: &mut Draft) -> Option<(usize, Rank)> {
        let Self { sequences, queue, .. } = self;
        let running = |ticket: &u64| sequences.get(ticket).filter(|sequence| sequence.running);
        draft.prefills.retain(|ticket| running(ticket).is_some());
        self.stats.visits += draft.prefills.len() as u64;
        let ranked = draft.prefills.iter().enumerate();
        let ranked =
            ranked.filter_map(|(at, ticket)| Some((queue.rank(running(ticket)?.owner)?, ticket, at)));
        ranked.min().map(|(rank, _, at)| (at, rank))
    }

    /// Gives a waiting sequence its place and all blocks of its known tokens, so that prompts do not fight over
    /// blocks half way, and leaves one block to each running sequence, so that they need not be preempted at once.
    fn admit(&mut self, ticket: u64, draft: &mut Draft) -> bool {
        self.stats.visits += 1;
        let Some(sequence) = self.sequences.get(&ticket) else { return false };
        let members = sequence.members.len();
        while draft.running + members > self.options.max_num_seqs {
            if !self.preempt_one(None, draft) {
                return false;
            }
        }
        loop {
            let reserve = if draft.active == 0 { 0 } else { draft.active + members - 1 };
            match self.take_blocks(ticket, reserve) {
                Ok(()) => break,
                Err(_) if self.preempt_one(None, draft) => {}
                Err(_) => {
                    draft.plan.short_of_blocks = true;
                    return false;
                }
            }
        }
        let Some(sequence) = self.sequences.get_mut(&ticket) else { return false };
        sequence.running = true;
        self.running.insert(ticket);
        draft.running += members;
        draft.active += members;
        self.queue.remove(sequence.owner, ticket);
        true
    }

    /// Looks the tokens up in the prefix cache and takes blocks for the rest, if `reserve` more stay free.
    fn take_blocks(&mut self, ticket: u64, reserve: usize) -> Result<(), SchedulerError> {
        let Some(sequence) = self.sequences.get_mut(&ticket) else { return Ok(()) };
        let (size, pool) = (self.blocks.block_size(), &self.blocks.pool);
        let lacks =
            |needed, free| Err(SchedulerError::OutOfBlocks { needed, free, total: pool.num_blocks() });
        // Do not look a long prompt up again before there is any hope for it.
        let (wanted, free) = (sequence.wanted_blocks + reserve, pool.num_free());
        if reserve > 0 && free < wanted {
            return lacks(wanted, free);
        }
        let known = sequence.tokens.len().min(sequence.max_computed);
        let cacheable =
            if self.options.prefix_cache && !sequence.prefill_only { (known - 1) / size } else { 0 };
        let found = pool.find(sequence.salt, &sequence.tokens, cacheable);
        let hits = found.blocks.len();
        let mut table = BlockTable::of(pool.clone(), found.blocks);
        let (needed, free) = (known.div_ceil(size) - hits + reserve, pool.num_free());
        if needed > free {
            drop(table);
            // What was found may be among the blocks that are free again now.
            sequence.wanted_blocks = needed - reserve + pool.num_free() - free;
            return lacks(needed, free);
        }
        table.grow_to(known)?;
        sequence.table = table;
        (sequence.computed, sequence.published) = (hits * size, hits);
        (sequence.restore, sequence.branch) = (found.snapshot, found.known * size);
        if sequence.cached_tokens.is_none() {
            sequence.cached_tokens = Some(hits * size);
            if self.options.prefix_cache && !sequence.prefill_only {
                self.stats.prefix_cache_queries += sequence.tokens.len() as u64;
                self.stats.prefix_cache_hits += (hits * size) as u64;
                found.missed.into_iter().for_each(|reason| self.stats.prefix_misses.count(reason));
            }
        }
        Ok(())
    }

    /// Takes the blocks of an idle sequence, or of the newest one if it is newer than `needy`. False if there is none.
    fn preempt_one(&mut self, needy: Option<u64>, draft: &mut Draft) -> bool {
        let newest =
            |victims: &mut Vec<u64>| victims.pop_if(|newest| needy.is_some_and(|needy| *newest > needy));
        let Some(ticket) = draft.idle.pop().or_else(|| newest(&mut draft.victims)) else { return false };
        let Some(sequence) = self.sequences.get_mut(&ticket) else { return false };
        sequence.start_over();
        self.running.remove(&ticket);
        draft.running -= sequence.members.len();
        if !sequence.is_idle() {
            draft.active -= sequence.members.len();
            self.queue.push(sequence.owner, ticket);
        }
        self.stats.preemptions += 1;
        draft.plan.preempted.extend(sequence.members.iter().map(|member| member.id));
        true
    }

    /// Plans as many of the sequence's tokens as the budget allows, and `guesses` behind them. Their blocks are in its
    /// table.
    fn schedule_chunk(&mut self, ticket: u64, guesses: Vec<u32>, draft: &mut Draft) {
        let Some(sequence) = self.sequences.get_mut(&ticket) else { return };
        let (Some(first), start) = (sequence.members.first(), sequence.computed) else { return };
        let mut end = start + sequence.remaining().min(draft.budget);
        let mut save = None;
        if self.options.prefix_cache && !sequence.prefill_only && self.blocks.pool.keeps_snapshots() {
            let (stop, is_worth_it) = sequence.stop(end, guesses.len(), self.blocks.block_size());
            end = stop;
            save = if is_worth_it { self.blocks.pool.lend_snapshot() } else { None };
        }
        let restore = sequence.restore.take();
        let samples = sequence.samples_at(end);
        draft.budget -= end - start + guesses.len();
        draft.plan.chunks.push(Chunk {
            id: first.id,
            start,
            tokens: [&sequence.tokens[start..end], &guesses].concat(),
            guesses: guesses.len(),
            next: sequence.tokens.get(end).copied(),
            blocks: sequence.table.blocks().to_vec(),
            cached_tokens: sequence.cached_tokens.unwrap_or(0),
            sample: sequence.members.iter().map(|member| member.id).filter(|_| samples).collect(),
            restore,
            save,
        });
        let restored = restore.is_some();
        let answers = end + guesses.len() > sequence.prompt_len;
        draft.chunks.push(FlightChunk { ticket, end, guesses, samples, answers, restored, save });
        sequence.in_flight = true;
        let new = end.saturating_sub(sequence.charged);
        sequence.charged += new;
        self.queue.charge(sequence.owner, new);
        self.stats.visits += 1;
    }
}

/// Makes room for the key of the next token: a new block if the last is full, a copy if others use it.
fn make_writable(
    sequence: &mut Sequence,
    blocks: &crate::BlockAllocator,
    draft: &mut Draft,
) -> Result<(), SchedulerError> {
    let index = sequence.computed / blocks.block_size();
    let Some(&block) = sequence.table.blocks().get(index) else {
        return sequence.table.grow_to(sequence.computed + 1);
    };
    // Copies are made before anything is written, so those who left this block for a copy do not count.
    let readers = draft.copies.iter().filter(|copy| copy.from == block).count();
    if blocks.pool.num_holders(block) - readers == 1 {
        return Ok(());
    }
    let before = sequence.table.fork();
    let to = sequence.table.renew(index)?;
    draft.plan.copies.push(BlockCopy { from: block, to });
    draft.copies.push(FlightCopy { ticket: sequence.ticket, from: block, before });
    Ok(())
}
