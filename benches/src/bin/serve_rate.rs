//! What HTTP costs: tokens per second of many streams through the server, beside the same streams asked of the engine
//! directly, in turns within one process; and what a shared prefix saves before the first token.

#![allow(clippy::print_stdout, reason = "the figures are what this binary is for")]

use std::io::BufRead;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use benches::http;
use benches::served::{Served, median};
use cachalot::serve::ServiceOptions;
use cachalot::{GenerateOptions, LoadOptions};
use clap::Parser;
use engine::{Job, Request, SamplingParams, TokenEvent};
use serde_json::{Value, json};

/// Tokens per second through HTTP beside those of the engine, and the time to a first token with and without a cached
/// prefix.
#[derive(Debug, Parser)]
struct Args {
    /// A checkpoint's directory; without one the demo model.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Streams at once.
    #[arg(long, default_value_t = 8)]
    streams: usize,
    /// Tokens of each stream.
    #[arg(long, default_value_t = 256)]
    tokens: usize,
    /// Pairs of runs, and of first tokens.
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Tokens of the shared prefix.
    #[arg(long, default_value_t = 2000)]
    prefix: usize,
    /// Threads of the engine's kernels; the default is all cores.
    #[arg(long)]
    threads: Option<usize>,
}

const PROMPT: &str = "Tell me a long story about a fox.";

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let load = LoadOptions { max_sequences: args.streams.max(8), ..LoadOptions::default() };
    let served = Served::start(args.model.clone(), load, &ServiceOptions::default())?;
    rates(&args, &served)?;
    first_tokens(&args, &served)
}

fn rates(args: &Args, served: &Served) -> Result<()> {
    let (mut engine, mut http, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // The first pair warms up; which of the two goes first changes from pair to pair.
    for pair in 0..=args.pairs {
        let direct_first = pair % 2 == 0;
        let early = if direct_first { in_process(args, served)? } else { over_http(args, served)? };
        let late = if direct_first { over_http(args, served)? } else { in_process(args, served)? };
        let (direct, through) = if direct_first { (early, late) } else { (late, early) };
        if pair > 0 {
            println!(
                "pair {pair}: engine {direct:.0} tokens/s, HTTP {through:.0}, ratio {:.3}",
                through / direct
            );
            engine.push(direct);
            http.push(through);
            ratios.push(through / direct);
        }
    }
    let Args { streams, tokens, .. } = args;
    println!("{streams} streams of {tokens} tokens, medians of {} pairs:", args.pairs);
    println!(
        "  engine {:.0} tokens/s, HTTP {:.0} tokens/s, ratio {:.3}",
        median(engine),
        median(http),
        median(ratios)
    );
    Ok(())
}

/// Tokens per second of all streams together; `stream` is given its number and returns its tokens.
fn rate(streams: usize, stream: impl Fn(usize) -> Result<usize> + Sync) -> Result<f64> {
    let started = Instant::now();
    let tokens = thread::scope(|scope| {
        let stream = &stream;
        let clients: Vec<_> = (0..streams).map(|i| scope.spawn(move || stream(i))).collect();
        let joined =
            clients.into_iter().map(|client| client.join().map_err(|_| anyhow!("a client panicked"))?);
        joined.sum::<Result<usize>>()
    })?;
    Ok(tokens as f64 / started.elapsed().as_secs_f64())
}

fn in_process(args: &Args, served: &Served) -> Result<f64> {
    let prompt = served.model.encode(PROMPT, &GenerateOptions::default())?;
    rate(args.streams, |_| {
        let sampling = SamplingParams::greedy();
        let request = Request { sampling, max_tokens: Some(args.tokens), ..Request::new(prompt.clone()) };
        let mut events = served.service.submit(Job::new(request))?;
        let mut tokens = 0;
        while let Some(event) = events.blocking_recv() {
            tokens += usize::from(matches!(event, TokenEvent::Token { .. }));
        }
        ensure!(tokens == args.tokens, "{tokens} tokens of {}", args.tokens);
        Ok(tokens)
    })
}

fn over_http(args: &Args, served: &Served) -> Result<f64> {
    let body = with_message(PROMPT, args.tokens);
    rate(args.streams, |_| {
        let reply = http::read(http::post(&served.addr, "/v1/chat/completions", &body)?)?;
        let mut chunks = reply.body.lines().filter_map(|line| line.strip_prefix("data: {"));
        let last = chunks.next_back().with_context(|| format!("no events: {}", reply.body))?;
        let last: Value = serde_json::from_str(&format!("{{{last}"))?;
        let tokens = last["usage"]["completion_tokens"].as_u64().context("no usage")? as usize;
        ensure!(tokens == args.tokens, "{tokens} tokens of {}", args.tokens);
        Ok(tokens)
    })
}

fn with_message(content: &str, max_tokens: usize) -> Value {
    let messages = json!([{"role": "user", "content": content}]);
    json!({
        "model": "bench", "messages": messages, "temperature": 0, "max_tokens": max_tokens, "ignore_eos": true,
        "stream": true, "stream_options": {"include_usage": true},
    })
}

/// First token of two questions about the same document.
fn first_tokens(args: &Args, served: &Served) -> Result<()> {
    let (mut cold, mut warm, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut cached = 0;
    for pair in 0..args.pairs {
        let document = document(args.prefix, pair, served)?;
        let (first, hit) = first_token(&format!("{document} Who met?"), served)?;
        ensure!(hit < args.prefix / 10, "a new document has {hit} cached tokens");
        let (second, hit) = first_token(&format!("{document} Where was it?"), served)?;
        cached = hit;
        cold.push(first * 1e3);
        warm.push(second * 1e3);
        ratios.push(second / first);
    }
    println!(
        "a shared prefix of {} tokens, {cached} of them from the cache, medians of {}:",
        args.prefix, args.pairs
    );
    println!(
        "  first token after {:.1} ms, then {:.1} ms, ratio {:.3}",
        median(cold),
        median(warm),
        median(ratios)
    );
    Ok(())
}

/// A text of about `tokens` tokens that begins like no other number's.
fn document(tokens: usize, number: usize, served: &Served) -> Result<String> {
    let mut text = format!("{} is the number of this story.", number * 7919 + std::process::id() as usize);
    loop {
        let length = served.model.encode(text.as_str(), &GenerateOptions::default())?.len();
        match length {
            length if length >= tokens => return Ok(text),
            length if length + 50 >= tokens => text += " fox",
            _ => text += " The fox and the raven met at the river.",
        }
    }
}

/// Seconds until the first piece of text, and the prompt tokens that the cache had.
fn first_token(content: &str, served: &Served) -> Result<(f64, usize)> {
    let body = with_message(content, 4);
    let started = Instant::now();
    let reply = http::post(&served.addr, "/v1/chat/completions", &body)?;
    let (mut first, mut cached, mut said) = (None, None, String::new());
    for line in reply.lines() {
        let line = line?;
        said += &line;
        let Some(chunk) = line.strip_prefix("data: {") else { continue };
        let chunk: Value = serde_json::from_str(&format!("{{{chunk}"))?;
        let delta = &chunk["choices"][0]["delta"];
        let is_text = ["content", "reasoning_content"]
            .iter()
            .any(|field| delta[field].as_str().is_some_and(|text| !text.is_empty()));
        if is_text {
            first.get_or_insert_with(|| started.elapsed());
        }
        cached = chunk["usage"]["prompt_cache_hit_tokens"].as_u64().or(cached);
    }
    let first = first.with_context(|| format!("no text: {said}"))?;
    Ok((first.as_secs_f64(), cached.context("no usage")? as usize))
}
