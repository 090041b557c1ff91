//! `cachalot run`: answers one prompt, or chats.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use anyhow::bail;
use cachalot::{
    FinishReason, GenerateOptions, Input, LanguageModel, LoadOptions, Message, ModelSource, Output, Precision,
};

use crate::chat;
use crate::device_args::DeviceArgs;
use crate::experts_arg::ExpertsArg;
use crate::interrupt::{self, Interrupt};
use crate::kv_dtype::{IndexerKvDtype, KvDtype};
use crate::model_arg;
use crate::printer::Printer;
use crate::sampling_args::SamplingArgs;
use crate::speculate_arg::SpeculateArg;

const ABOUT_ARGUMENTS: &str = "\
MODEL is a directory, a .gguf file or a hub id (org/name or org/name@revision). Without one the demo model inside the
program answers. A single argument is the MODEL if it is an existing directory or .gguf file, looks like a hub id, or
begins with /, ./ or ../ and has no space; otherwise it is the PROMPT for the demo model. With --model it is always the
PROMPT.

Without a PROMPT, text piped into stdin is the prompt; on a terminal a chat begins.

The answer goes to stdout and the speed to stderr. Reasoning is shown, dimmed, on a terminal only.

Examples:
  cachalot run \"What is 128 + 256?\"
  cachalot run --think deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \"Why is the sea salt?\"
  cachalot run ./my-checkpoint
  git diff | cachalot run --model ./my-checkpoint --system \"Review this change.\"
  cachalot run 'def half(x):' --suffix '    return y'";

/// Answer a prompt, or chat
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT_ARGUMENTS)]
pub(crate) struct Args {
    /// The model, if two arguments are given or the only one names a model; else the prompt
    #[arg(value_name = "MODEL")]
    first: Option<String>,
    /// What to answer
    #[arg(value_name = "PROMPT")]
    second: Option<String>,
    /// The model by name, so that a single argument is always the prompt
    #[arg(short, long, value_name = "MODEL", conflicts_with = "second")]
    model: Option<String>,
    /// Instructions before the conversation
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["raw", "suffix"])]
    system: Option<String>,
    /// Continue the prompt as it is, without a prompt format
    #[arg(long)]
    raw: bool,
    /// Fill in the middle: write what belongs between PROMPT and this
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    suffix: Option<String>,
    /// Print one JSON object when the answer is complete
    #[arg(long)]
    json: bool,
    /// Tokens of context; the default is the model's own, at most 8192
    #[arg(long, value_name = "N")]
    ctx_size: Option<usize>,
    /// Element type of the KV cache; the default follows the checkpoint
    #[arg(long, value_name = "DTYPE")]
    kv_dtype: Option<KvDtype>,
    /// Element type of the index keys of DeepSeek-V3.2 and V4, and of what they are compared with
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    indexer_kv_dtype: IndexerKvDtype,
    /// Split the model over N ranks, which compute its layers together
    #[arg(long, value_name = "N", default_value_t = 1)]
    tp: usize,
    /// Form of the routed experts in memory; the default is auto on a GPU in bf16, else as-stored
    #[arg(long, value_name = "FORM")]
    experts: Option<ExpertsArg>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Guess tokens and check several in a step, the text being the same: mtp (the checkpoint's prediction layer) or
    /// ngram (what came after the same words before), and :N for the number of guesses
    #[arg(long, value_name = "WHO[:N]")]
    speculate: Option<SpeculateArg>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// What the two positional arguments mean.
#[derive(Debug, PartialEq)]
struct Request<'a> {
    model: Option<&'a str>,
    prompt: Option<&'a str>,
}

impl Args {
    fn request(&self) -> Request<'_> {
        let (first, second) = (self.first.as_deref(), self.second.as_deref());
        match (self.model.as_deref(), first, second) {
            (Some(model), prompt, _) => Request { model: Some(model), prompt },
            (None, model, Some(prompt)) => Request { model, prompt: Some(prompt) },
            (None, Some(only), None) if model_arg::names_a_model(only) => {
                Request { model: Some(only), prompt: None }
            }
            (None, prompt, None) => Request { model: None, prompt },
        }
    }

    fn input(&self, prompt: String) -> Input {
        if self.raw {
            return Input::Raw(prompt);
        }
        if let Some(suffix) = &self.suffix {
            return Input::FillInTheMiddle { prefix: prompt, suffix: suffix.clone() };
        }
        let system = self.system.iter().map(Message::system);
        system.chain([Message::user(prompt)]).collect::<Vec<_>>().into()
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Request { model, prompt } = args.request();
    let source = model_arg::source(model)?;
    let interactive = prompt.is_none() && io::stdin().is_terminal();
    if interactive && (args.raw || args.suffix.is_some() || args.json) {
        bail!("--raw, --suffix and --json need a PROMPT, or text on stdin");
    }
    let prompt = match prompt {
        Some(prompt) => Some(prompt.to_owned()),
        None if interactive => None,
        None => Some(read_stdin()?),
    };
    if let Some(prompt) = &prompt
        && prompt.trim().is_empty()
        && args.suffix.is_none()
    {
        bail!("the prompt is empty");
    }
    let interrupt = Interrupt::install()?;
    let model = load(args, source)?;
    let options = args.sampling.options();
    match prompt {
        None => {
            chat::run(&model, options, args.system.as_deref(), &interrupt)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(prompt) if args.json => print_json(&model, args.input(prompt), &options, &interrupt),
        Some(prompt) => {
            let stream = model.stream(args.input(prompt), &options)?;
            interrupt.arm(stream.cancel_handle());
            let reason = Printer::new().print(stream)?;
            interrupt.disarm();
            Ok(exit_code(reason.as_ref()))
        }
    }
}

fn load(args: &Args, source: ModelSource) -> anyhow::Result<LanguageModel> {
    let options = LoadOptions {
        context_len: args.ctx_size,
        kv_dtype: args.kv_dtype.map(Into::into),
        tensor_parallel: args.tp,
        device: args.device.options(Precision::Bf16),
        experts: args.experts.map(Into::into),
        index: args.indexer_kv_dtype.into(),
        speculation: args.speculate.map(|SpeculateArg(speculation)| speculation),
        // One conversation is all there is.
        max_sequences: 1,
        state_slots: 1,
        ..LoadOptions::default()
    };
    model_arg::load(source, options)
}

fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    // The line break that `echo` and most files end with is not part of the question.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

fn print_json(
    model: &LanguageModel,
    input: Input,
    options: &GenerateOptions,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitCode> {
    let stream = model.stream(input, options)?;
    interrupt.arm(stream.cancel_handle());
    let output = stream.collect_output()?;
    interrupt.disarm();
    writeln!(io::stdout(), "{:#}", to_json(model, &output))?;
    Ok(exit_code(Some(&output.finish_reason)))
}

fn to_json(model: &LanguageModel, output: &Output) -> serde_json::Value {
    let Output { text, reasoning, finish_reason, stats, .. } = output;
    let stop = match finish_reason {
        FinishReason::StopString(stop) => Some(stop),
        _ => None,
    };
    serde_json::json!({
        "model": model.name(),
        "text": text,
        "reasoning": reasoning,
        "finish_reason": finish_reason.as_str(),
        "stop": stop,
        "seed": stats.seed,
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cached_tokens,
            "completion_tokens": stats.generated_tokens,
        },
        "speculation": stats.acceptance_rate().map(|rate| serde_json::json!({
            "guessed_tokens": stats.guessed_tokens,
            "accepted_tokens": stats.accepted_tokens,
            "acceptance_rate": rate,
        })),
        "timing": {
            "time_to_first_token_s": stats.time_to_first_token.map(|t| t.as_secs_f64()),
            "prefill_tokens_per_s": stats.prefill_tokens_per_second(),
            "decode_tokens_per_s": stats.decode_tokens_per_second(),
        },
    })
}

fn exit_code(reason: Option<&FinishReason>) -> ExitCode {
    match reason {
        Some(FinishReason::Cancelled) => ExitCode::from(interrupt::EXIT_CODE),
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &[&str]) -> Args {
        Wrapper::try_parse_from([&["run"], line].concat()).map(|w| w.args).unwrap()
    }

    fn request(line: &[&str]) -> (Option<String>, Option<String>) {
        let args = parse(line);
        let Request { model, prompt } = args.request();
        (model.map(str::to_owned), prompt.map(str::to_owned))
    }

    #[test]
    fn one_argument_is_told_apart() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(request(&["What is 1/2?"]), (None, some("What is 1/2?")));
        assert_eq!(request(&["org/name"]), (some("org/name"), None));
        assert_eq!(request(&["/no/such/dir"]), (some("/no/such/dir"), None));
        assert_eq!(request(&["a", "b"]), (some("a"), some("b")));
        assert_eq!(request(&["--model", "a", "org/name"]), (some("a"), some("org/name")));
        assert_eq!(request(&[]), (None, None));
    }

    #[test]
    fn the_later_of_think_and_no_think_wins() {
        assert_eq!(parse(&["--think"]).sampling.options().thinking, Some(true));
        assert_eq!(parse(&["--think", "--no-think"]).sampling.options().thinking, Some(false));
        assert_eq!(parse(&["--no-think", "--think"]).sampling.options().thinking, Some(true));
        assert_eq!(parse(&[]).sampling.options().thinking, None);
    }

    #[test]
    fn inputs_follow_the_flags() {
        assert_eq!(parse(&["--raw", "x"]).input("x".to_owned()), Input::Raw("x".to_owned()));
        let Input::FillInTheMiddle { prefix, suffix } = parse(&["x", "--suffix", "y"]).input("x".to_owned())
        else {
            panic!("not a hole");
        };
        assert_eq!((prefix.as_str(), suffix.as_str()), ("x", "y"));
        let Input::Chat(request) = parse(&["--system", "s", "x"]).input("x".to_owned()) else {
            panic!("not a chat");
        };
        assert_eq!(request.messages.len(), 2);
    }
}
