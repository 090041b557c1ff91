//! Quotas: how much a key may do at once and per minute. What is used lives as long as the key, however often the
//! limits change.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::error::{ApiError, ApiResult};

/// Limits of a key; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct QuotaLimits {
    /// Requests in work at once.
    pub(crate) concurrency: Option<usize>,
    pub(crate) requests_per_minute: Option<u64>,
    /// Tokens of prompts and answers together. A request is let in while any are left, and pays when it is over.
    pub(crate) tokens_per_minute: Option<u64>,
}

/// What a key has used.
#[derive(Debug, Default)]
pub(crate) struct Used {
    running: AtomicUsize,
    requests: Mutex<Bucket>,
    tokens: Mutex<Bucket>,
}

/// An allowance that fills up at a steady rate, to at most a minute's worth.
#[derive(Debug, Default)]
struct Bucket {
    /// What is gone of the minute's worth; below zero never, above the limit where tokens were paid for afterwards.
    gone: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// Lets time pass.
    fn refill(&mut self, per_minute: u64, now: Instant) {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.gone = (self.gone - passed.as_secs_f64() * per_minute as f64 / 60.0).max(0.0);
        self.at = Some(now);
    }

    /// How long until `amount` is there; nothing if it is.
    fn wait(&self, amount: f64, per_minute: u64) -> Option<Duration> {
        let missing = self.gone + amount - per_minute as f64;
        (missing > 0.0).then(|| Duration::from_secs_f64(missing * 60.0 / per_minute.max(1) as f64))
    }
}

/// The right to work on one request. It ends when it is dropped, which is when the tokens are paid for.
#[derive(Debug)]
pub(crate) struct Permit {
    used: Arc<Used>,
    tokens_per_minute: Option<u64>,
    tokens: usize,
}

impl Permit {
    /// Tokens that the request has cost so far.
    pub(crate) fn set_tokens(&mut self, tokens: usize) {
        self.tokens = tokens;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.used.running.fetch_sub(1, Ordering::Relaxed);
        if let Some(per_minute) = self.tokens_per_minute {
            let mut bucket = lock(&self.used.tokens);
            bucket.refill(per_minute, Instant::now());
            bucket.gone += self.tokens as f64;
        }
    }
}

/// Lets a request in, or says which limit is used up and when it will not be.
pub(crate) fn admit(used: &Arc<Used>, limits: &QuotaLimits, now: Instant) -> ApiResult<Permit> {
    let over = |what, limit, retry_after| Err(ApiError::Quota { what, limit, retry_after });
    if let Some(limit) = limits.tokens_per_minute {
        let mut bucket = lock(&used.tokens);
        bucket.refill(limit, now);
        if let Some(wait) = bucket.wait(1.0, limit) {
            return over("tokens per minute", limit, wait);
        }
    }
    let limit = limits.concurrency.unwrap_or(usize::MAX);
    if used.running.fetch_add(1, Ordering::Relaxed) >= limit {
        used.running.fetch_sub(1, Ordering::Relaxed);
        return over("requests at once", limit as u64, Duration::from_secs(1));
    }
    // From here on a refusal gives the place back.
    let permit = Permit { used: Arc::clone(used), tokens_per_minute: limits.tokens_per_minute, tokens: 0 };
    if let Some(limit) = limits.requests_per_minute {
        let mut bucket = lock(&used.requests);
        bucket.refill(limit, now);
        if let Some(wait) = bucket.wait(1.0, limit) {
            return over("requests per minute", limit, wait);
        }
        bucket.gone += 1.0;
    }
    Ok(permit)
}

fn lock(bucket: &Mutex<Bucket>) -> std::sync::MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(error: ApiError) -> (&'static str, f64) {
        match error {
            ApiError::Quota { what, retry_after, .. } => (what, retry_after.as_secs_f64()),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn requests_come_back_at_a_steady_rate() {
        let (used, start) = (Arc::default(), Instant::now());
        let limits = QuotaLimits { requests_per_minute: Some(2), ..Default::default() };
        let at = |seconds| admit(&used, &limits, start + Duration::from_secs(seconds));
        at(0).unwrap();
        at(0).unwrap();
        assert_eq!(retry(at(0).unwrap_err()), ("requests per minute", 30.0));
        assert_eq!(retry(at(20).unwrap_err()), ("requests per minute", 10.0));
        at(30).unwrap();
        assert!(at(31).is_err());
        // An hour of rest is worth no more than a minute.
        at(3600).unwrap();
        at(3600).unwrap();
        assert!(at(3600).is_err());
    }

    #[test]
    fn a_place_is_given_back_and_a_refusal_takes_none() {
        let used = Arc::default();
        let limits = QuotaLimits { concurrency: Some(1), requests_per_minute: Some(2), ..Default::default() };
        let now = Instant::now();
        let first = admit(&used, &limits, now).unwrap();
        assert_eq!(retry(admit(&used, &limits, now).unwrap_err()).0, "requests at once");
        drop(first);
        drop(admit(&used, &limits, now).unwrap());
        assert_eq!(retry(admit(&used, &limits, now).unwrap_err()).0, "requests per minute");
        assert_eq!(used.running.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn tokens_are_paid_for_afterwards() {
        let used = Arc::default();
        let limits = QuotaLimits { tokens_per_minute: Some(60), ..Default::default() };
        let mut permit = admit(&used, &limits, Instant::now()).unwrap();
        permit.set_tokens(100);
        drop(permit);
        let (what, wait) = retry(admit(&used, &limits, Instant::now()).unwrap_err());
        assert_eq!(what, "tokens per minute");
        assert!((40.0..=41.0).contains(&wait), "{wait}");
        assert!(admit(&used, &limits, Instant::now() + Duration::from_secs(42)).is_ok());
    }
}
