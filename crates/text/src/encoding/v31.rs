//! V3.1: one model for both modes. A turn opens with `<think>` or, without reasoning, with `</think>`; earlier turns always carry `</think>`.
//!
//! Source: `chat_template` of DeepSeek-V3.1's tokenizer_config.json; the text that announces tools is the model card's, which the template
//! leaves to the caller: `{system}\n\n{tools}`.

use crate::chat::{ChatRequest, Role, Tool};
use crate::error::Result;
use crate::prompt::Prompt;
use crate::python_json;

use super::markers::{
    ASSISTANT, BOS, CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, END_THINK, EOS, OUTPUT_BEGIN, OUTPUT_END,
    SEP, THINK, USER,
};
use super::turns::{Turn, joined_system, turns};

/// Where the conversation stands.
struct State {
    prompt: Prompt,
    thinking: bool,
    after_output: bool,
    after_user: bool,
}

pub(super) fn encode(request: &ChatRequest, open_turn: bool) -> Result<Prompt> {
    let mut prompt = Prompt::new();
    prompt.control(BOS).text(&joined_system(&request.messages)?);
    if !request.tools.is_empty() {
        write_tools(&mut prompt, &request.tools);
    }
    let thinking = request.thinking.unwrap_or(false);
    let mut state = State { prompt, thinking, after_output: false, after_user: false };
    for turn in turns(&request.messages) {
        match turn.message().role {
            Role::System => {}
            Role::User => {
                state.prompt.control(USER).text(turn.content()?);
                (state.after_output, state.after_user) = (false, true);
            }
            Role::Assistant if turn.message().tool_calls.is_empty() => state.answer(turn)?,
            Role::Assistant => state.calls(turn),
            Role::Tool => {
                state.prompt.control(OUTPUT_BEGIN).text(turn.content()?).control(OUTPUT_END);
                (state.after_output, state.after_user) = (true, false);
            }
            Role::Other(_) => return Err(turn.unknown_role("system, user, assistant, tool")),
        }
    }
    if open_turn && state.after_user {
        state.prompt.control(ASSISTANT).control(if thinking { THINK } else { END_THINK });
    }
    Ok(state.prompt)
}

impl State {
    fn answer(&mut self, turn: Turn<'_>) -> Result<()> {
        let content = turn.content()?;
        if self.after_user {
            let prefix = turn.message().prefix.unwrap_or(false);
            self.prompt.control(ASSISTANT).control(if prefix && self.thinking { THINK } else { END_THINK });
        }
        // An answer to tool results keeps its text whole, as in the template.
        let answer = match content.split_once(END_THINK) {
            Some((_, answer)) if !self.after_output => answer,
            _ => content,
        };
        self.prompt.text(answer).control(EOS);
        (self.after_output, self.after_user) = (false, false);
        Ok(())
    }

    fn calls(&mut self, turn: Turn<'_>) {
        if self.after_user {
            self.prompt.control(ASSISTANT).control(END_THINK);
        }
        self.prompt.text(turn.message().content.as_deref().unwrap_or_default()).control(CALLS_BEGIN);
        for call in &turn.message().tool_calls {
            self.prompt.control(CALL_BEGIN).text(&call.function.name).control(SEP);
            self.prompt.text(&call.function.arguments.text()).control(CALL_END);
        }
        self.prompt.control(CALLS_END).control(EOS);
        (self.after_output, self.after_user) = (false, false);
    }
}

fn write_tools(prompt: &mut Prompt, tools: &[Tool]) {
    prompt.text("\n\n## Tools\nYou have access to the following tools:\n\n");
    for tool in tools {
        let empty = serde_json::Value::Object(serde_json::Map::new());
        let parameters = python_json::dumps(tool.parameters().unwrap_or(&empty), None);
        prompt.text("### ").text(tool.name());
        prompt.text("\nDescription: ").text(tool.description().unwrap_or_default());
        prompt.text("\n\nParameters: ").text(&parameters).text("\n\n");
    }
    prompt.text("IMPORTANT: ALWAYS adhere to this exact format for tool use:\n");
    prompt.control(CALLS_BEGIN).control(CALL_BEGIN).text("tool_call_name").control(SEP);
    prompt.text("tool_call_arguments").control(CALL_END).text("{additional_tool_calls}").control(CALLS_END);
    prompt.text(
        "\n\nWhere:\n- `tool_call_name` must be an exact match to one of the available tools\n\
         - `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n\
         - For multiple tool calls, chain them directly without separators or spaces",
    );
}
