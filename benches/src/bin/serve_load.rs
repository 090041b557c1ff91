//! The server under a crowd: so many connections at once, so many requests, many of whom leave early. Prints what became
//! of them, what memory did, and whether anything was left behind; fails if the server did.

#![allow(clippy::print_stdout, reason = "the figures are what this binary is for")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use benches::http;
use clap::Parser;
use serde_json::{Value, json};

/// Floods `cachalot serve` with clients that come and go, then stops it under load.
#[derive(Debug, Parser)]
struct Args {
    /// The program to serve with.
    #[arg(long, default_value = "target/release/cachalot")]
    binary: PathBuf,
    /// A checkpoint's directory; without one the demo model.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Connections at once.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Rounds, after each of which the server rests. The first two warm it up.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(3..))]
    rounds: u64,
    /// Requests of a round.
    #[arg(long, default_value_t = 2500)]
    requests: usize,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Jobs that may wait in the server.
    #[arg(long, default_value_t = 768)]
    max_waiting: usize,
}

/// What memory may grow by after the warm-up: allocators do not give every page back.
const MAX_GROWTH_PERCENT: f64 = 5.0;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Answered,
    /// 429 or 503, with a body that says why.
    Refused,
    /// The client went before the end, as it meant to.
    Left,
    /// Neither an answer nor a refusal.
    Broken,
}

/// The server's process. Dropping it kills it.
struct Process {
    child: Child,
    addr: String,
}

impl Process {
    fn start(args: &Args) -> Result<Self> {
        let mut command = Command::new(&args.binary);
        command.args([
            "serve",
            "--port",
            "0",
            "--device",
            "cpu",
            "--log",
            "error",
            "--served-model-name",
            "bench",
        ]);
        command.args(["--max-waiting", &args.max_waiting.to_string(), "--drain-timeout", "300"]);
        command.args(&args.model);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start --binary")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut line)?;
        let addr =
            line.trim().rsplit_once("http://").with_context(|| format!("no address: {line:?}"))?.1.to_owned();
        Ok(Self { child, addr })
    }

    /// Resident memory in KiB.
    fn resident_kib(&self) -> Result<f64> {
        let path = Path::new("/proc").join(self.child.id().to_string()).join("status");
        let status = std::fs::read_to_string(path)?;
        let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
        Ok(value.context("no VmRSS")?.trim().parse()?)
    }

    /// Waits until nothing runs, waits or holds blocks.
    fn becomes_idle(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let health = http::get(&self.addr, "/health")?.json()?;
            let kv = http::metric(&self.addr, "vllm:kv_cache_usage_perc")?;
            if health["running"] == 0 && health["waiting"] == 0 && kv == 0.0 {
                return Ok(());
            }
            let late = Instant::now() > deadline;
            ensure!(!late, "a minute after the last request {kv} of the KV blocks are held: {health}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that ended by itself is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut server = Process::start(&args)?;
    println!(
        "{} connections, {} x {} requests, answers of up to {} tokens",
        args.connections, args.rounds, args.requests, args.tokens
    );
    println!(
        "| after | answered | refused | left | broken | seconds | slowest /health ms | VmRSS MiB | KV in use |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut resident = Vec::new();
    for round in 0..args.rounds as usize {
        let started = Instant::now();
        let (outcomes, slowest) = flood(&args, &server.addr, round)?;
        let seconds = started.elapsed().as_secs_f64();
        server.becomes_idle()?;
        let kv = http::metric(&server.addr, "vllm:kv_cache_usage_perc")?;
        let mib = server.resident_kib()? / 1024.0;
        resident.push(mib);
        let count = |outcome| outcomes.get(&outcome).copied().unwrap_or(0);
        let [answered, refused, left, broken] =
            [Outcome::Answered, Outcome::Refused, Outcome::Left, Outcome::Broken].map(count);
        let requests = (round + 1) * args.requests;
        let slowest = slowest.as_millis();
        println!(
            "| {requests} | {answered} | {refused} | {left} | {broken} | {seconds:.0} | {slowest} | {mib:.1} | {kv} |"
        );
        ensure!(broken == 0 && kv == 0.0, "{broken} requests broken, {kv} of the KV blocks in use at rest");
    }
    let most = resident[2..].iter().fold(0.0, |most: f64, mib| most.max(*mib));
    let growth = (most / resident[1] - 1.0) * 100.0;
    println!("resident memory after the warm-up: {growth:+.1} % at most");
    ensure!(growth <= MAX_GROWTH_PERCENT, "memory that grows by {growth:.1} % is not flat");
    terminate(&args, &mut server)
}

/// Sends the requests of one round. How many had which outcome, and the longest that `/health` took.
fn flood(args: &Args, addr: &str, round: usize) -> Result<(BTreeMap<Outcome, usize>, Duration)> {
    let next = AtomicUsize::new(round * args.requests);
    let end = (round + 1) * args.requests;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| watch_health(addr, &is_over));
        let client = || {
            let mut outcomes = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return outcomes;
                }
                outcomes.push(request(args, addr, number).unwrap_or_else(|error| {
                    println!("request {number}: {error:#}");
                    Outcome::Broken
                }));
            }
        };
        let spawn = |_| Builder::new().stack_size(256 << 10).spawn_scoped(scope, client);
        let clients = (0..args.connections).map(spawn).collect::<Result<Vec<_>, _>>()?;
        let mut counts = BTreeMap::new();
        for client in clients {
            for outcome in client.join().map_err(|_| anyhow!("a client panicked"))? {
                *counts.entry(outcome).or_default() += 1;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        Ok((counts, watch.join().map_err(|_| anyhow!("the watch panicked"))??))
    })
}

fn watch_health(addr: &str, is_over: &AtomicBool) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    while !is_over.load(Ordering::Relaxed) {
        let started = Instant::now();
        let reply = http::get(addr, "/health")?;
        ensure!(reply.status == 200, "/health says {}: {}", reply.status, reply.body);
        slowest = slowest.max(started.elapsed());
        thread::sleep(Duration::from_millis(200));
    }
    Ok(slowest)
}

/// Request `number` of the mix: an eighth goes at once, a quarter in the middle of its stream, the rest stay.
fn request(args: &Args, addr: &str, number: usize) -> Result<Outcome> {
    let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let is_stream = random & 1 == 0;
    let mut body = question(random, 1 + random % args.tokens);
    body["stream"] = is_stream.into();
    let path = "/v1/chat/completions";
    match random >> 1 & 7 {
        0 => drop(http::post(addr, path, &body)?),
        1 | 2 => http::post(addr, path, &body)?.lines().take(random >> 4 & 31).for_each(drop),
        _ => return judge(&http::read(http::post(addr, path, &body)?)?, is_stream),
    }
    Ok(Outcome::Left)
}

fn question(random: usize, max_tokens: usize) -> Value {
    let story = "The fox and the raven met at the river. ".repeat(random % 8);
    let messages = json!([{"role": "user", "content": format!("{story}What is {} + 4?", random % 100)}]);
    json!({"model": "bench", "messages": messages, "max_tokens": max_tokens, "ignore_eos": true})
}

fn judge(reply: &http::Reply, is_stream: bool) -> Result<Outcome> {
    let is_whole = match is_stream {
        true => reply.body.contains("data: [DONE]") && !reply.body.contains("\"error\":"),
        false => reply.status != 200 || reply.json()?["choices"][0]["finish_reason"].is_string(),
    };
    match reply.status {
        200 if is_whole => Ok(Outcome::Answered),
        429 | 503 if reply.json()?["error"]["message"].is_string() => Ok(Outcome::Refused),
        status => Err(anyhow!("{status} {}", reply.body)),
    }
}

/// SIGTERM while streams run: they end well, and so does the server.
fn terminate(args: &Args, server: &mut Process) -> Result<()> {
    let mut body = question(0, 200);
    body["stream"] = true.into();
    let post = |_| http::post(&server.addr, "/v1/chat/completions", &body);
    let mut streams = (0..args.max_waiting.min(64)).map(post).collect::<Result<Vec<_>>>()?;
    for stream in &mut streams {
        let first = stream.fill_buf()?;
        ensure!(first.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(first));
    }
    let started = Instant::now();
    ensure!(Command::new("kill").arg(server.child.id().to_string()).status()?.success(), "kill failed");
    let count = streams.len();
    for stream in streams {
        let outcome = judge(&http::read(stream)?, true)?;
        ensure!(outcome == Outcome::Answered, "a stream that ran at SIGTERM was {outcome:?}");
    }
    let status = server.child.wait()?;
    println!(
        "SIGTERM with {count} streams: all whole, {status} after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}
