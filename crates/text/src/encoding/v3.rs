//! V3 and V3-0324: a user turn is closed by the assistant's header at once, so that tool rounds need no header of their own.
//!
//! Source: `chat_template` of DeepSeek-V3-0324's tokenizer_config.json. It has no text that announces tools.

use crate::chat::{ChatRequest, Role};
use crate::error::Result;
use crate::prompt::Prompt;

use super::fenced_call::{write_call, write_output};
use super::markers::{ASSISTANT, BOS, CALLS_BEGIN, CALLS_END, EOS, OUTPUTS_END, USER};
use super::turns::{Turn, joined_system, turns};

/// Where the conversation stands.
struct State {
    prompt: Prompt,
    after_output: bool,
    first_output: bool,
    after_user: bool,
}

pub(super) fn encode(request: &ChatRequest, open_turn: bool) -> Result<Prompt> {
    let mut prompt = Prompt::new();
    prompt.control(BOS).text(&joined_system(&request.messages)?);
    let mut state = State { prompt, after_output: false, first_output: true, after_user: false };
    for turn in turns(&request.messages) {
        match turn.message().role {
            Role::System => {}
            Role::User => {
                state.prompt.control(USER).text(turn.content()?).control(ASSISTANT);
                state.after_output = false;
                state.after_user = true;
            }
            Role::Assistant if turn.message().tool_calls.is_empty() => state.answer(turn)?,
            Role::Assistant => state.calls(turn),
            Role::Tool => {
                write_output(&mut state.prompt, turn.content()?, state.first_output, "\n");
                (state.after_output, state.first_output, state.after_user) = (true, false, false);
            }
            Role::Other(_) => return Err(turn.unknown_role("system, user, assistant, tool")),
        }
    }
    state.close_outputs();
    if open_turn && !state.after_user && !state.after_output {
        state.prompt.control(ASSISTANT);
    }
    Ok(state.prompt)
}

impl State {
    fn close_outputs(&mut self) {
        if self.after_output {
            self.prompt.control(OUTPUTS_END);
        }
    }

    fn answer(&mut self, turn: Turn<'_>) -> Result<()> {
        self.close_outputs();
        self.prompt.text(turn.content()?).control(EOS);
        self.after_output = false;
        self.after_user = false;
        Ok(())
    }

    fn calls(&mut self, turn: Turn<'_>) {
        self.close_outputs();
        self.prompt.text(turn.message().content.as_deref().unwrap_or_default()).control(CALLS_BEGIN);
        for (index, call) in turn.message().tool_calls.iter().enumerate() {
            if index > 0 {
                self.prompt.text("\n");
            }
            write_call(&mut self.prompt, call);
        }
        self.prompt.control(CALLS_END).control(EOS);
        (self.after_output, self.first_output, self.after_user) = (false, true, false);
    }
}
