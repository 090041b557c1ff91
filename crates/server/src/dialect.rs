//! [`Dialect`]: whose word counts where OpenAI's API and DeepSeek's disagree.

use std::str::FromStr;

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
