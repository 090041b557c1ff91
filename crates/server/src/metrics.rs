//! [`Metrics`]: what Prometheus reads. Figures with vLLM's meaning have vLLM's names, so that its dashboards fit.

use std::fmt;

use axum::http::StatusCode;
use engine::{Histogram, Service, ServiceMetrics};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::options::ServedModel;

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    /// The pattern, not the path: clients cannot make up new ones.
    route: String,
    status: u16,
}

impl Metrics {
    pub(crate) fn new(model: &ServedModel) -> Self {
        let labels = [("model_name".into(), model.name.clone().into())];
        let mut registry = Registry::with_labels(labels.into_iter());
        let requests = Family::<RequestLabels, Counter>::default();
        let help = "HTTP requests by route and status";
        registry.register("cachalot:http_requests", help, requests.clone());
        registry.register_collector(Box::new(ServiceCollector { service: model.service.clone() }));
        Self { registry, requests }
    }

    pub(crate) fn count_request(&self, method: &str, route: &str, status: StatusCode) {
        let labels =
            RequestLabels { method: method.to_owned(), route: route.to_owned(), status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
    }

    /// All figures as of now.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Asks the engine when it is asked.
#[derive(Debug)]
struct ServiceCollector {
    service: Service,
}

impl Collector for ServiceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let metrics = self.service.metrics();
        gauges(&metrics, &mut encoder)?;
        counters(&metrics, &mut encoder)?;
        histograms(&metrics, &mut encoder)
    }
}

fn gauges(m: &ServiceMetrics, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let gauges = [
        ("vllm:num_requests_running", "Sequences that take part in steps", m.num_requests_running as f64),
        ("vllm:num_requests_waiting", "Sequences that wait", m.num_requests_waiting as f64),
        ("vllm:kv_cache_usage_perc", "Part of the KV blocks in use, 0 to 1", m.kv_cache_usage_perc),
    ];
    for (name, help, value) in gauges {
        let gauge = ConstGauge::new(value);
        gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    Ok(())
}

fn counters(m: &ServiceMetrics, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let counters = [
        ("vllm:prompt_tokens", "Prompt tokens, found in the cache or computed", m.prompt_tokens),
        ("vllm:generation_tokens", "Tokens that were sampled", m.generation_tokens),
        ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache", m.prefix_cache_queries),
        ("vllm:prefix_cache_hits", "Prompt tokens that the prefix cache had", m.prefix_cache_hits),
        (
            "vllm:spec_decode_num_drafts",
            "Steps of a sequence that computed guesses",
            m.spec_decode_num_drafts,
        ),
        (
            "vllm:spec_decode_num_draft_tokens",
            "Tokens that were guessed and computed",
            m.spec_decode_num_draft_tokens,
        ),
        (
            "vllm:spec_decode_num_accepted_tokens",
            "Guesses that were right",
            m.spec_decode_num_accepted_tokens,
        ),
        ("vllm:num_preemptions", "Times that a sequence was put back and computed again", m.num_preemptions),
    ];
    for (name, help, value) in counters {
        let counter = ConstCounter::new(value);
        counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    let finishes = &m.request_success;
    let reasons = [
        ("stop", finishes.stop),
        ("length", finishes.length),
        ("abort", finishes.abort),
        ("error", finishes.error),
    ];
    labelled("vllm:request_success", "Requests that are over", "finished_reason", &reasons, encoder)?;
    let misses = &m.prefix_misses;
    let reasons = [
        ("cold", misses.cold),
        ("evicted", misses.evicted),
        ("salt", misses.salt),
        ("below_block", misses.below_block),
    ];
    let help = "Prompts that the prefix cache did not have to the last whole block, by the reason";
    labelled("cachalot:prefix_cache_misses", help, "reason", &reasons, encoder)
}

/// A counter with one label.
fn labelled(
    name: &str,
    help: &str,
    label: &'static str,
    values: &[(&'static str, u64)],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        let labels = [(label, *value)];
        ConstCounter::new(*count).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn histograms(m: &ServiceMetrics, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let histograms = [
        ("vllm:time_to_first_token_seconds", "From acceptance to the first token", &m.time_to_first_token),
        ("vllm:inter_token_latency_seconds", "Between two tokens of an answer", &m.inter_token_latency),
        ("vllm:e2e_request_latency_seconds", "From acceptance to the end", &m.e2e_request_latency),
        ("vllm:request_queue_time_seconds", "From acceptance to the first step", &m.request_queue_time),
    ];
    for (name, help, histogram) in histograms {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let buckets = ranges(histogram);
        metric.encode_histogram::<NoLabelSet>(histogram.sum(), histogram.count(), &buckets, None)?;
    }
    Ok(())
}

/// The number in each range: the encoder adds them up itself.
fn ranges(histogram: &Histogram) -> Vec<(f64, u64)> {
    let mut before = 0;
    let own = |(bound, up_to): (f64, u64)| {
        let count = up_to - before;
        before = up_to;
        (bound, count)
    };
    histogram.cumulative().map(own).collect()
}
