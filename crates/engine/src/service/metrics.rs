//! [`ServiceMetrics`]: counters, sums and histograms under vLLM's names, for whoever exports them.

use scheduler::{PrefixMisses, SchedulerStats};

use crate::FinishReason;

/// A snapshot; counters count from the start of the service, and times are in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceMetrics {
    /// Sequences that take part in steps now.
    pub num_requests_running: usize,
    /// Sequences that wait, preempted ones included.
    pub num_requests_waiting: usize,
    /// Part of the KV blocks that sequences hold, 0 to 1. Blocks that only the prefix cache keeps can be had at once
    /// and do not count.
    pub kv_cache_usage_perc: f64,
    /// Prompt tokens that were looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Of those, how many were there.
    pub prefix_cache_hits: u64,
    /// Prompts that the cache did not have to the last whole block, by the reason why not.
    pub prefix_misses: PrefixMisses,
    /// Times that a sequence lost its blocks to others and was computed again.
    pub num_preemptions: u64,
    /// Prompt tokens of jobs that began, found in the cache or computed.
    pub prompt_tokens: u64,
    /// Tokens that were sampled.
    pub generation_tokens: u64,
    /// Steps of a sequence that computed guesses.
    pub spec_decode_num_drafts: u64,
    /// Tokens that were guessed and computed.
    pub spec_decode_num_draft_tokens: u64,
    /// Of those, how many were right.
    pub spec_decode_num_accepted_tokens: u64,
    /// Continuations and embeddings that are over.
    pub request_success: FinishCounts,
    /// From acceptance to the first token.
    pub time_to_first_token: Histogram,
    /// Between two tokens of a continuation.
    pub inter_token_latency: Histogram,
    /// From acceptance to the end.
    pub e2e_request_latency: Histogram,
    /// From acceptance to the first step.
    pub request_queue_time: Histogram,
}

impl Default for ServiceMetrics {
    fn default() -> Self {
        Self {
            num_requests_running: 0,
            num_requests_waiting: 0,
            kv_cache_usage_perc: 0.0,
            prefix_cache_queries: 0,
            prefix_cache_hits: 0,
            prefix_misses: PrefixMisses::default(),
            num_preemptions: 0,
            prompt_tokens: 0,
            generation_tokens: 0,
            spec_decode_num_drafts: 0,
            spec_decode_num_draft_tokens: 0,
            spec_decode_num_accepted_tokens: 0,
            request_success: FinishCounts::default(),
            time_to_first_token: Histogram::new(&FIRST_TOKEN_BOUNDS),
            inter_token_latency: Histogram::new(&INTER_TOKEN_BOUNDS),
            e2e_request_latency: Histogram::new(&REQUEST_BOUNDS),
            request_queue_time: Histogram::new(&REQUEST_BOUNDS),
        }
    }
}

impl ServiceMetrics {
    /// Takes over what the scheduler counts.
    pub(crate) fn take(&mut self, stats: &SchedulerStats) {
        self.num_requests_running = stats.running;
        self.num_requests_waiting = stats.waiting;
        self.kv_cache_usage_perc = stats.num_used_blocks as f64 / stats.num_blocks.max(1) as f64;
        self.prefix_cache_queries = stats.prefix_cache_queries;
        self.prefix_cache_hits = stats.prefix_cache_hits;
        self.prefix_misses = stats.prefix_misses;
        self.num_preemptions = stats.preemptions;
    }
}

/// How often something ended in each way; the names are vLLM's labels of `finished_reason`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FinishCounts {
    /// A stop token, or an embedding that is done.
    pub stop: u64,
    /// The length that was asked for, or the end of the context.
    pub length: u64,
    /// Cancelled, or its reader went away.
    pub abort: u64,
    /// It failed.
    pub error: u64,
}

impl FinishCounts {
    pub(crate) fn count(&mut self, reason: FinishReason) {
        match reason {
            FinishReason::Stop(_) => self.stop += 1,
            FinishReason::Length => self.length += 1,
            FinishReason::Cancelled => self.abort += 1,
        }
    }
}

/// Observations sorted into fixed ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last is for what exceeds them all.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    pub(crate) fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// Upper bound of each range, included in it, with the number of observations up to it; the last bound is
    /// infinite.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        }))
    }

    /// The sum of all observations.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Bounds of vLLM's `time_to_first_token_seconds`.
const FIRST_TOKEN_BOUNDS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];

/// Bounds of vLLM's `inter_token_latency_seconds`.
const INTER_TOKEN_BOUNDS: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];

/// Bounds of vLLM's `e2e_request_latency_seconds` and `request_queue_time_seconds`.
const REQUEST_BOUNDS: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_range() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        [0.5, 1.0, 1.5, 2.0, 9.0].into_iter().for_each(|value| histogram.observe(value));
        let cumulative: Vec<_> = histogram.cumulative().collect();
        assert_eq!(cumulative, [(1.0, 2), (2.0, 4), (f64::INFINITY, 5)]);
        assert_eq!((histogram.sum(), histogram.count()), (14.0, 5));
    }
}
