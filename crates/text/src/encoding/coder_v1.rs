//! DeepSeek-Coder v1 instruct: `### Instruction:` and `### Response:` blocks, a fixed system text where the conversation brings none.
//!
//! Source: `chat_template` of deepseek-coder-33b-instruct's tokenizer_config.json. System texts are written where they stand, without a
//! separator of their own.

use crate::chat::{ChatRequest, Role};
use crate::error::Result;
use crate::prompt::Prompt;

use super::markers::{BOS, EOT};
use super::turns::turns;

const DEFAULT_SYSTEM: &str = "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, and \
    you only answer questions related to computer science. For politically sensitive questions, security and privacy issues, and other \
    non-computer science questions, you will refuse to answer\n";

pub(super) fn encode(request: &ChatRequest, open_turn: bool) -> Result<Prompt> {
    let mut prompt = Prompt::new();
    prompt.control(BOS);
    if !request.messages.iter().any(|message| message.role == Role::System) {
        prompt.text(DEFAULT_SYSTEM);
    }
    for turn in turns(&request.messages) {
        match turn.message().role {
            Role::System => prompt.text(turn.content()?),
            Role::User => prompt.text("### Instruction:\n").text(turn.content()?).text("\n"),
            Role::Assistant => {
                prompt.text("### Response:\n").text(turn.content()?).text("\n").control(EOT).text("\n")
            }
            _ => return Err(turn.unknown_role("system, user, assistant")),
        };
    }
    if open_turn {
        prompt.text("### Response:\n");
    }
    Ok(prompt)
}
