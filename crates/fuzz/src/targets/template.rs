//! Conversations to prompts: no text of a stranger changes the control tokens of a prompt, and a prompt's ids spell it.

use std::time::UNIX_EPOCH;

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};
use text::{
    ChatRequest, ChatTemplate, Error, Generation, Prompt, PromptFormat, Segment, SpecialTokens, Tokenizer,
};

use super::tokenizer;
use crate::Target;
use crate::words::Words;

/// Parts of templates, one a line. None doubles a string: a template may use the memory that it asks for.
const JINJA: &str = "{% for m in messages %}
{% endfor %}
{% if m.role == 'user' %}
{% elif tools %}
{% else %}
{% endif %}
{{ m.content }}
{{ messages[0]['content'] | trim }}
{{ messages | tojson }}
{{ tools | tojson(indent=2) }}
{% set x = m.content.split('</think>')[-1] %}
{{ x[::-1] }}
{{ x.strip() | upper }}
{%- macro f(a) -%}
{%- endmacro -%}
{{ f(messages[-1]) }}
{{ raise_exception('no') }}
{% break %}
{{ strftime_now('%d %b %Y') }}
{% set x = messages | length %}
{{ bos_token
| join(',')
}}
{%
%}
{#";

/// What requests are made of.
const FIELDS: &str = "role system user assistant tool latest_reminder content reasoning_content tool_calls tools prefix \
    thinking reasoning_effort high max none required name continue_final_message add_generation_prompt \
    response_format tool_choice arguments strict type json_schema json_object schema parameters description id text";

/// Every [`Generation`]'s encoder, a checkpoint's template, and templates of all kinds.
pub struct TemplateTarget {
    tokenizer: Tokenizer,
    format: PromptFormat,
    words: Words,
    jinja: Words,
    conversations: [Value; 2],
}

impl Target for TemplateTarget {
    fn new() -> Self {
        let tokenizer = tokenizer();
        let format = PromptFormat::new(&tokenizer, "deepseek_v3").unwrap();
        let (words, jinja) = (Words::new(FIELDS.split(' ')), Words::new(JINJA.lines()));
        Self { tokenizer, format, words, jinja, conversations: conversations() }
    }

    fn run(&self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let which = bytes.int_in_range(0..=Generation::ALL.len() + 1)?;
        let mut conversation = bytes.choose(&self.conversations)?.clone();
        self.words.edit(&mut conversation, bytes)?;
        let Ok(request) = serde_json::from_value::<ChatRequest>(conversation.clone()) else { return Ok(()) };
        let harmless = serde_json::from_value::<ChatRequest>(harmless(&conversation)).unwrap();
        match Generation::ALL.get(which) {
            Some(generation) => {
                let (given, twin) = (generation.encode(&request), generation.encode(&harmless));
                assert_eq!(given.is_ok(), twin.is_ok(), "{generation:?} {conversation}: {given:?}, {twin:?}");
                self.check(given, twin, &conversation);
            }
            None if which == Generation::ALL.len() => {
                self.check(self.format.render(&request), self.format.render(&harmless), &conversation);
            }
            None => {
                let source = self.jinja.text(bytes)?;
                let Ok(template) = ChatTemplate::new(&source, &self.tokenizer) else { return Ok(()) };
                if let Ok(prompt) = template.render_at(&request, UNIX_EPOCH) {
                    self.check_ids(&prompt);
                }
            }
        }
        Ok(())
    }
}

impl TemplateTarget {
    fn check(&self, given: text::Result<Prompt>, twin: text::Result<Prompt>, conversation: &Value) {
        if let (Ok(given), Ok(twin)) = (given, twin) {
            assert_eq!(controls(&given), controls(&twin), "{conversation}");
            self.check_ids(&given);
        }
    }

    fn check_ids(&self, prompt: &Prompt) {
        match self.tokenizer.encode_prompt(prompt) {
            Ok(ids) => assert_eq!(self.tokenizer.decode(&ids, SpecialTokens::Show), prompt.to_string()),
            // Most generations have tokens that the demo model lacks.
            Err(Error::UnknownControlToken { .. }) => {}
            Err(error) => panic!("{error}: {prompt:?}"),
        }
    }
}

fn controls(prompt: &Prompt) -> Vec<&str> {
    let is_control = |segment: &&Segment| matches!(segment, Segment::Control(_));
    prompt.segments().iter().filter(is_control).map(Segment::as_str).collect()
}

/// The same conversation with other characters in the place of those that spell control tokens.
fn harmless(conversation: &Value) -> Value {
    let other = |c| match c {
        '<' => '‹',
        '>' => '›',
        '｜' => '¦',
        '|' => '⏐',
        '▁' => '‗',
        c => c,
    };
    serde_json::from_str(&conversation.to_string().chars().map(other).collect::<String>()).unwrap()
}

fn conversations() -> [Value; 2] {
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
    let function =
        json!({"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {}}}});
    let plain = json!([
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "c", "reasoning_content": "r"},
    ]);
    let calling = json!([
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [call]},
        {"role": "tool", "content": "t", "tool_call_id": "1"},
    ]);
    [
        json!({"messages": plain, "continue_final_message": false, "thinking": true}),
        json!({"messages": calling, "tools": [{"type": "function", "function": function}], "tool_choice": "auto"}),
    ]
}
