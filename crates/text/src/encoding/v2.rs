//! DeepSeek-LLM, DeepSeek-MoE and V2 (with V2-Lite and Coder-V2): turns in plain words, `User: …` and `Assistant: …`, the assistant's closed by EOS.
//!
//! Source: `chat_template` of DeepSeek-V2's tokenizer_config.json.

use crate::chat::{ChatRequest, Role};
use crate::error::Result;
use crate::prompt::Prompt;

use super::markers::{BOS, EOS};
use super::turns::turns;

pub(super) fn encode(request: &ChatRequest, open_turn: bool) -> Result<Prompt> {
    let mut prompt = Prompt::new();
    prompt.control(BOS);
    for turn in turns(&request.messages) {
        match turn.message().role {
            Role::System => prompt.text(turn.content()?).text("\n\n"),
            Role::User => prompt.text("User: ").text(turn.content()?).text("\n\n"),
            Role::Assistant => prompt.text("Assistant: ").text(turn.content()?).control(EOS),
            _ => return Err(turn.unknown_role("system, user, assistant")),
        };
    }
    if open_turn {
        prompt.text("Assistant:");
    }
    Ok(prompt)
}
