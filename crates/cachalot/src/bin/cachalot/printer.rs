//! Events on the terminal: reasoning dimmed, the answer plain, the speed on stderr.

use std::io::{self, IsTerminal, Write};

use cachalot::{Error, Event, FinishReason, GenerationStats};

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Writes one generation after another to stdout.
pub(crate) struct Printer {
    /// Reasoning is for people who watch; a pipe gets the answer alone.
    show_reasoning: bool,
    dim: bool,
    /// What the last character on the line was, so that a text always ends its line.
    at_line_start: bool,
}

impl Printer {
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        Self { show_reasoning: terminal, dim: false, at_line_start: true }
    }

    /// Prints a generation as it comes, and its speed. Returns why it ended.
    pub(crate) fn print(
        &mut self,
        events: impl Iterator<Item = Result<Event, Error>>,
    ) -> anyhow::Result<Option<FinishReason>> {
        let mut out = io::stdout();
        let mut answered = false;
        for event in events {
            match event {
                Ok(Event::Reasoning(piece)) if self.show_reasoning => self.write(&mut out, &piece, true)?,
                Ok(Event::Text(piece)) => {
                    answered = true;
                    self.write(&mut out, &piece, false)?;
                }
                Ok(Event::Finish { reason, stats }) => {
                    self.end_line(&mut out)?;
                    report(&reason, &stats, answered)?;
                    return Ok(Some(reason));
                }
                Ok(_) => {}
                Err(error) => {
                    self.end_line(&mut out)?;
                    return Err(error.into());
                }
            }
        }
        Ok(None)
    }

    fn write(&mut self, out: &mut impl Write, piece: &str, dim: bool) -> io::Result<()> {
        if self.dim && !dim {
            self.end_line(out)?;
        } else if dim && !self.dim {
            out.write_all(DIM.as_bytes())?;
            self.dim = true;
        }
        // Answers often begin with the line break that ended the reasoning.
        let piece = if self.at_line_start && !dim { piece.trim_start_matches('\n') } else { piece };
        if !piece.is_empty() {
            out.write_all(piece.as_bytes())?;
            self.at_line_start = piece.ends_with('\n');
        }
        out.flush()
    }

    fn end_line(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.dim {
            out.write_all(PLAIN.as_bytes())?;
            self.dim = false;
        }
        if !self.at_line_start {
            out.write_all(b"\n")?;
            self.at_line_start = true;
        }
        out.flush()
    }
}

/// The closing line on stderr.
fn report(reason: &FinishReason, stats: &GenerationStats, answered: bool) -> io::Result<()> {
    let mut err = io::stderr();
    if !answered && *reason == FinishReason::Length {
        writeln!(err, "note: the token limit was reached before the answer began")?;
    }
    writeln!(err, "{}", speed(stats))
}

fn speed(stats: &GenerationStats) -> String {
    let cached = match stats.cached_tokens {
        0 => String::new(),
        cached => format!(" ({cached} cached)"),
    };
    let guessed = stats.acceptance_rate().map_or(String::new(), |rate| {
        let GenerationStats { accepted_tokens, guessed_tokens, .. } = stats;
        format!(", {accepted_tokens} of {guessed_tokens} guesses right ({:.0} %)", 100.0 * rate)
    });
    format!(
        "prefill {} tokens{cached} at {:.1} tokens/s, decode {} tokens at {:.1} tokens/s{guessed}",
        stats.prompt_tokens,
        stats.prefill_tokens_per_second(),
        stats.generated_tokens,
        stats.decode_tokens_per_second(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(pieces: &[(&str, bool)]) -> String {
        let mut printer = Printer { show_reasoning: true, dim: false, at_line_start: true };
        let mut out = Vec::new();
        for (piece, dim) in pieces {
            printer.write(&mut out, piece, *dim).unwrap();
        }
        printer.end_line(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn reasoning_is_dimmed_and_every_text_ends_its_line() {
        assert_eq!(printed(&[("a", true), ("b", true), ("\nc", false)]), "\x1b[2mab\x1b[0m\nc\n");
        assert_eq!(printed(&[("c\n", false)]), "c\n");
        assert_eq!(printed(&[("\n\nc", false), ("\n\nd", false)]), "c\n\nd\n");
        assert_eq!(printed(&[]), "");
    }
}
