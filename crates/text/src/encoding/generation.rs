//! `Generation`: the chat formats this build can write and read.

use crate::chat::{ChatRequest, Tool};
use crate::error::{Error, Result};
use crate::output::calls::CallForm;
use crate::output::{OutputParser, OutputStart};
use crate::prompt::Prompt;

use super::v4::{self, Version};
use super::{coder_v1, distill, markers, r1, v2, v3, v31, v32};

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
    /// V3.2 and V3.2-Speciale: calls of tools as tags.
    V32,
    /// V4-Flash and V4-Pro as first released, in April 2026.
    V4,
    /// V4-Flash-0731 and later V4 weights: other names of reasoning efforts.
    V4_0731,
    /// V4.1-Flash.
    V41,
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

impl Generation {
    /// All generations of this build.
    pub const ALL: [Self; 11] = [
        Self::V2,
        Self::V3,
        Self::R1,
        Self::V31,
        Self::V32,
        Self::V4,
        Self::V4_0731,
        Self::V41,
        Self::DistillQwen,
        Self::DistillLlama,
        Self::CoderV1,
    ];

    /// The generation's name in prompt files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V3 => "v3",
            Self::R1 => "r1",
            Self::V31 => "v31",
            Self::V32 => "v32",
            Self::V4 => "v4",
            Self::V4_0731 => "v4_0731",
            Self::V41 => "v41",
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
            Self::V32 => v32::encode(request, open_turn),
            Self::V4 => v4::encode(Version::V4, request, open_turn),
            Self::V4_0731 => v4::encode(Version::V4_0731, request, open_turn),
            Self::V41 => v4::encode(Version::V41, request, open_turn),
            Self::DistillQwen | Self::DistillLlama => distill::encode(request, open_turn),
            Self::CoderV1 => coder_v1::encode(request, open_turn),
        }?;
        // V4's encoder leaves the last message open by itself.
        if continued && self.version().is_none() {
            self.reopen(&mut prompt);
        }
        Ok(prompt)
    }

    /// Names of reasoning efforts that requests may use, from little to much; empty where the prompt has no place for one.
    pub fn efforts(self) -> Vec<&'static str> {
        self.version().map_or_else(Vec::new, |version| version.efforts().names().collect())
    }

    /// First day (ISO 8601) of the weights that the table of efforts is for.
    pub fn efforts_since(self) -> Option<&'static str> {
        self.version().map(|version| version.efforts().since)
    }

    /// The generations that DeepSeek's own crate writes.
    fn version(self) -> Option<Version> {
        match self {
            Self::V4 => Some(Version::V4),
            Self::V4_0731 => Some(Version::V4_0731),
            Self::V41 => Some(Version::V41),
            _ => None,
        }
    }

    /// A parser for one answer of such a model. `start` is its [`Prompt`], or [`Prompt::opens_reasoning`] of it; `tools` are those that it
    /// was offered; without tools, markers of tool calls are text.
    pub fn parser(self, start: impl Into<OutputStart>, tools: &[Tool]) -> OutputParser {
        let start = start.into();
        match self {
            Self::V2 | Self::CoderV1 => OutputParser::plain(start),
            Self::V3 | Self::R1 | Self::DistillQwen | Self::DistillLlama => {
                OutputParser::with_calls(start, CallForm::Fenced, tools)
            }
            Self::V31 => OutputParser::with_calls(start, CallForm::Bare, tools),
            Self::V32 => OutputParser::with_tagged_calls(start, tools),
            Self::V4 | Self::V4_0731 | Self::V41 => OutputParser::dsml(start, tools),
        }
    }

    /// Whether [`Generation::encode`] can announce tools to the model.
    pub fn takes_tools(self) -> bool {
        matches!(self, Self::V31 | Self::V32) || self.version().is_some()
    }

    /// Whether the models call tools in a form that [`Generation::parser`] reads.
    pub fn calls_tools(self) -> bool {
        !matches!(self, Self::V2 | Self::CoderV1)
    }

    /// Whether the models reason before they answer.
    pub fn thinking(self) -> Thinking {
        match self {
            Self::V2 | Self::V3 | Self::CoderV1 => Thinking::Never,
            Self::R1 | Self::DistillQwen | Self::DistillLlama => Thinking::Always,
            Self::V31 | Self::V32 => Thinking::Optional { default: false },
            Self::V4 | Self::V4_0731 | Self::V41 => Thinking::Optional { default: true },
        }
    }

    fn check_features(self, request: &ChatRequest) -> Result<()> {
        let unsupported = |feature| Err(Error::Unsupported { generation: self.name(), feature });
        if !request.tools.is_empty() && !self.takes_tools() {
            return unsupported("a list of tools");
        }
        let speaks_of_tools = request.messages.iter().any(|message| !message.tool_calls.is_empty());
        if speaks_of_tools && !self.calls_tools() {
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
}
