//! R1-Distill-Qwen and R1-Distill-Llama: R1's turns with the tool rules of the first R1 template.
//!
//! Source: `chat_template` of R1-Distill-Qwen-32B and R1-Distill-Llama-8B, which are the same. Against R1: the last system text wins; calls
//! are written only for a message without content; every call but the first of the conversation closes the list; results are separated by a
//! line break.

use crate::chat::{ChatRequest, Role};
use crate::error::Result;
use crate::prompt::Prompt;

use super::fenced_call::{write_call, write_output};
use super::markers::{ASSISTANT, BOS, CALLS_BEGIN, CALLS_END, EOS, USER};
use super::r1::{close, write_answer};
use super::turns::turns;

pub(super) fn encode(request: &ChatRequest, open_turn: bool) -> Result<Prompt> {
    let mut prompt = Prompt::new();
    prompt.control(BOS);
    if let Some(system) = turns(&request.messages).filter(|turn| turn.message().role == Role::System).last() {
        prompt.text(system.content()?);
    }
    let (mut after_output, mut first_output, mut first_call) = (false, true, true);
    for turn in turns(&request.messages) {
        let message = turn.message();
        match message.role {
            Role::System => {}
            Role::User => {
                after_output = false;
                prompt.control(USER).text(turn.content()?);
            }
            Role::Assistant if message.content.is_none() && !message.tool_calls.is_empty() => {
                after_output = false;
                for call in &message.tool_calls {
                    if first_call {
                        prompt.control(ASSISTANT).control(CALLS_BEGIN);
                        write_call(&mut prompt, call);
                        first_call = false;
                    } else {
                        prompt.text("\n");
                        write_call(&mut prompt, call);
                        prompt.control(CALLS_END).control(EOS);
                    }
                }
            }
            Role::Assistant => {
                write_answer(&mut prompt, turn.content()?, after_output);
                after_output = false;
            }
            Role::Tool => {
                write_output(&mut prompt, turn.content()?, first_output, "\n");
                (after_output, first_output) = (true, false);
            }
            Role::Other(_) => return Err(turn.unknown_role("system, user, assistant, tool")),
        }
    }
    close(&mut prompt, after_output, open_turn);
    Ok(prompt)
}
