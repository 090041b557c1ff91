//! [`Dialect`]: whose word counts where OpenAI's API and DeepSeek's disagree.

use std::str::FromStr;

use text::Generation;

use crate::request::Mode;

/// Whose defaults, limits and error texts the OpenAI-shaped routes follow. DeepSeek's extensions (thinking, prefix
/// completion, FIM, cache figures in the usage) are there in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// OpenAI's: `n` up to 128, reasoning only on request, errors that name `param` and `code`.
    #[default]
    OpenAi,
    /// DeepSeek's: `n` is 1, the model reasons unless told otherwise, sampling options count only without reasoning,
    /// errors in its words.
    DeepSeek,
}

impl Dialect {
    /// Tokens of an answer whose request says nothing; `None` goes on to the end of the context.
    pub(crate) fn default_max_tokens(self, mode: &Mode) -> Option<usize> {
        match (self, mode.thinking, mode.is_max) {
            (Self::OpenAi, ..) => None,
            (Self::DeepSeek, Some(true), true) => Some(131_072),
            (Self::DeepSeek, Some(true), _) => Some(65_536),
            (Self::DeepSeek, ..) => Some(8192),
        }
    }

    /// Whether `temperature`, the filters and the penalties of a request count: a reasoning model of DeepSeek's samples
    /// as it was trained to, and says nothing about options that would change that.
    pub(crate) fn heeds_sampling(self, mode: &Mode) -> bool {
        self == Self::OpenAi || mode.thinking != Some(true)
    }

    /// The `top_p` that DeepSeek's own service samples V4 and V4.1 with, whatever the client wishes; `None` where
    /// that has no rule (deepseek-recipe 0.2, `request/options.rs`).
    pub(crate) fn top_p(
        self,
        generation: Option<Generation>,
        thinking: Option<bool>,
        has_tools: bool,
        wished: f32,
    ) -> Option<f32> {
        use Generation::{V4, V4_0731, V41};
        match (self, generation?, thinking?) {
            (Self::DeepSeek, V4 | V4_0731, true) => Some(if has_tools { 0.95 } else { 1.0 }),
            (Self::DeepSeek, V41, true) => Some(wished.max(0.95)),
            (Self::DeepSeek, V41, false) => Some(1.0),
            _ => None,
        }
    }

    /// What stands between the text parts of one message.
    pub(crate) fn part_separator(self) -> &'static str {
        match self {
            Self::OpenAi => "\n",
            Self::DeepSeek => "\n\n",
        }
    }
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "openai" => Ok(Self::OpenAi),
            "deepseek" => Ok(Self::DeepSeek),
            _ => Err("expected openai or deepseek".to_owned()),
        }
    }
}

impl std::fmt::Display for Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OpenAi => "openai",
            Self::DeepSeek => "deepseek",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deepseek_samples_its_newest_models_as_it_was_trained_to() {
        let top_p = |dialect: Dialect, generation, thinking, has_tools| {
            dialect.top_p(Some(generation), Some(thinking), has_tools, 0.5)
        };
        use Dialect::{DeepSeek, OpenAi};
        use Generation::{R1, V4, V4_0731, V41};
        assert_eq!(
            [top_p(DeepSeek, V4, true, false), top_p(DeepSeek, V4_0731, true, true)],
            [Some(1.0), Some(0.95)]
        );
        assert_eq!(
            [top_p(DeepSeek, V41, true, false), top_p(DeepSeek, V41, false, true)],
            [Some(0.95), Some(1.0)]
        );
        assert_eq!(DeepSeek.top_p(Some(V41), Some(true), false, 0.99), Some(0.99));
        // Everything else is the client's to say.
        assert_eq!([top_p(DeepSeek, V4, false, true), top_p(DeepSeek, R1, true, true)], [None; 2]);
        assert_eq!([top_p(OpenAi, V4, true, true), top_p(OpenAi, V41, false, false)], [None; 2]);
    }
}
