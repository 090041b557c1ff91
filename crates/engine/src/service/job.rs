//! [`Job`]: what a caller asks of a service, and the grammar that may hold it to a form.

use std::fmt;
use std::time::Instant;

use super::events::EventSender;
use crate::Request;

/// Which tokens may come next, step by step. It lives on the engine thread; whatever fails in it fails its own job.
pub trait Constraint: Send {
    /// The tokens that may come next: bit `t % 32` of word `t / 32` stands for token `t`, and what is beyond the words
    /// may not come. `None` allows all. Tokens that end the generation must be allowed like any other.
    fn allowed(&mut self) -> Option<&[u32]>;

    /// Takes note of the token that was chosen.
    ///
    /// # Errors
    /// In words, why it cannot be; the job fails.
    fn accept(&mut self, token: u32) -> Result<(), String>;

    /// The same state once more, for a sibling.
    fn fork(&self) -> Box<dyn Constraint>;
}

/// One or several continuations of a prompt.
pub struct Job {
    /// The prompt and how to continue it.
    pub request: Request,
    /// Continuations, at least 1 and at most [`super::ServiceOptions::max_num_seqs`]. They share the prompt's blocks.
    /// Continuation `i` has the seed of the request plus `i` (wrapping), or a fresh one if there is none.
    pub n: usize,
    /// Whom its time is charged to: owners get equal shares.
    pub owner: u64,
    /// Only jobs of equal salt find each other's prefixes in the cache.
    pub salt: u64,
    /// The form that every continuation is held to.
    pub constraint: Option<Box<dyn Constraint>>,
}

impl Job {
    /// One continuation, without owner, salt and constraint.
    pub fn new(request: Request) -> Self {
        Self { request, n: 1, owner: 0, salt: 0, constraint: None }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("prompt_tokens", &self.request.prompt.len())
            .field("n", &self.n)
            .field("is_constrained", &self.constraint.is_some())
            .finish_non_exhaustive()
    }
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    Generate(Box<Job>),
    Embed { prompt: Vec<u32>, owner: u64, salt: u64 },
}

/// A job that was taken.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) number: u64,
    pub(crate) task: Task,
    pub(crate) events: EventSender,
    pub(crate) accepted: Instant,
}

impl Admitted {
    pub(crate) fn new(number: u64, task: Task, events: EventSender) -> Self {
        Self { number, task, events, accepted: Instant::now() }
    }
}
