//! The form of tool calls and their results in V3, R1 and the distills: a call is a type, a name and a fenced block of JSON.

use crate::chat::ToolCall;
use crate::prompt::Prompt;

use super::markers::{CALL_BEGIN, CALL_END, OUTPUT_BEGIN, OUTPUT_END, OUTPUTS_BEGIN, SEP};

/// Writes one call.
pub(crate) fn write_call(prompt: &mut Prompt, call: &ToolCall) {
    prompt.control(CALL_BEGIN).text(&call.kind).control(SEP).text(&call.function.name);
    prompt.text("\n```json\n").text(&call.function.arguments.text()).text("\n```").control(CALL_END);
}

/// Writes one result; the first opens the list of results, later ones follow `separator`.
pub(crate) fn write_output(prompt: &mut Prompt, output: &str, first: bool, separator: &str) {
    if first {
        prompt.control(OUTPUTS_BEGIN);
    } else {
        prompt.text(separator);
    }
    prompt.control(OUTPUT_BEGIN).text(output).control(OUTPUT_END);
}
