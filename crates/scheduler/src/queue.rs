//! [`OwnerQueue`]: who waits, in fair order.
//!
//! Every owner has a counter of the tokens computed for it, and the owner with the lowest goes first; inside an owner
//! the sequence that arrived first does. A newcomer starts at the virtual time, which advances by each computed token
//! divided by the number of owners: the counter of somebody who got exactly a fair share. So a newcomer neither owes
//! for the past nor is owed, and an owner ahead of its share waits only until the others have caught up, however many
//! newcomers come.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::OwnerId;

/// Fractions of a token in which time is counted, so that it can be divided among owners.
const TICKS_PER_TOKEN: u64 = 1 << 16;

/// The order of owners: ticks charged, then who came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    charged: u64,
    since: u64,
}

#[derive(Debug)]
struct Owner {
    rank: Rank,
    /// Sequences that live, waiting or not. An owner without any is forgotten.
    living: usize,
    /// Waiting sequences by ticket.
    waiting: BTreeSet<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct OwnerQueue {
    owners: HashMap<OwnerId, Owner>,
    /// Owners of which somebody waits.
    order: BTreeMap<Rank, OwnerId>,
    virtual_time: u64,
    arrivals: u64,
}

impl OwnerQueue {
    /// `count` sequences of `owner` are born.
    pub(crate) fn join(&mut self, owner: OwnerId, count: usize) {
        let rank = Rank { charged: self.virtual_time, since: self.arrivals };
        self.arrivals += 1;
        let newcomer = Owner { rank, living: 0, waiting: BTreeSet::new() };
        self.owners.entry(owner).or_insert(newcomer).living += count;
    }

    /// A sequence of `owner`, which does not wait, ended.
    pub(crate) fn leave(&mut self, owner: OwnerId) {
        if let Some(entry) = self.owners.get_mut(&owner) {
            entry.living -= 1;
            if entry.living == 0 {
                self.owners.remove(&owner);
            }
        }
    }

    /// The sequence waits. One with an older ticket goes before those with newer ones.
    pub(crate) fn push(&mut self, owner: OwnerId, ticket: u64) {
        if let Some(entry) = self.owners.get_mut(&owner) {
            entry.waiting.insert(ticket);
            self.order.insert(entry.rank, owner);
        }
    }

    /// The sequence waits no more.
    pub(crate) fn remove(&mut self, owner: OwnerId, ticket: u64) {
        if let Some(entry) = self.owners.get_mut(&owner)
            && entry.waiting.remove(&ticket)
            && entry.waiting.is_empty()
        {
            self.order.remove(&entry.rank);
        }
    }

    /// The sequence whose turn it is.
    pub(crate) fn first(&self) -> Option<(Rank, u64)> {
        let (rank, owner) = self.order.first_key_value()?;
        Some((*rank, *self.owners.get(owner)?.waiting.first()?))
    }

    /// Where `owner` stands.
    pub(crate) fn rank(&self, owner: OwnerId) -> Option<Rank> {
        Some(self.owners.get(&owner)?.rank)
    }

    /// The sequence is queued.
    pub(crate) fn waits(&self, owner: OwnerId, ticket: u64) -> bool {
        self.owners.get(&owner).is_some_and(|entry| entry.waiting.contains(&ticket))
    }

    /// `tokens` are computed for `owner`.
    pub(crate) fn charge(&mut self, owner: OwnerId, tokens: usize) {
        let ticks = tokens as u64 * TICKS_PER_TOKEN;
        self.virtual_time += ticks / self.owners.len().max(1) as u64;
        let Some(entry) = self.owners.get_mut(&owner) else { return };
        let listed = self.order.remove(&entry.rank).is_some();
        entry.rank.charged += ticks;
        if listed {
            self.order.insert(entry.rank, owner);
        }
    }

    /// Of each owner the number of living and of waiting sequences, and whether its turn will come.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (usize, usize, bool)> {
        self.owners.iter().map(|(owner, entry)| {
            let listed = self.order.get(&entry.rank) == Some(owner);
            (entry.living, entry.waiting.len(), listed != entry.waiting.is_empty())
        })
    }
}
