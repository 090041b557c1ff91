//! Which generation a checkpoint is of: [`CheckpointFacts`] and [`Generation::detect`].

use super::{Generation, markers};
use crate::tokenizer::Tokenizer;

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
            "deepseek_v32" => Some(Self::V32),
            // Nothing in a checkpoint tells the weights of April from later ones; a server may say which.
            "deepseek_v4" => Some(Self::V4_0731),
            "deepseek_v41" => Some(Self::V41),
            "qwen2" | "llama" if facts.has_token(markers::USER) => distill,
            "llama" if facts.has_token(markers::EOT) => Some(Self::CoderV1),
            "llama" if facts.has_token(markers::BOS) => Some(Self::V2),
            _ => None,
        }
    }

    fn detect_by_template(template: &str, distill: Option<Self>) -> Option<Self> {
        let has = |part: &str| template.contains(part);
        if has(markers::DSML) {
            return Self::detect_by_tags(&has);
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

    /// Among the generations whose tool calls are tags: V3.2 calls its list `function_calls`, V4.1 has a space in every tag.
    fn detect_by_tags(has: &impl Fn(&str) -> bool) -> Option<Self> {
        if has("function_calls") {
            Some(Self::V32)
        } else if has(" calls>") || has("<｜System｜>") {
            Some(Self::V41)
        } else if has("Absolute maximum") && !has("Beyond maximum") {
            Some(Self::V4)
        } else {
            Some(Self::V4_0731)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_tell_their_generation() {
        for (template, model_type, expected) in [
            ("{{ 'User: ' + c }}{{ 'Assistant:' }}", "deepseek_v2", Some(Generation::V2)),
            ("{{'<｜User｜>' + c + '<｜Assistant｜>'}}", "deepseek_v3", Some(Generation::V3)),
            ("{{'<｜User｜>' + c}}{{'<｜Assistant｜><think>\\n'}}", "deepseek_v3", Some(Generation::R1)),
            ("{{'<｜User｜>' + c}}{{'<｜Assistant｜><think>\\n'}}", "qwen2", Some(Generation::DistillQwen)),
            ("{{'<｜User｜>' + c}}{{'<｜Assistant｜></think>'}}", "deepseek_v3", Some(Generation::V31)),
            ("{{'### Instruction:\\n'}}", "llama", Some(Generation::CoderV1)),
            ("<｜User｜> <｜DSML｜function_calls>", "deepseek_v32", Some(Generation::V32)),
            ("<｜User｜> <｜DSML｜tool_calls>", "deepseek_v4", Some(Generation::V4_0731)),
            ("Absolute maximum <｜DSML｜tool_calls>", "deepseek_v4", Some(Generation::V4)),
            (
                "Absolute maximum Beyond maximum <｜DSML｜tool_calls>",
                "deepseek_v4",
                Some(Generation::V4_0731),
            ),
            ("<｜System｜> <｜DSML｜ calls>", "deepseek_v41", Some(Generation::V41)),
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
        assert_eq!(detect(Some("deepseek_v32")), Some(Generation::V32));
        assert_eq!(detect(Some("deepseek_v4")), Some(Generation::V4_0731));
        assert_eq!(detect(Some("deepseek_v41")), Some(Generation::V41));
        assert_eq!(detect(Some("llama")), None);
        assert_eq!(detect(None), None);
    }
}
