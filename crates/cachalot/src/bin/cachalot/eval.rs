//! `cachalot eval`: exact match on held-out prompts, by skill.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use cachalot::LoadOptions;
use cachalot::eval::{Answer, Case, answer, embedded_cases, parse_cases};
use serde_json::json;

use crate::model_arg;
use crate::progress::ProgressDisplay;

/// Answer held-out prompts greedily and count exact matches per skill
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory, .gguf file or hub id; the demo model if left out
    model: Option<String>,
    /// Cases, one JSON object per line; the demo model's own if left out
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// Answer at most this many cases per skill and mode
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print this many wrong answers per skill and mode
    #[arg(long, value_name = "N", default_value_t = 0)]
    show: usize,
}

/// The answers to one skill, with or without reasoning.
type Groups<'a> = BTreeMap<(&'a str, bool), Vec<&'a Answer>>;

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let cases = limited(read(args)?, args.limit);
    let options = LoadOptions { max_sequences: 1, state_slots: 1, ..LoadOptions::default() };
    let model = model_arg::load(model_arg::source(args.model.as_deref())?, options)?;
    let mut display = ProgressDisplay::new();
    let started = Instant::now();
    let mut answers = Vec::with_capacity(cases.len());
    for (done, case) in cases.iter().enumerate() {
        display.count("answering", done as u64, cases.len() as u64);
        answers.push(answer(&model, case).with_context(|| format!("case {} ({})", done + 1, case.skill))?);
    }
    display.clear();
    let seconds = started.elapsed().as_secs_f64();
    let mut groups = Groups::new();
    for answer in &answers {
        groups.entry((&answer.skill, answer.thinking)).or_default().push(answer);
    }
    if args.json {
        print_json(model.name(), &groups, seconds)?;
    } else {
        print_table(&groups, args.show, seconds)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(args: &Args) -> anyhow::Result<Vec<Case>> {
    let Some(path) = &args.file else {
        return Ok(embedded_cases()?);
    };
    let lines = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(parse_cases(&lines, path)?)
}

fn limited(cases: Vec<Case>, limit: Option<usize>) -> Vec<Case> {
    let mut counts = BTreeMap::new();
    let within = |case: &Case| {
        let count = counts.entry((case.skill.clone(), case.thinking)).or_insert(0);
        *count += 1;
        limit.is_none_or(|limit| *count <= limit)
    };
    let mut within = within;
    cases.into_iter().filter(|case| within(case)).collect()
}

fn exact(answers: &[&Answer]) -> usize {
    answers.iter().filter(|answer| answer.exact).count()
}

fn totals(groups: &Groups<'_>) -> (usize, usize) {
    groups.values().fold((0, 0), |(right, all), answers| (right + exact(answers), all + answers.len()))
}

fn print_table(groups: &Groups<'_>, show: usize, seconds: f64) -> io::Result<()> {
    let mut out = io::stdout();
    let percent = |right: usize, all: usize| 100.0 * right as f64 / all as f64;
    for ((skill, thinking), answers) in groups {
        let mode = if *thinking { "thinking" } else { "direct" };
        let (right, all) = (exact(answers), answers.len());
        writeln!(out, "{skill:24} {mode:8} {right:4} of {all:4}  {:5.1}%", percent(right, all))?;
        for wrong in answers.iter().filter(|answer| !answer.exact).take(show) {
            writeln!(out, "    {:?} -> {:?}", wrong.prompt, wrong.generated)?;
        }
    }
    let (right, all) = totals(groups);
    writeln!(out, "{:24} {:8} {right:4} of {all:4}  {:5.1}%", "all", "", percent(right, all))?;
    writeln!(io::stderr(), "{all} answers in {seconds:.1} s")
}

fn print_json(model: &str, groups: &Groups<'_>, seconds: f64) -> io::Result<()> {
    let skills: Vec<_> = groups
        .iter()
        .map(|((skill, thinking), answers)| {
            json!({"skill": skill, "thinking": thinking, "exact": exact(answers), "total": answers.len()})
        })
        .collect();
    let (right, all) = totals(groups);
    let report = json!({"model": model, "exact": right, "total": all, "seconds": seconds, "skills": skills});
    writeln!(io::stdout(), "{report:#}")
}
