//! V3.2: calls of tools as tags, reasoning that stays through the rounds of tools after a question and goes with the next question.
//!
//! Source: `encoding/encoding_dsv32.py`, which DeepSeek ships with the weights in place of a template. What it raises on is an error here;
//! what it lets through stays as it writes it: a list of results is closed only when every call has its result. An answer that is
//! continued may lack its reasoning, which then is empty.

use serde_json::{Map, Value};

use crate::chat::{Arguments, ChatRequest, Message, Role, ToolCall};
use crate::error::Result;
use crate::prompt::Prompt;
use crate::python_json;

use super::markers::{ASSISTANT, BOS, DSML, END_THINK, EOS, THINK, USER};
use super::turns::{Turn, turns};

const DEVELOPER: &str = "developer";

const TOOLS: &str = r#"

## Tools
You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<｜DSML｜function_calls>" block like the following as part of your reply to the user:
<｜DSML｜function_calls>
<｜DSML｜invoke name="$FUNCTION_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$FUNCTION_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜function_calls>
String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types (numbers, booleans, arrays, objects).
If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. Here is an example:
<｜DSML｜function_calls>
...
</｜DSML｜function_calls>
<function_results>
...
</function_results>
<think>...thinking about results</think>
Here are the functions available in JSONSchema format:
<functions>
"#;

const RESPONSE_FORMAT: &str =
    "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

/// Where the conversation stands.
struct State<'a> {
    prompt: Prompt,
    request: &'a ChatRequest,
    thinking: bool,
    /// Place of the last message that asks.
    last_question: Option<usize>,
    /// Calls of the last answer that may still get results, and results so far.
    calls: usize,
    results: usize,
}

pub(super) fn encode(request: &ChatRequest, open_turn: bool) -> Result<Prompt> {
    let thinking = request.thinking.unwrap_or(false);
    let turns = remembered(&request.messages, thinking);
    let last_question = turns.iter().rposition(|turn| asks(turn.message()));
    let mut state = State { prompt: Prompt::new(), request, thinking, last_question, calls: 0, results: 0 };
    state.prompt.control(BOS);
    let system = turns.iter().position(|turn| turn.message().role == Role::System);
    if system.is_none() {
        Announced::by_request(request).write(&mut state.prompt);
    }
    for (place, &turn) in turns.iter().enumerate() {
        // The header of the model's turn belongs to the message before it.
        let header = open_turn || place + 1 < turns.len();
        match &turn.message().role {
            Role::System => state.system(turn, system == Some(place)),
            Role::User => state.user(turn, place, header)?,
            Role::Other(role) if role == DEVELOPER => state.developer(turn, place, header)?,
            Role::Assistant => state.answer(turn, place, place + 1 == turns.len())?,
            Role::Tool => state.result(turn, place, header)?,
            Role::Other(_) => return Err(turn.unknown_role("system, user, assistant, tool, developer")),
        }
    }
    Ok(state.prompt)
}

/// The messages that the model gets to see: when it reasons, a developer's instructions last until the next question.
fn remembered(messages: &[Message], thinking: bool) -> Vec<Turn<'_>> {
    let last_question = messages.iter().rposition(asks).unwrap_or(0);
    let kept = |place: usize, turn: &Turn<'_>| {
        !thinking || place >= last_question || turn.message().role.as_str() != DEVELOPER
    };
    let turns = turns(messages).enumerate();
    turns.filter(|(place, turn)| kept(*place, turn)).map(|(_, turn)| turn).collect()
}

fn asks(message: &Message) -> bool {
    message.role == Role::User || message.role.as_str() == DEVELOPER
}

impl State<'_> {
    fn system(&mut self, turn: Turn<'_>, first: bool) {
        self.prompt.text(turn.message().content.as_deref().unwrap_or_default());
        let mut announced = Announced::by_message(turn.message());
        if first {
            announced = Announced::by_request(self.request).or(announced);
        }
        announced.write(&mut self.prompt);
        self.calls = 0;
    }

    fn user(&mut self, turn: Turn<'_>, place: usize, header: bool) -> Result<()> {
        self.prompt.control(USER).text(turn.content()?);
        self.end_question(place, header);
        Ok(())
    }

    fn developer(&mut self, turn: Turn<'_>, place: usize, header: bool) -> Result<()> {
        self.prompt.control(USER);
        Announced::by_message(turn.message()).write(&mut self.prompt);
        self.prompt.text("\n\n# The user's message is: ").text(turn.text("content")?);
        self.end_question(place, header);
        Ok(())
    }

    fn end_question(&mut self, place: usize, header: bool) {
        self.calls = 0;
        if header {
            self.prompt.control(ASSISTANT);
            self.open(self.last_question == Some(place));
        }
    }

    fn answer(&mut self, turn: Turn<'_>, place: usize, last: bool) -> Result<()> {
        let Message { content, reasoning_content, tool_calls, .. } = turn.message();
        let reasoning = reasoning_content.as_deref().unwrap_or_default();
        if content.is_none() && tool_calls.is_empty() && reasoning.is_empty() {
            turn.content()?;
        }
        if self.thinking && self.after_last_question(place) {
            let continued = last && self.request.continue_final_message;
            if tool_calls.is_empty() && !continued {
                turn.text("reasoning_content")?;
            }
            self.prompt.text(reasoning).control(END_THINK);
        }
        self.prompt.text(content.as_deref().unwrap_or_default());
        if !tool_calls.is_empty() {
            write_calls(&mut self.prompt, turn)?;
        }
        self.prompt.control(EOS);
        (self.calls, self.results) = (tool_calls.len(), 0);
        Ok(())
    }

    fn result(&mut self, turn: Turn<'_>, place: usize, header: bool) -> Result<()> {
        if self.calls == 0 {
            return Err(turn.without_call());
        }
        if self.results == 0 {
            self.prompt.text("\n\n<function_results>");
        }
        self.prompt.text("\n<result>").text(turn.content()?).text("</result>");
        self.results += 1;
        if self.results == self.calls {
            self.calls = 0;
            self.prompt.text("\n</function_results>");
            if header {
                self.prompt.text("\n\n");
                self.open(self.after_last_question(place));
            }
        }
        Ok(())
    }

    fn after_last_question(&self, place: usize) -> bool {
        self.last_question.is_none_or(|question| place > question)
    }

    /// Opens the model's turn; it reasons only where nobody has asked anything since.
    fn open(&mut self, current: bool) {
        self.prompt.control(if self.thinking && current { THINK } else { END_THINK });
    }
}

fn write_calls(prompt: &mut Prompt, turn: Turn<'_>) -> Result<()> {
    own(prompt, "\n\n<｜DSML｜function_calls>");
    for (index, call) in turn.message().tool_calls.iter().enumerate() {
        own(prompt, "\n<｜DSML｜invoke name=\"").text(&call.function.name).text("\">\n");
        for (place, (name, value)) in arguments(turn, index, call)?.iter().enumerate() {
            prompt.text(if place > 0 { "\n" } else { "" });
            let text = value.as_str().map(str::to_owned);
            own(prompt, "<｜DSML｜parameter name=\"").text(name);
            prompt.text(if text.is_some() { "\" string=\"true\">" } else { "\" string=\"false\">" });
            prompt.text(&text.unwrap_or_else(|| python_json::dumps(value, None)));
            own(prompt, "</｜DSML｜parameter>");
        }
        own(prompt, "\n</｜DSML｜invoke>");
    }
    own(prompt, "\n</｜DSML｜function_calls>");
    Ok(())
}

fn arguments(turn: Turn<'_>, index: usize, call: &ToolCall) -> Result<Map<String, Value>> {
    match &call.function.arguments {
        Arguments::Object(object) => Ok(object.clone()),
        Arguments::Text(text) => serde_json::from_str(text).map_err(|_| {
            turn.malformed(format!("tool_calls[{index}].function.arguments"), "a JSON object", text)
        }),
    }
}

/// What a message tells the model beside its text: functions, and the form of the answer.
struct Announced<'a> {
    functions: Vec<&'a Value>,
    format: Option<&'a Value>,
}

impl<'a> Announced<'a> {
    fn by_request(request: &'a ChatRequest) -> Self {
        let functions = request.tools.iter().map(|tool| &tool.as_json()["function"]).collect();
        // Of other forms than a schema the source says nothing.
        let format = request.response_format.as_ref().and_then(|format| format["json_schema"].get("schema"));
        Self { functions, format: format.filter(|schema| !schema.is_null()) }
    }

    fn by_message(message: &'a Message) -> Self {
        let tools = message.extra.get("tools").and_then(Value::as_array);
        let functions = tools.into_iter().flatten().map(|tool| &tool["function"]).collect();
        Self { functions, format: message.extra.get("response_format").filter(|format| !format.is_null()) }
    }

    /// Fills what is not announced with `other`.
    fn or(self, other: Self) -> Self {
        let functions = if self.functions.is_empty() { other.functions } else { self.functions };
        Self { functions, format: self.format.or(other.format) }
    }

    fn write(&self, prompt: &mut Prompt) {
        if !self.functions.is_empty() {
            own(prompt, TOOLS);
            for function in &self.functions {
                prompt.text(&python_json::dumps(function, None)).text("\n");
            }
            prompt.text("</functions>\n");
        }
        if let Some(format) = self.format {
            prompt.text(RESPONSE_FORMAT).text(&python_json::dumps(format, None));
        }
    }
}

/// Appends a text of this file, in which the markers are control tokens.
fn own<'p>(prompt: &'p mut Prompt, mut text: &str) -> &'p mut Prompt {
    let first = |text: &str| {
        let found = [DSML, THINK, END_THINK].map(|marker| text.find(marker).map(|at| (at, marker)));
        found.into_iter().flatten().min()
    };
    while let Some((at, marker)) = first(text) {
        prompt.text(&text[..at]).control(marker);
        text = &text[at + marker.len()..];
    }
    prompt.text(text)
}
