//! The dated tables: names of models, names of efforts. They are data inside the program, so that a change upstream is
//! a change of a table.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::ServerError;

const ALIASES: &str = include_str!("data/aliases.toml");
const EFFORTS: &str = include_str!("data/efforts.toml");

/// A name that stands for the served model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alias {
    name: String,
    /// The mode that the name stands for; `None` for either.
    thinking: Option<bool>,
    #[expect(dead_code, reason = "for the reader of the table")]
    source: String,
}

/// Names that stand for the served model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Aliases {
    #[expect(dead_code, reason = "for the reader of the table")]
    as_of: String,
    #[serde(rename = "alias")]
    aliases: Vec<Alias>,
}

impl Aliases {
    /// The table inside the program.
    pub(crate) fn embedded() -> Result<Self, ServerError> {
        read("aliases.toml", ALIASES)
    }

    /// The mode that `name` stands for; `None` if it is no alias.
    pub(crate) fn resolve(&self, name: &str) -> Option<Option<bool>> {
        let matches = |alias: &&Alias| match alias.name.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == alias.name,
        };
        self.aliases.iter().find(matches).map(|alias| alias.thinking)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct EffortFile {
    #[serde(rename = "table")]
    tables: Vec<EffortTable>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct EffortTable {
    /// As `YYYY-MM-DD`, which sorts.
    since: String,
    #[expect(dead_code, reason = "for the reader of the table")]
    source: String,
    effort: BTreeMap<String, String>,
}

/// What the names of `reasoning_effort` mean.
#[derive(Debug, Clone)]
pub(crate) struct Efforts {
    effort: BTreeMap<String, String>,
}

impl Efforts {
    /// The newest table inside the program.
    pub(crate) fn embedded() -> Result<Self, ServerError> {
        let file: EffortFile = read("efforts.toml", EFFORTS)?;
        match file.tables.into_iter().max_by(|a, b| a.since.cmp(&b.since)) {
            Some(table) => Ok(Self { effort: table.effort }),
            None => Err(ServerError::Table { name: "efforts.toml", reason: "no table".to_owned() }),
        }
    }

    /// The effort that `name` means, which is `None` for no reasoning; `None` if there is no such name.
    pub(crate) fn resolve(&self, name: &str) -> Option<Option<&str>> {
        self.effort.get(name).map(|effort| Some(effort.as_str()).filter(|&effort| effort != "off"))
    }

    /// All names.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.effort.keys().map(String::as_str).collect()
    }
}

fn read<T: serde::de::DeserializeOwned>(name: &'static str, text: &str) -> Result<T, ServerError> {
    toml::from_str(text).map_err(|error| ServerError::Table { name, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_table_of_efforts_counts() {
        let efforts = Efforts::embedded().unwrap();
        assert_eq!(efforts.resolve("none"), Some(None));
        assert_eq!(efforts.resolve("xhigh"), Some(Some("high")));
        assert_eq!(efforts.resolve("ultra"), Some(Some("max")));
        assert_eq!(efforts.resolve("extreme"), None);
    }

    #[test]
    fn aliases_may_end_with_a_star() {
        let aliases = Aliases::embedded().unwrap();
        assert_eq!(aliases.resolve("deepseek-chat"), Some(Some(false)));
        assert_eq!(aliases.resolve("deepseek-reasoner"), Some(Some(true)));
        assert_eq!(aliases.resolve("claude-sonnet-4-6"), Some(None));
        assert_eq!(aliases.resolve("deepseek-chat-2"), None);
    }
}
