//! [`Dialect`]: whose word counts where OpenAI's API and DeepSeek's disagree.

use std::str::FromStr;

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
