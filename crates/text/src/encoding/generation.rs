//! `Generation`: the chat formats this build can write, and how to tell a checkpoint's.

use crate::chat::{ChatRequest, Tool};
use crate::error::{Error, Result};
use crate::output::OutputParser;
use crate::output::calls::CallForm;
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

use super::{coder_v1, distill, markers, r1, v2, v3, v31};

/// A generation of DeepSeek chat formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Generation {
    /// DeepSeek-LLM, DeepSeek-MoE, V2, V2-Lite, Coder-V2: `User: … Assistant: …`.
    V2,
    /// V3 and V3-0324.
    V3,
    /// R1 and R1-0528: reasoning always on.
    R1,
    /// V3.1 and V3.1-Terminus: reasoning by request.
    V31,
    /// R1-Distill-Qwen.
    DistillQwen,
    /// R1-Distill-Llama.
    DistillLlama,
    /// DeepSeek-Coder v1 instruct.
    CoderV1,
}

/// Whether the models of a format reason before they answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thinking {
    /// There is no reasoning.
    Never,
    /// As the request says.
    Optional {
        /// What holds when the request says nothing.
        default: bool,
    },
    /// Always, whatever the request says.
    Always,
}

/// What is known of a checkpoint when its prompt format has to be found.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckpointFacts<'a> {
    /// `model_type` of config.json.
    pub model_type: Option<&'a str>,
    /// The tokenizer.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The chat template's text, if there is one.
    pub chat_template: Option<&'a str>,
}

impl CheckpointFacts<'_> {
    fn has_token(&self, token: &str) -> bool {
        self.tokenizer.is_some_and(|tokenizer| tokenizer.id_of_token(token).is_some())
    }
}

impl Generation {
    /// All generations of this build.
    pub const ALL: [Self; 7] =
        [Self::V2, Self::V3, Self::R1, Self::V31, Self::DistillQwen, Self::DistillLlama, Self::CoderV1];

    /// The generation's name in prompt files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V3 => "v3",
            Self::R1 => "r1",
            Self::V31 => "v31",
            Self::DistillQwen => "distill_qwen",
            Self::DistillLlama => "distill_llama",
            Self::CoderV1 => "coder_v1",
        }
    }

    /// The generation of that name, `None` when this build does not know it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|generation| generation.name() == name)
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`Error::UnknownRole`], [`Error::MissingField`] and [`Error::CannotContinue`] for conversations without a form,
    /// [`Error::Unsupported`] for tools where the generation has no official text for them.
    pub fn encode(self, request: &ChatRequest) -> Result<Prompt> {
        self.check_features(request)?;
        let continued = request.continued()?.is_some();
        let open_turn = request.add_generation_prompt && !continued;
        let mut prompt = match self {
            Self::V2 => v2::encode(request, open_turn),
            Self::V3 => v3::encode(request, open_turn),
            Self::R1 => r1::encode(request, open_turn),
            Self::V31 => v31::encode(request, open_turn),
            Self::DistillQwen | Self::DistillLlama => distill::encode(request, open_turn),
            Self::CoderV1 => coder_v1::encode(request, open_turn),
        }?;
        if continued {
            self.reopen(&mut prompt);
        }
        Ok(prompt)
    }

    /// A parser for one answer of such a model. `starts_in_reasoning` is [`Prompt::opens_reasoning`] of its prompt, `tools` are those that
    /// it was offered; without tools, markers of tool calls are text.
    pub fn parser(self, starts_in_reasoning: bool, tools: &[Tool]) -> OutputParser {
        match self.call_form() {
            Some(form) => OutputParser::with_calls(starts_in_reasoning, form, tools),
            None => OutputParser::plain(starts_in_reasoning),
        }
    }

    /// Whether [`Generation::encode`] can announce tools to the model.
    pub fn takes_tools(self) -> bool {
        self == Self::V31
    }

    /// Whether the models reason before they answer.
    pub fn thinking(self) -> Thinking {
        match self {
            Self::V2 | Self::V3 | Self::CoderV1 => Thinking::Never,
            Self::R1 | Self::DistillQwen | Self::DistillLlama => Thinking::Always,
            Self::V31 => Thinking::Optional { default: false },
        }
    }

    /// How the models write calls of tools.
    pub(crate) fn call_form(self) -> Option<CallForm> {
        match self {
            Self::V2 | Self::CoderV1 => None,
            Self::V3 | Self::R1 | Self::DistillQwen | Self::DistillLlama => Some(CallForm::Fenced),
            Self::V31 => Some(CallForm::Bare),
        }
    }

    fn check_features(self, request: &ChatRequest) -> Result<()> {
        let unsupported = |feature| Err(Error::Unsupported { generation: self.name(), feature });
        if !request.tools.is_empty() && !self.takes_tools() {
            return unsupported("a list of tools");
        }
        let speaks_of_tools = request.messages.iter().any(|message| !message.tool_calls.is_empty());
        if speaks_of_tools && matches!(self, Self::V2 | Self::CoderV1) {
            return unsupported("a message with tool calls");
        }
        Ok(())
    }

    /// Takes back what closed the last assistant message, so that the model goes on with it.
    fn reopen(self, prompt: &mut Prompt) {
        let closing = match self {
            Self::CoderV1 => concat!("\n", "<|EOT|>", "\n"),
            _ => markers::EOS,
        };
        let length = prompt.to_string().len();
        prompt.truncate(length - closing.len());
    }

    /// Finds the generation of a checkpoint: by its template's text where there is one, else by model type and tokenizer.
    ///
    /// `None` when the checkpoint is of a generation that this build does not write.
    pub fn detect(facts: &CheckpointFacts<'_>) -> Option<Self> {
        let distill = match facts.model_type {
            Some("qwen2") => Some(Self::DistillQwen),
            Some("llama") => Some(Self::DistillLlama),
            _ => None,
        };
        if let Some(template) = facts.chat_template {
            return Self::detect_by_template(template, distill);
        }
        match facts.model_type? {
            "deepseek" | "deepseek_v2" => Some(Self::V2),
            // One architecture and almost one tokenizer: V3.1 brought the search tokens, R1 the reasoning tags.
            "deepseek_v3" if facts.has_token("<｜search▁begin｜>") => Some(Self::V31),
            "deepseek_v3" if facts.has_token(markers::THINK) => Some(Self::R1),
            "deepseek_v3" => Some(Self::V3),
            "qwen2" | "llama" if facts.has_token(markers::USER) => distill,
            "llama" if facts.has_token(markers::EOT) => Some(Self::CoderV1),
            "llama" if facts.has_token(markers::BOS) => Some(Self::V2),
            _ => None,
        }
    }

    fn detect_by_template(template: &str, distill: Option<Self>) -> Option<Self> {
        let has = |part: &str| template.contains(part);
        if has("｜DSML｜") {
            return None;
        }
        if has(markers::USER) {
            let generation = if has("<｜Assistant｜></think>") || has("thinking") {
                Self::V31
            } else if has("<｜Assistant｜><think>") || has("'</think>' in content") {
                distill.unwrap_or(Self::R1)
            } else {
                Self::V3
            };
            return Some(generation);
        }
        if has("### Instruction:") {
            return Some(Self::CoderV1);
        }
        (has("'User: '") && has("Assistant:")).then_some(Self::V2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for generation in Generation::ALL {
            assert_eq!(Generation::from_name(generation.name()), Some(generation));
        }
        assert_eq!(Generation::from_name("v99"), None);
    }

    #[test]
    fn templates_tell_their_generation() {
        for (template, model_type, expected) in [
            ("{{ 'User: ' + c }}{{ 'Assistant:' }}", "deepseek_v2", Some(Generation::V2)),
            ("{{'<｜User｜>' + c + '<｜Assistant｜>'}}", "deepseek_v3", Some(Generation::V3)),
            ("{{'<｜User｜>' + c}}{{'<｜Assistant｜><think>\\n'}}", "deepseek_v3", Some(Generation::R1)),
            ("{{'<｜User｜>' + c}}{{'<｜Assistant｜><think>\\n'}}", "qwen2", Some(Generation::DistillQwen)),
            ("{{'<｜User｜>' + c}}{{'<｜Assistant｜></think>'}}", "deepseek_v3", Some(Generation::V31)),
            ("{{'### Instruction:\\n'}}", "llama", Some(Generation::CoderV1)),
            ("<｜User｜> <｜DSML｜tool_calls>", "deepseek_v4", None),
            ("[INST]", "llama", None),
        ] {
            let facts = CheckpointFacts {
                model_type: Some(model_type),
                chat_template: Some(template),
                tokenizer: None,
            };
            assert_eq!(Generation::detect(&facts), expected, "{template}");
        }
    }

    #[test]
    fn without_a_template_the_model_type_decides() {
        let detect = |model_type| Generation::detect(&CheckpointFacts { model_type, ..Default::default() });
        assert_eq!(detect(Some("deepseek_v2")), Some(Generation::V2));
        assert_eq!(detect(Some("deepseek_v3")), Some(Generation::V3));
        assert_eq!(detect(Some("deepseek_v4")), None);
        assert_eq!(detect(Some("llama")), None);
        assert_eq!(detect(None), None);
    }
}
