//! The scheduler under operations in any order: its books are sound after each, every plan computes what its caller
//! knows, and whatever happened, all that is left ends and gives its blocks back.

use arbitrary::{Result, Unstructured};
use scheduler::{
    BlockAllocator, BlockTable, OwnerId, Plan, Scheduler, SchedulerOptions, SequenceId, SequenceSpec,
};

use crate::Target;
use crate::ledger::{Job, Ledger};

/// [`Scheduler`].
pub struct SchedulerTarget;

impl Target for SchedulerTarget {
    fn new() -> Self {
        Self
    }

    fn run(&self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let mut world = World::new(bytes)?;
        while !bytes.is_empty() {
            world.act(bytes)?;
            world.scheduler.check_integrity().unwrap();
        }
        world.wind_up();
        Ok(())
    }
}

/// A scheduler, its caller, and users of the pool that the scheduler does not know.
struct World {
    blocks: BlockAllocator,
    options: SchedulerOptions,
    scheduler: Scheduler,
    ledger: Ledger,
    outside: Vec<BlockTable>,
    under_way: Option<Plan>,
    next_id: u64,
}

impl World {
    fn new(bytes: &mut Unstructured<'_>) -> Result<Self> {
        let (num_blocks, block_size) = (bytes.int_in_range(1..=14)?, bytes.int_in_range(1..=4)?);
        let blocks = match bytes.ratio(1, 4)? {
            true => BlockAllocator::with_hash(num_blocks, block_size, |before, tokens| {
                (before + u64::from(tokens[0])) % 2
            }),
            false => BlockAllocator::new(num_blocks, block_size),
        };
        let blocks = blocks.unwrap();
        let max_num_seqs = bytes.int_in_range(1..=5)?;
        let max_num_batched_tokens = max_num_seqs + bytes.int_in_range(0..=9)?;
        let prefix_cache = !bytes.ratio(1, 4)?;
        let options = SchedulerOptions { max_num_seqs, max_num_batched_tokens, max_waiting: 6, prefix_cache };
        let scheduler = Scheduler::new(blocks.clone(), options).unwrap();
        let (ledger, outside) = (Ledger::default(), Vec::new());
        Ok(Self { blocks, options, scheduler, ledger, outside, under_way: None, next_id: 0 })
    }

    fn act(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        match bytes.int_in_range(0..=11u8)? {
            0..=2 => self.add(bytes)?,
            3 => {
                let id = bytes.int_in_range(0..=self.next_id)?;
                assert_eq!(self.scheduler.cancel(SequenceId(id)), self.ledger.0.remove(&id).is_some());
            }
            4 => self.scheduler.pause(SequenceId(bytes.int_in_range(0..=self.next_id)?), bytes.arbitrary()?),
            5 => {
                let mut table = self.blocks.table();
                if table.grow_to(bytes.int_in_range(1..=20)?).is_ok() {
                    self.outside.push(table);
                }
            }
            6 if !self.outside.is_empty() => {
                let index = bytes.choose_index(self.outside.len())?;
                self.outside[index].truncate(bytes.int_in_range(0..=10)?);
                self.outside.retain(|table| !table.blocks().is_empty());
            }
            7..=9 => self.schedule(),
            10 => {
                if let Some(plan) = self.under_way.take() {
                    self.scheduler.abort(plan);
                }
            }
            _ => self.commit(&mut || bytes.int_in_range(0..=7).unwrap_or_default()),
        }
        Ok(())
    }

    fn add(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let (pattern, prompt_len) = (bytes.int_in_range(0..=2u32)?, bytes.int_in_range(0..=20usize)?);
        // Prompts that share prefixes of any length.
        let token = |at| if at % 7 == 5 { pattern } else { at % 3 };
        let tokens: Vec<u32> = (0..prompt_len as u32).map(token).collect();
        let max_tokens = bytes.int_in_range(0..=8)?;
        let ids = self.next_id..=self.next_id + bytes.int_in_range(0..=2)?;
        let spec = SequenceSpec {
            id: SequenceId(self.next_id),
            owner: OwnerId(bytes.int_in_range(0..=2)?),
            salt: bytes.int_in_range(0..=1)?,
            prompt: tokens.clone(),
            max_tokens,
            siblings: ids.clone().skip(1).map(SequenceId).collect(),
        };
        if self.scheduler.add(spec.clone()).is_ok() {
            assert!(self.scheduler.add(spec).is_err(), "two sequences of one name");
            self.next_id = ids.end() + 1;
            self.ledger.0.extend(ids.map(|id| (id, Job { tokens: tokens.clone(), prompt_len, max_tokens })));
        }
        Ok(())
    }

    /// A plan that was under way is lost, and worth nothing when it turns up again.
    fn schedule(&mut self) {
        let plan = self.scheduler.schedule();
        self.ledger.check(&plan, &self.options, self.blocks.block_size());
        if let Some(lost) = self.under_way.replace(plan) {
            let sampled: Vec<_> = self.ledger.0.keys().map(|&id| (SequenceId(id), 0)).collect();
            self.scheduler.commit(lost, &sampled);
        }
    }

    /// `sample` gives tokens; of 7 none comes.
    fn commit(&mut self, sample: &mut dyn FnMut() -> u32) {
        let Some(plan) = self.under_way.take() else { return };
        let samples = plan.chunks.iter().flat_map(|chunk| &chunk.sample).map(|&id| (id, sample()));
        let sampled: Vec<_> = samples.filter(|(_, token)| *token < 7).collect();
        let complete = self.ledger.enter(&plan, &sampled);
        self.scheduler.commit(plan, &sampled);
        for id in complete {
            self.scheduler.finish(id);
            self.ledger.0.remove(&id.0);
        }
    }

    /// Everybody reads and nobody holds blocks outside: all that is left ends, and soon.
    fn wind_up(&mut self) {
        if let Some(plan) = self.under_way.take() {
            self.scheduler.abort(plan);
        }
        self.outside.clear();
        (0..self.next_id).for_each(|id| self.scheduler.pause(SequenceId(id), false));
        for _ in 0..self.ledger.most_steps() {
            self.schedule();
            self.commit(&mut || 1);
            self.scheduler.check_integrity().unwrap();
        }
        let stats = self.scheduler.stats();
        assert!(self.ledger.0.is_empty(), "left over: {:?}, {stats:?}", self.ledger);
        assert_eq!((stats.running, stats.waiting, stats.num_used_blocks), (0, 0, 0));
    }
}
