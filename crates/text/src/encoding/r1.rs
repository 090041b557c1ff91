//! R1: reasoning of earlier turns is cut, and the model's turn opens with `<think>` and a line break.
//!
//! Source: `chat_template` of DeepSeek-R1's tokenizer_config.json. It never closes its memory of tool rounds: calls and results after the
//! first round continue the first lists, and the content of such a turn is left out. The model saw exactly that, so it is kept.

use crate::chat::{ChatRequest, Role};
use crate::error::Result;
use crate::prompt::Prompt;

use super::fenced_call::{write_call, write_output};
use super::markers::{ASSISTANT, BOS, CALLS_BEGIN, CALLS_END, END_THINK, EOS, OUTPUTS_END, THINK, USER};
use super::turns::{joined_system, turns};

pub(super) fn encode(request: &ChatRequest, open_turn: bool) -> Result<Prompt> {
    let mut prompt = Prompt::new();
    prompt.control(BOS).text(&joined_system(&request.messages)?);
    let (mut after_output, mut first_output, mut first_call) = (false, true, true);
    for turn in turns(&request.messages) {
        let message = turn.message();
        match message.role {
            Role::System => {}
            Role::User => {
                after_output = false;
                prompt.control(USER).text(turn.content()?);
            }
            Role::Assistant if message.tool_calls.is_empty() => {
                write_answer(&mut prompt, turn.content()?, after_output);
                after_output = false;
            }
            Role::Assistant => {
                after_output = false;
                for call in &message.tool_calls {
                    if first_call {
                        prompt
                            .control(ASSISTANT)
                            .text(message.content.as_deref().unwrap_or_default())
                            .control(CALLS_BEGIN);
                        first_call = false;
                    } else {
                        prompt.text("\n");
                    }
                    write_call(&mut prompt, call);
                }
                prompt.control(CALLS_END).control(EOS);
            }
            Role::Tool => {
                write_output(&mut prompt, turn.content()?, first_output, "");
                (after_output, first_output) = (true, false);
            }
            Role::Other(_) => return Err(turn.unknown_role("system, user, assistant, tool")),
        }
    }
    close(&mut prompt, after_output, open_turn);
    Ok(prompt)
}

/// Writes an answer; one that follows tool results stays in their turn and keeps its text whole.
pub(super) fn write_answer(prompt: &mut Prompt, content: &str, after_output: bool) {
    if after_output {
        prompt.control(OUTPUTS_END).text(content);
    } else {
        let answer = content.rsplit(END_THINK).next().unwrap_or(content);
        prompt.control(ASSISTANT).text(answer);
    }
    prompt.control(EOS);
}

/// Ends the prompt: after tool results the model goes on without a header.
pub(super) fn close(prompt: &mut Prompt, after_output: bool, open_turn: bool) {
    if after_output {
        prompt.control(OUTPUTS_END);
    } else if open_turn {
        prompt.control(ASSISTANT).control(THINK).text("\n");
    }
}
