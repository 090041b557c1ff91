//! The interactive chat of `cachalot run`.

use std::io::{self, Write};
use std::path::PathBuf;

use cachalot::{GenerateOptions, LanguageModel};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::interrupt::Interrupt;
use crate::printer::Printer;

const PROMPT: &str = ">>> ";
const HELP: &str = "\
/help   show this
/think  switch reasoning on or off
/reset  forget the conversation
/exit   leave (or Ctrl-D)
Ctrl-C ends an answer. End a line with \\ to go on in the next one.";

/// What a line asks for.
#[derive(Debug, PartialEq)]
enum Line {
    Nothing,
    Help,
    Think,
    Reset,
    Exit,
    Unknown,
    Say(String),
}

/// Talks until the user leaves.
pub(crate) fn run(
    model: &LanguageModel,
    mut options: GenerateOptions,
    system: Option<&str>,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let mut editor = DefaultEditor::new()?;
    let history = history_file();
    if let Some(path) = &history {
        // There is none on the first run.
        let _ = editor.load_history(path);
    }
    let mut chat = model.chat();
    if let Some(system) = system {
        chat.set_system(system);
    }
    let mut out = io::stdout();
    writeln!(out, "{}: /help lists the commands", model.name())?;
    while let Some(line) = read(&mut editor)? {
        match parse(&line) {
            Line::Nothing => {}
            Line::Help => writeln!(out, "{HELP}")?,
            Line::Think => {
                options.thinking = Some(options.thinking != Some(true));
                writeln!(out, "reasoning is {}", if options.thinking == Some(true) { "on" } else { "off" })?;
            }
            Line::Reset => {
                chat.reset();
                writeln!(out, "the conversation is forgotten")?;
            }
            Line::Exit => break,
            Line::Unknown => writeln!(out, "no such command; /help lists them")?,
            Line::Say(text) => {
                // A failed turn is told and forgotten; the chat goes on.
                let spoken = chat.send(text, &options).map_err(anyhow::Error::new).and_then(|turn| {
                    interrupt.arm(turn.cancel_handle());
                    Printer::new().print(turn)
                });
                interrupt.disarm();
                if let Err(error) = spoken {
                    writeln!(io::stderr(), "error: {error:#}")?;
                }
            }
        }
    }
    if let Some(path) = &history {
        save_history(&mut editor, path);
    }
    Ok(())
}

/// One entry of the user, over several lines where they end in a backslash; `None` when the user leaves.
fn read(editor: &mut DefaultEditor) -> anyhow::Result<Option<String>> {
    let mut entry = String::new();
    loop {
        match editor.readline(if entry.is_empty() { PROMPT } else { "... " }) {
            Ok(line) => match line.strip_suffix('\\') {
                Some(start) => {
                    entry.push_str(start);
                    entry.push('\n');
                }
                None => {
                    entry.push_str(&line);
                    editor.add_history_entry(entry.as_str())?;
                    return Ok(Some(entry));
                }
            },
            // Ctrl-C throws the line away, as in a shell.
            Err(ReadlineError::Interrupted) => entry.clear(),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn parse(line: &str) -> Line {
    match line.trim() {
        "" => Line::Nothing,
        "/help" | "/?" => Line::Help,
        "/think" => Line::Think,
        "/reset" => Line::Reset,
        "/exit" | "/quit" => Line::Exit,
        // A path is something to talk about, a lone word after a slash is a mistyped command.
        command if command.starts_with('/') && command[1..].bytes().all(|b| b.is_ascii_alphabetic()) => {
            Line::Unknown
        }
        text => Line::Say(text.to_owned()),
    }
}

/// Where the lines of earlier chats are kept, by the XDG rules.
fn history_file() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?;
    Some(state.join("cachalot").join("history"))
}

/// Keeping the history is a courtesy: a read-only home must not end a chat with an error.
fn save_history(editor: &mut DefaultEditor, path: &PathBuf) {
    let saved = path.parent().map(std::fs::create_dir_all);
    if matches!(saved, Some(Ok(()))) {
        let _ = editor.save_history(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_text_are_told_apart() {
        assert_eq!(parse("  "), Line::Nothing);
        assert_eq!(parse(" /reset "), Line::Reset);
        assert_eq!(parse("/quit"), Line::Exit);
        assert_eq!(parse("/rest"), Line::Unknown);
        assert_eq!(parse("/"), Line::Unknown);
        assert_eq!(parse("/etc/hosts is what?"), Line::Say("/etc/hosts is what?".to_owned()));
        assert_eq!(parse(" hi "), Line::Say("hi".to_owned()));
    }
}
