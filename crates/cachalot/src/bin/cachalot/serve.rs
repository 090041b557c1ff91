//! `cachalot serve`: the model behind an HTTP server.

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use cachalot::serve::{Dialect, Limits, Server, ServerOptions, ServiceOptions};
use cachalot::{LanguageModel, LoadOptions, Precision};
use clap::{CommandFactory, FromArgMatches};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::device_args::DeviceArgs;
use crate::experts_arg::ExpertsArg;
use crate::kv_dtype::{IndexerKvDtype, KvDtype};
use crate::speculate_arg::SpeculateArg;
use crate::{Cli, Command, config_file, model_arg};

const ABOUT_ARGUMENTS: &str = "\
MODEL is a directory, a .gguf file or a hub id (org/name or org/name@revision). Without one the demo model inside the
program is served.

Routes, with or without /v1: /chat/completions, /completions (fill in the middle with a suffix), /messages
(Anthropic's), /responses, /embeddings, /models, /tokenize, /detokenize. Without a key: a page to chat at /, /health,
/ready, /metrics.

A config file (TOML) sets any of these options by their long names, such as `port = 8080` or
`served-model-name = [\"a\", \"b\"]`. What the command line says wins.

SIGTERM or Ctrl-C takes nothing more, lets running answers end within --drain-timeout, and exits 0.

Examples:
  cachalot serve
  cachalot serve --port 8080 --dialect deepseek ./my-checkpoint
  CACHALOT_API_KEY=secret cachalot serve --host 0.0.0.0 deepseek-ai/DeepSeek-V2-Lite-Chat";

/// Serve a model over HTTP: the DeepSeek and OpenAI APIs
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT_ARGUMENTS, args_override_self = true)]
pub(crate) struct Args {
    /// The model; without one the demo model inside the program
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    /// A file with further options
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on; one that other machines can reach needs a key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// A key that clients must send; may be given several times. Other users of the machine can see the command line:
    /// better set it in the environment, or use --keys
    #[arg(long = "api-key", value_name = "KEY", env = "CACHALOT_API_KEY", hide_env_values = true)]
    api_keys: Vec<String>,
    /// A file of hashed keys with their quotas (see the README), read again when it changes
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Whose word counts where the two APIs disagree: openai or deepseek
    #[arg(long, value_name = "DIALECT", default_value = "openai")]
    dialect: Dialect,
    /// What clients call the model; may be given several times, the first is the name in lists and answers
    #[arg(long, value_name = "NAME")]
    served_model_name: Vec<String>,
    /// Seconds that running answers have after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_timeout: u64,
    /// Log lines: text for people, json for machines
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, or a tracing filter such as info,audit=off
    #[arg(long, value_name = "FILTER", default_value = "info", env = "CACHALOT_LOG")]
    log: String,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How requests share the model.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model and batching")]
struct BatchArgs {
    /// Tokens of context per request; the default is the model's own, at most 8192
    #[arg(long, value_name = "N")]
    ctx_size: Option<usize>,
    /// Element type of the KV cache; the default follows the checkpoint
    #[arg(long, value_name = "DTYPE")]
    kv_dtype: Option<KvDtype>,
    /// Element type of the index keys of DeepSeek-V3.2 and V4, and of what they are compared with
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    indexer_kv_dtype: IndexerKvDtype,
    /// Form of the routed experts in memory; the default is auto on a GPU in bf16, else as-stored
    #[arg(long, value_name = "FORM")]
    experts: Option<ExpertsArg>,
    /// Room of the KV cache, in requests of full context
    #[arg(long, value_name = "N", default_value_t = 8)]
    kv_contexts: usize,
    /// Split the model over N ranks, which compute its layers together
    #[arg(long, value_name = "N", default_value_t = 1)]
    tp: usize,
    /// Most requests computed in one step
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_num_seqs: usize,
    /// Most tokens computed in one step
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_num_batched_tokens: usize,
    /// Most requests that wait for their first step; further ones are told to come back (429)
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_waiting: usize,
    /// Guess tokens and check several in a step, the texts being the same: mtp (the checkpoint's prediction layer) or
    /// ngram (what came after the same words before), and :N for the number of guesses
    #[arg(long, value_name = "WHO[:N]")]
    speculate: Option<SpeculateArg>,
    /// Prefixes that the prefix cache keeps the state of, for models that keep state per request (V4)
    #[arg(long, value_name = "N", default_value_t = 64)]
    state_snapshots: usize,
    /// Compute every prompt from its first token
    #[arg(long)]
    no_prefix_cache: bool,
}

/// Bounds on what clients may do.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Most connections at once
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_connections)]
    max_connections: usize,
    /// Most bytes of a request's body
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_body_bytes)]
    max_body: usize,
    /// Seconds for the headers of a request, and for the next request of an idle connection
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().header_timeout.as_secs())]
    header_timeout: u64,
    /// Seconds for the body of a request
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().body_timeout.as_secs())]
    body_timeout: u64,
    /// Seconds that a client may leave an answer unread
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().write_timeout.as_secs())]
    write_timeout: u64,
    /// Seconds between two comments on a stream, or blank lines before a whole answer, while there is nothing to say
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().keep_alive.as_secs())]
    keep_alive: u64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.config {
        None => serve(args),
        Some(path) => serve(&with_config(config_file::arguments(path)?)?),
    }
}

/// The command line once more, with the options of the config file before its own.
fn with_config(file: Vec<std::ffi::OsString>) -> anyhow::Result<Args> {
    let mut line: Vec<_> = std::env::args_os().collect();
    // The subcommand is the first argument: the command itself has no options with a value.
    let at = line.iter().position(|argument| argument == "serve").map_or(line.len(), |at| at + 1);
    line.splice(at..at, file);
    let matches = Cli::command().try_get_matches_from(line).context("in the config file")?;
    match Cli::from_arg_matches(&matches)?.command {
        Command::Serve(args) => Ok(*args),
        other => anyhow::bail!("expected the subcommand serve, found {other:?}"),
    }
}

fn serve(args: &Args) -> anyhow::Result<ExitCode> {
    start_log(args)?;
    let source = model_arg::source(args.model.as_deref())?;
    let options = args.server_options();
    // A second look before minutes of loading: a refused address or key should not cost them.
    options.validate()?;
    let model = model_arg::load(source, args.load_options())?;
    // Prompts are encoded and grammars compiled on these: more than the cores can run are only stacks and heaps.
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(2 * cores + text::grammar::GrammarLimits::default().max_compiling)
        .enable_all()
        .build()?;
    runtime.block_on(listen(args, model, options))?;
    Ok(ExitCode::SUCCESS)
}

async fn listen(args: &Args, model: LanguageModel, options: ServerOptions) -> anyhow::Result<()> {
    let name = args.served_model_name.first().map_or(model.name(), String::as_str);
    let served = model.served(name, &args.service_options())?;
    let server = Server::bind(served, options).await?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    // On stdout, so that whoever starts the server can read where it listens.
    writeln!(io::stdout(), "serving {name} at http://{}", server.local_addr())?;
    server
        .run(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
    Ok(())
}

fn start_log(args: &Args) -> anyhow::Result<()> {
    let filter: EnvFilter = args.log.parse().with_context(|| format!("--log {:?}", args.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match args.log_format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}

impl Args {
    fn load_options(&self) -> LoadOptions {
        LoadOptions {
            context_len: self.batch.ctx_size,
            kv_dtype: self.batch.kv_dtype.map(Into::into),
            max_sequences: self.batch.kv_contexts,
            state_slots: self.batch.max_num_seqs,
            state_snapshots: if self.batch.no_prefix_cache { 0 } else { self.batch.state_snapshots },
            commit_cache: true,
            prefill_chunk: self.batch.max_num_batched_tokens,
            tensor_parallel: self.batch.tp,
            device: self.device.options(Precision::Bf16),
            experts: self.batch.experts.map(Into::into),
            index: self.batch.indexer_kv_dtype.into(),
            speculation: self.batch.speculate.map(|SpeculateArg(speculation)| speculation),
        }
    }

    fn service_options(&self) -> ServiceOptions {
        ServiceOptions {
            max_num_seqs: self.batch.max_num_seqs,
            max_num_batched_tokens: self.batch.max_num_batched_tokens,
            max_waiting: self.batch.max_waiting,
            prefix_cache: !self.batch.no_prefix_cache,
            ..ServiceOptions::default()
        }
    }

    fn server_options(&self) -> ServerOptions {
        ServerOptions {
            addr: SocketAddr::new(self.host, self.port),
            dialect: self.dialect,
            api_keys: self.api_keys.clone(),
            keys_file: self.keys.clone(),
            served_names: self.served_model_name.iter().skip(1).cloned().collect(),
            limits: Limits {
                max_connections: self.limits.max_connections,
                max_body_bytes: self.limits.max_body,
                header_timeout: Duration::from_secs(self.limits.header_timeout),
                body_timeout: Duration::from_secs(self.limits.body_timeout),
                write_timeout: Duration::from_secs(self.limits.write_timeout),
                keep_alive: Duration::from_secs(self.limits.keep_alive),
                ..Limits::default()
            },
            drain_deadline: Duration::from_secs(self.drain_timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use cachalot::{DType, IndexFormat};
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: Args,
    }

    fn load_options(line: &[&str]) -> LoadOptions {
        Wrapper::try_parse_from([&["serve"], line].concat()).map(|w| w.args.load_options()).unwrap()
    }

    #[test]
    fn forms_of_the_cache_arrive() {
        let options = load_options(&["--kv-dtype", "fp8", "--indexer-kv-dtype", "fp8"]);
        assert_eq!((options.kv_dtype, options.index), (Some(DType::F8E4M3), IndexFormat::Fp8));
        let options = load_options(&[]);
        assert_eq!((options.kv_dtype, options.index), (None, IndexFormat::Exact));
    }
}
