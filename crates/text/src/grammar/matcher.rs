//! `Matcher`: which tokens may come next in one answer.

use std::fmt;

use llguidance::toktrie::SimpleVob;

/// Follows one answer through a grammar.
pub struct Matcher {
    inner: llguidance::Matcher,
    /// The token after which the grammar begins; `None` once it has.
    begins_after: Option<u32>,
    mask: SimpleVob,
    eos: SimpleVob,
    /// Why the grammar gave up; only an end of the answer is allowed then, and accepting it fails.
    failed: Option<String>,
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher")
            .field("begins_after", &self.begins_after)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Matcher {
    pub(super) fn new(inner: llguidance::Matcher, eos: SimpleVob, begins_after: Option<u32>) -> Self {
        Self { inner, begins_after, mask: SimpleVob::new(), eos, failed: None }
    }

    /// The tokens that may come next, one bit per id, 32 to a word, the lowest first; ids beyond the last word may not. `None`: all may.
    ///
    /// A grammar that runs into its limits allows nothing but the end, and says why when that is accepted.
    pub fn allowed(&mut self) -> Option<&[u32]> {
        if self.begins_after.is_some() {
            return None;
        }
        match self.inner.compute_mask_or_eos() {
            Ok(mask) => self.mask = mask,
            Err(error) => {
                self.failed.get_or_insert_with(|| first_line(&error.to_string()));
                self.mask = self.eos.clone();
            }
        }
        Some(self.mask.as_slice())
    }

    /// Goes on by one token.
    ///
    /// # Errors
    /// In words, when the token is not allowed or the grammar ran into its limits.
    pub fn accept(&mut self, token: u32) -> Result<(), String> {
        if let Some(begin) = self.begins_after {
            if token == begin {
                self.begins_after = None;
            }
            return Ok(());
        }
        if let Some(reason) = &self.failed {
            return Err(reason.clone());
        }
        // A grammar that has come to its end stays there.
        if self.inner.is_stopped() && self.eos.is_allowed(token) && !self.inner.is_error() {
            return Ok(());
        }
        self.inner.consume_token(token).map_err(|error| {
            let reason = first_line(&error.to_string());
            self.failed = Some(reason.clone());
            reason
        })
    }

    /// Whether the answer may end here.
    pub fn is_accepting(&mut self) -> bool {
        self.begins_after.is_none() && self.failed.is_none() && self.inner.is_accepting().unwrap_or(false)
    }

    /// A matcher that goes on from here on its own.
    pub fn fork(&self) -> Self {
        Self {
            inner: self.inner.deep_clone(),
            begins_after: self.begins_after,
            mask: self.mask.clone(),
            eos: self.eos.clone(),
            failed: self.failed.clone(),
        }
    }
}

/// llguidance appends its state and backtraces to messages.
pub(super) fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim().to_owned()
}
