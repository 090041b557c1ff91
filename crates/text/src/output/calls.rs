//! `CallParser`: tool calls of V3, R1 and V3.1 in streamed text.
//!
//! `<｜tool▁calls▁begin｜>` opens a list, each call stands between `<｜tool▁call▁begin｜>` and `<｜tool▁call▁end｜>`. Whether a call is one is known
//! only at its end: a call whose arguments are no JSON object is text (with its markers, from the opening of the list), a call of a tool
//! that nobody offered is dropped, a list that breaks off ends in nothing. So a call is passed on whole. White space around the text before
//! a list belongs to the list; what follows the list is dropped. These are the rules of SGLang's parsers, which the goldens come from.

use serde_json::{Map, Value};

use super::OutputDelta;
use super::markers::begun;
use crate::encoding::markers::{CALL_BEGIN, CALL_END, CALLS_BEGIN, SEP};

/// How a call is written between its markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallForm {
    /// V3, R1 and the distills: `type<sep>name`, then the arguments in a fenced block of JSON.
    Fenced,
    /// V3.1: `name<sep>arguments`.
    Bare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before any list.
    Text,
    /// In a list or after it, outside a call.
    Between,
    /// Inside a call.
    Call,
    /// A call was none: the rest is text.
    Broken,
}

/// Divides the text of an answer into content and calls.
#[derive(Debug)]
pub(super) struct CallParser {
    form: CallForm,
    offered: Vec<String>,
    state: State,
    /// Text that is not settled yet. In `Text`, white space and perhaps the beginning of a marker; later, all since the list was opened or
    /// since the last call.
    held: String,
    /// Bytes of `held` that need not be looked at again.
    seen: usize,
    /// Whether a call came to its end, which makes what stands between calls worthless.
    settled: bool,
    /// Calls passed on.
    count: usize,
}

impl CallParser {
    pub(super) fn new(form: CallForm, offered: Vec<String>) -> Self {
        let (state, held) = (State::Text, String::new());
        Self { form, offered, state, held, seen: 0, settled: false, count: 0 }
    }

    /// Whether the text turned out to hold a list of calls, which takes the white space around the text before it.
    pub(super) fn has_list(&self) -> bool {
        matches!(self.state, State::Between | State::Call)
    }

    /// Takes a chunk and appends what is certain now.
    pub(super) fn push(&mut self, chunk: &str, deltas: &mut Vec<OutputDelta>) {
        self.held.push_str(chunk);
        while match self.state {
            State::Text => self.leave_text(deltas),
            State::Between => self.open_call(),
            State::Call => self.close_call(deltas),
            State::Broken => {
                self.emit(self.held.len(), deltas);
                false
            }
        } {}
    }

    /// Ends the stream.
    pub(super) fn finish(&mut self, deltas: &mut Vec<OutputDelta>) {
        if self.state == State::Text {
            self.emit(self.held.len(), deltas);
        }
        self.held.clear();
    }

    /// Emits text up to a possible list. The first `seen` bytes of `held` are white space.
    fn leave_text(&mut self, deltas: &mut Vec<OutputDelta>) -> bool {
        let fresh = &self.held[self.seen..];
        let found = fresh.find(CALLS_BEGIN);
        let body = found.unwrap_or(fresh.len() - begun(fresh, CALLS_BEGIN));
        let text = fresh[..body].trim_end().len();
        let spaces = body - text;
        if text > 0 {
            self.emit(self.seen + text, deltas);
            self.seen = spaces;
        } else {
            self.seen += spaces;
        }
        if found.is_some() {
            self.seen += CALLS_BEGIN.len();
            self.state = State::Between;
        }
        found.is_some()
    }

    fn open_call(&mut self) -> bool {
        let fresh = &self.held[self.seen..];
        let found = fresh.find(CALL_BEGIN);
        let passed = self.seen + found.unwrap_or(fresh.len() - begun(fresh, CALL_BEGIN));
        self.seen = passed;
        if self.settled {
            self.held.drain(..passed);
            self.seen = 0;
        }
        if found.is_some() {
            self.seen += CALL_BEGIN.len();
            self.state = State::Call;
        }
        found.is_some()
    }

    fn close_call(&mut self, deltas: &mut Vec<OutputDelta>) -> bool {
        let fresh = &self.held[self.seen..];
        let Some(at) = fresh.find(CALL_END) else {
            self.seen += fresh.len() - begun(fresh, CALL_END);
            return false;
        };
        let end = self.seen + at;
        let begin = self.held[..end].find(CALL_BEGIN).map_or(end, |begin| begin + CALL_BEGIN.len());
        match self.form.read(&self.held[begin..end]) {
            Some((name, arguments)) => {
                if self.offered.contains(&name) {
                    let index = self.count;
                    self.count += 1;
                    deltas.push(OutputDelta::ToolCall { index, name });
                    deltas.push(OutputDelta::Arguments { index, text: arguments });
                }
                self.held.drain(..end + CALL_END.len());
                (self.seen, self.settled, self.state) = (0, true, State::Between);
            }
            None => self.state = State::Broken,
        }
        true
    }

    fn emit(&mut self, end: usize, deltas: &mut Vec<OutputDelta>) {
        if end > 0 {
            deltas.push(OutputDelta::Content(self.held.drain(..end).collect()));
        }
    }
}

impl CallForm {
    /// Name and arguments of a call; `None` when it is not of this form or its arguments are no JSON object.
    fn read(self, call: &str) -> Option<(String, String)> {
        let (name, arguments) = match self {
            Self::Bare => call.split_once(SEP)?,
            Self::Fenced => {
                let (name, block) = call.split_once(SEP)?.1.split_once("\n```json\n")?;
                (name, block.strip_suffix("\n```")?)
            }
        };
        let arguments = arguments.trim();
        serde_json::from_str::<Map<String, Value>>(arguments).ok()?;
        Some((name.trim().to_owned(), arguments.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: text looked at again and again, or kept for nothing; a long output would take time with its square.
    #[test]
    fn what_was_seen_is_not_looked_at_again() {
        let mut parser = CallParser::new(CallForm::Bare, vec!["f".to_owned()]);
        let mut deltas = Vec::new();
        for _ in 0..100 {
            parser.push("\n", &mut deltas);
        }
        assert_eq!((parser.held.len(), parser.seen), (100, 100));
        parser.push("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": \"", &mut deltas);
        parser.push(&"x".repeat(1_000), &mut deltas);
        assert_eq!(parser.held.len(), parser.seen);
        parser.push("\"}<｜tool▁call▁end｜>", &mut deltas);
        for _ in 0..100 {
            parser.push("nothing <｜", &mut deltas);
            assert!(parser.held.len() < CALL_BEGIN.len(), "{:?}", parser.held);
        }
        assert_eq!(deltas.len(), 2);
    }
}
