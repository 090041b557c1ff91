//! The `cachalot` command: reads the command line and the environment, and leaves everything else to the library.
//!
//! Exit codes: 0 done, 1 an error or a failed verification, 2 wrong usage, 3 a verification that could not check
//! everything, 130 interrupted.

mod chat;
mod completions;
mod config_file;
mod device_args;
mod eval;
mod experts_arg;
mod inspect;
mod interrupt;
mod kv_dtype;
mod model_arg;
mod printer;
mod progress;
mod pull;
mod run;
mod sampling_args;
mod serve;
mod speculate_arg;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The command's; a program that uses the library chooses for itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs DeepSeek's open-weight models on your own machine.
#[derive(Debug, Parser)]
#[command(name = "cachalot", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Serve(Box<serve::Args>),
    Pull(pull::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Eval(eval::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Completions(args) => completions::run(&args),
    };
    match result {
        Ok(code) => code,
        // The reader of a pipe has had enough (`cachalot ... | head`): not an error of ours.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If not even stderr can be written, there is nobody to tell.
            let _ = writeln!(io::stderr(), "error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_broken_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(is_broken_pipe)
}

/// The chain of causes; a cause that its effect already quotes is not repeated.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string().replace('\n', " ")) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_chain_is_one_line_without_repeats() {
        let cause = io::Error::other("disk\nfull");
        let error =
            anyhow::Error::new(cause).context("cannot write").context("cannot write: disk full, again");
        assert_eq!(one_line(&error), "cannot write: disk full, again");
        let error = anyhow::anyhow!("b").context("a");
        assert_eq!(one_line(&error), "a: b");
    }
}
