//! What guessing saves: tokens per second with and without it, in turns within one process, on the same prompts with the
//! same answers; and how many guesses were right.

#![allow(clippy::print_stdout, reason = "the figures are what this binary is for")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use benches::served::median;
use cachalot::{Drafter, GenerateOptions, LanguageModel, LoadOptions, ModelSource, Speculation};
use clap::Parser;
use engine::{Job, Request, SamplingParams, Service, ServiceOptions, TokenEvent};

/// Tokens per second with and without guesses.
#[derive(Debug, Parser)]
struct Args {
    /// A checkpoint's directory; without one the demo model.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Streams at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    streams: Vec<usize>,
    /// Tokens of each stream.
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    /// Rounds, in each of which everyone has a turn.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
}

const PROMPTS: [&str; 4] = [
    "Tell me a long story about a fox.",
    "What is 128 + 256?",
    "Write a list of animals.",
    "Repeat after me: the sea is deep, the sea is salt.",
];

/// One way to generate.
struct Way {
    name: String,
    service: Service,
    rates: Vec<f64>,
}

impl Way {
    fn new(args: &Args, speculation: Option<Speculation>) -> Result<(Self, LanguageModel)> {
        let source = args.model.clone().map_or(ModelSource::Embedded, ModelSource::Path);
        let most = args.streams.iter().copied().max().context("no streams")?;
        let options = LoadOptions { max_sequences: most, speculation, ..LoadOptions::default() };
        let model = LanguageModel::load(source, options)?;
        let name = speculation.map_or("one by one".into(), |s| format!("{:?} {}", s.drafter, s.num_tokens));
        let service = Service::start(Arc::clone(model.engine()), &ServiceOptions::default())?;
        Ok((Self { name, service, rates: Vec::new() }, model))
    }

    /// Runs `requests` at once; the tokens of each, and tokens per second.
    fn run(&self, requests: &[Request]) -> Result<(Vec<Vec<u32>>, f64)> {
        let started = Instant::now();
        let events = requests.iter().map(|request| self.service.submit(Job::new(request.clone())));
        let events = events.collect::<Result<Vec<_>, _>>()?;
        let answers: Vec<Vec<u32>> = events
            .into_iter()
            .map(|mut events| {
                let mut tokens = Vec::new();
                while let Some(event) = events.blocking_recv() {
                    if let TokenEvent::Token { sampled, .. } = event {
                        tokens.push(sampled.token);
                    }
                }
                tokens
            })
            .collect();
        let count: usize = answers.iter().map(Vec::len).sum();
        Ok((answers, count as f64 / started.elapsed().as_secs_f64()))
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (plain, model) = Way::new(&args, None)?;
    let mut ways = vec![plain];
    let guess = |drafter, num_tokens| Some(Speculation { drafter, num_tokens });
    if model.engine().model().summary().mtp_parameters > 0 {
        for num_tokens in [1, 2, 3] {
            ways.push(Way::new(&args, guess(Drafter::Mtp, num_tokens))?.0);
        }
    }
    for num_tokens in [2, 4] {
        ways.push(Way::new(&args, guess(Drafter::Ngram, num_tokens))?.0);
    }
    for &streams in &args.streams {
        compare(&args, streams, &model, &mut ways)?;
    }
    Ok(())
}

fn compare(args: &Args, streams: usize, model: &LanguageModel, ways: &mut [Way]) -> Result<()> {
    let sampling = SamplingParams { temperature: args.temperature, ..SamplingParams::default() };
    let requests = (0..streams.max(PROMPTS.len())).map(|i| {
        let prompt = model.encode(PROMPTS[i % PROMPTS.len()], &GenerateOptions::default())?;
        let sampling = SamplingParams { seed: Some(i as u64), ..sampling.clone() };
        Ok(Request { sampling, max_tokens: Some(args.tokens), ..Request::new(prompt) })
    });
    let requests = requests.collect::<Result<Vec<_>>>()?;
    ways.iter_mut().for_each(|way| way.rates.clear());
    let before: Vec<_> = ways.iter().map(|way| way.service.metrics()).collect();
    // The first round warms up; who begins changes from round to round.
    for round in 0..=args.rounds {
        let mut expected = None;
        for i in 0..ways.len() {
            let way = &mut ways[(i + round) % ways.len()];
            let mut rates = Vec::new();
            let mut answers = Vec::new();
            for batch in requests.chunks(streams) {
                let (tokens, rate) = way.run(batch)?;
                answers.extend(tokens);
                rates.push(rate);
            }
            ensure!(
                *expected.get_or_insert_with(|| answers.clone()) == answers,
                "{}: another answer",
                way.name
            );
            if round > 0 {
                way.rates.push(rates.iter().sum::<f64>() / rates.len() as f64);
            }
        }
    }
    println!("{streams} at once, {} tokens each, medians of {} rounds:", args.tokens, args.rounds);
    let plain = ways[0].rates.clone();
    for (way, before) in ways.iter().zip(before) {
        let now = way.service.metrics();
        let guessed = now.spec_decode_num_draft_tokens - before.spec_decode_num_draft_tokens;
        let accepted = now.spec_decode_num_accepted_tokens - before.spec_decode_num_accepted_tokens;
        let ratios = way.rates.iter().zip(&plain).map(|(rate, plain)| rate / plain).collect();
        let right = if guessed == 0 { 0.0 } else { 100.0 * accepted as f64 / guessed as f64 };
        println!(
            "  {:<11} {:>7.0} tokens/s, {:.2} of one by one, {right:.0} % of {guessed} guesses right",
            way.name,
            median(way.rates.clone()),
            median(ratios),
        );
    }
    Ok(())
}
