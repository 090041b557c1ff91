//! [`PrefixIndex`]: which full blocks hold which tokens after which others.
//!
//! The known blocks form a forest: a block continues its parent, and the first block of a prompt has a salt instead.
//! A hash finds a candidate, and it is a hit only if its parent, its salt and its tokens are the ones asked for: a
//! collision never gives wrong content. Whoever holds a block holds its ancestors too and returns the end of a chain
//! first, so the least recently held block has no children, and eviction never cuts a chain in the middle.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::SchedulerError;
use crate::seen::Seen;
use crate::stats::MissReason;

/// What a look-up found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The known blocks, in order.
    pub(crate) blocks: Vec<u32>,
    /// Why the chain ended before its limit.
    pub(crate) missed: Option<MissReason>,
    /// Known blocks, those included that cannot be used for want of state.
    pub(crate) known: usize,
    /// The state at the end of `blocks`, of sequences that have any.
    pub(crate) snapshot: Option<u32>,
}

/// A full block whose content is known.
#[derive(Debug)]
struct Node {
    parent: Option<u32>,
    salt: u64,
    tokens: Box<[u32]>,
    /// Hash of the tokens from the first block to the end of this one; the salt is not in it.
    chain: u64,
    /// Known blocks that continue this one.
    children: u32,
    /// When the last holder left, while there is none.
    unheld_since: Option<u64>,
}

impl Node {
    fn is(&self, parent: Option<u32>, salt: u64, tokens: &[u32]) -> bool {
        self.parent == parent && self.salt == salt && *self.tokens == *tokens
    }
}

/// Hash of a block's tokens after the hash of what precedes it.
type BlockHash = Box<dyn Fn(u64, &[u32]) -> u64 + Send>;

pub(crate) struct PrefixIndex {
    block_size: usize,
    hash: BlockHash,
    /// Per physical block.
    nodes: Vec<Option<Node>>,
    /// Known blocks by their salted hash.
    table: HashTable<u32>,
    /// Known blocks that nobody holds, the least recently held first.
    unheld: BTreeMap<u64, u32>,
    /// Counts releases.
    now: u64,
    /// Marks of blocks that are or were known, for [`MissReason`].
    seen: Seen,
}

/// Marks per block, and how many times the pool's worth of them is remembered.
const SEEN_PER_BLOCK: usize = 3 * 2;

impl fmt::Debug for PrefixIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefixIndex").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

impl PrefixIndex {
    /// An empty index. Its hash is keyed at random, so that nobody can send prompts that collide.
    pub(crate) fn new(num_blocks: usize, block_size: usize) -> Self {
        let random = RandomState::new();
        Self {
            block_size,
            hash: Box::new(move |before, tokens| random.hash_one((before, tokens))),
            nodes: (0..num_blocks).map(|_| None).collect(),
            table: HashTable::new(),
            unheld: BTreeMap::new(),
            now: 0,
            seen: Seen::new(num_blocks * SEEN_PER_BLOCK),
        }
    }

    pub(crate) fn set_hash(&mut self, hash: fn(u64, &[u32]) -> u64) {
        self.hash = Box::new(hash);
    }

    pub(crate) fn num_unheld(&self) -> usize {
        self.unheld.len()
    }

    pub(crate) fn knows(&self, block: u32) -> bool {
        self.node(block).is_some()
    }

    /// The longest known chain of at most `max_blocks` whole blocks that `tokens` begins with under `salt`.
    pub(crate) fn find(&self, salt: u64, tokens: &[u32], max_blocks: usize) -> Found {
        let (mut blocks, mut before) = (Vec::new(), 0);
        for tokens in tokens.chunks_exact(self.block_size).take(max_blocks) {
            let chain = (self.hash)(before, tokens);
            let parent = blocks.last().copied();
            let Some(block) = self.get(chain, parent, salt, tokens) else {
                let missed = Some(self.reason(salt, before, tokens));
                return Found { known: blocks.len(), blocks, missed, snapshot: None };
            };
            blocks.push(block);
            before = chain;
        }
        let missed = (max_blocks == 0).then_some(MissReason::BelowBlock);
        Found { known: blocks.len(), blocks, missed, snapshot: None }
    }

    /// Makes `block` known as what continues `parent` with `tokens`, unless such a block is known already. Returns the
    /// known one.
    pub(crate) fn insert(&mut self, block: u32, parent: Option<u32>, salt: u64, tokens: &[u32]) -> u32 {
        let before = parent.and_then(|p| self.node(p)).map_or(0, |p| p.chain);
        let chain = (self.hash)(before, tokens);
        if let Some(known) = self.get(chain, parent, salt, tokens) {
            return known;
        }
        debug_assert!(!self.knows(block), "block {block} is known with other content");
        if let Some(parent) = parent.and_then(|p| self.nodes[p as usize].as_mut()) {
            parent.children += 1;
        }
        let node = Node { parent, salt, tokens: tokens.into(), chain, children: 0, unheld_since: None };
        self.nodes[block as usize] = Some(node);
        let Self { table, nodes, hash, .. } = self;
        let key = |node: &Node| salted(hash, node.chain, node.salt);
        let rehash = |&b: &u32| nodes[b as usize].as_ref().map_or(0, key);
        table.insert_unique(salted(hash, chain, salt), block, rehash);
        self.note(salt, before, tokens);
        block
    }

    /// What tells later why a look-up for this block missed.
    fn marks(&self, salt: u64, before: u64, tokens: &[u32]) -> [(u64, MissReason); 3] {
        let chain = (self.hash)(before, tokens);
        let half = (self.hash)(before, &tokens[..tokens.len().div_ceil(2)]);
        [
            (salted(&self.hash, chain, salt), MissReason::Evicted),
            (chain, MissReason::Salt),
            (salted(&self.hash, half, salt), MissReason::BelowBlock),
        ]
    }

    fn note(&mut self, salt: u64, before: u64, tokens: &[u32]) {
        for (mark, _) in self.marks(salt, before, tokens) {
            self.seen.note(mark);
        }
    }

    /// Why a block of these tokens after `before` is not known.
    fn reason(&self, salt: u64, before: u64, tokens: &[u32]) -> MissReason {
        let marks = self.marks(salt, before, tokens);
        marks.into_iter().find(|(mark, _)| self.seen.contains(*mark)).map_or(MissReason::Cold, |(_, why)| why)
    }

    /// `block` has a holder again.
    pub(crate) fn held(&mut self, block: u32) {
        if let Some(node) = &mut self.nodes[block as usize]
            && let Some(since) = node.unheld_since.take()
        {
            self.unheld.remove(&since);
        }
    }

    /// The last holder of `block` left. False if the index does not know the block, so that it is empty now.
    pub(crate) fn unheld(&mut self, block: u32) -> bool {
        let Some(node) = &mut self.nodes[block as usize] else { return false };
        self.now += 1;
        node.unheld_since = Some(self.now);
        self.unheld.insert(self.now, block);
        true
    }

    /// Forgets the block that has been without a holder for longest.
    pub(crate) fn evict(&mut self) -> Option<u32> {
        let (_, block) = self.unheld.pop_first()?;
        let node = self.nodes[block as usize].take()?;
        debug_assert_eq!(node.children, 0, "block {block} is evicted before what continues it");
        let key = salted(&self.hash, node.chain, node.salt);
        if let Ok(entry) = self.table.find_entry(key, |&b| b == block) {
            entry.remove();
        }
        let parent = node.parent.and_then(|p| self.nodes[p as usize].as_mut());
        let before = parent.map_or(0, |parent| {
            parent.children -= 1;
            parent.chain
        });
        // It may have been forgotten in all the time since it became known.
        self.note(node.salt, before, &node.tokens);
        Some(block)
    }

    /// Proves that the nodes are a forest, that the table names each once and that the unheld ones are listed.
    pub(crate) fn check_integrity(&self, is_held: impl Fn(u32) -> bool) -> Result<(), SchedulerError> {
        let fail = |block: u32, found| Err(SchedulerError::Integrity { block, found });
        let mut children = vec![0; self.nodes.len()];
        let known = || (0u32..).zip(&self.nodes).filter_map(|(b, n)| Some((b, n.as_ref()?)));
        for (block, node) in known() {
            let listed = node.unheld_since.map(|since| self.unheld.get(&since));
            if listed != (!is_held(block)).then_some(Some(&block)) {
                return fail(block, "cached and held at once, or known and neither");
            }
            if self.get(node.chain, node.parent, node.salt, &node.tokens) != Some(block) {
                return fail(block, "known but not found");
            }
            let Some(parent) = node.parent else { continue };
            match self.node(parent) {
                None => return fail(block, "known without its parent"),
                Some(p) if p.unheld_since.is_some_and(|p| node.unheld_since.is_none_or(|n| n > p)) => {
                    return fail(block, "going to lose its parent first");
                }
                Some(_) => children[parent as usize] += 1,
            }
        }
        for (block, node) in known() {
            if node.children != children[block as usize] {
                return fail(block, "known with a wrong number of children");
            }
        }
        let count = known().count();
        if self.table.len() != count || self.unheld.len() > count {
            return fail(0, "one of more table entries than known blocks");
        }
        Ok(())
    }

    fn node(&self, block: u32) -> Option<&Node> {
        self.nodes.get(block as usize)?.as_ref()
    }

    fn get(&self, chain: u64, parent: Option<u32>, salt: u64, tokens: &[u32]) -> Option<u32> {
        let same = |&block: &u32| self.node(block).is_some_and(|node| node.is(parent, salt, tokens));
        self.table.find(salted(&self.hash, chain, salt), same).copied()
    }
}

/// The hash that a chain has under a salt.
fn salted(hash: &BlockHash, chain: u64, salt: u64) -> u64 {
    hash(chain, &[salt as u32, (salt >> 32) as u32])
}
