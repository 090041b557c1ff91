//! [`EffortTable`]: what the names of reasoning efforts mean to V4 and V4.1, by the date of the weights.
//!
//! The names are those of the APIs; a tier is what the prompt says. The tiers are DeepSeek's crate's, whose V4 prompts know the tiers of July
//! 2026: `Low` writes nothing, `High` and `Max` each a text. The weights of April know the first text as `max` and no other.

use deepseek_recipe_core::conversation::ReasoningEffort;

use crate::error::{Error, Result};

/// Names of efforts and what they write.
#[derive(Debug)]
pub(super) struct EffortTable {
    /// First day of the weights that this table is for.
    pub(super) since: &'static str,
    /// What holds when the request names none.
    default: &'static str,
    tiers: &'static [(&'static str, ReasoningEffort)],
}

/// V4-Flash and V4-Pro as first released.
pub(super) const V4: EffortTable = EffortTable {
    since: "2026-04-22",
    default: "high",
    tiers: &[
        ("minimal", ReasoningEffort::Low),
        ("low", ReasoningEffort::Low),
        ("medium", ReasoningEffort::Low),
        ("high", ReasoningEffort::Low),
        ("xhigh", ReasoningEffort::High),
        ("max", ReasoningEffort::High),
        ("ultra", ReasoningEffort::High),
    ],
};

/// V4-Flash-0731 and later V4 weights.
pub(super) const V4_0731: EffortTable = EffortTable {
    since: "2026-07-31",
    default: "high",
    tiers: &[
        ("minimal", ReasoningEffort::Low),
        ("low", ReasoningEffort::Low),
        ("medium", ReasoningEffort::High),
        ("high", ReasoningEffort::High),
        ("xhigh", ReasoningEffort::Xhigh),
        ("max", ReasoningEffort::Max),
        ("ultra", ReasoningEffort::Max),
    ],
};

/// V4.1-Flash: the names of 0731; the prompt says a number.
pub(super) const V41: EffortTable = EffortTable { since: "2026-09-10", ..V4_0731 };

impl EffortTable {
    /// The tier of a name.
    ///
    /// # Errors
    /// [`Error::UnknownEffort`].
    pub(super) fn tier(&self, name: Option<&str>) -> Result<ReasoningEffort> {
        let name = name.unwrap_or(self.default);
        let tier = self.tiers.iter().find(|(tier, _)| *tier == name);
        tier.map(|(_, tier)| *tier).ok_or_else(|| Error::UnknownEffort {
            found: name.to_owned(),
            expected: self.names().collect::<Vec<_>>().join(", "),
        })
    }

    /// The names, from little to much.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.tiers.iter().map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_knows_its_default_and_names_what_it_expects() {
        for table in [&V4, &V4_0731, &V41] {
            assert_eq!(table.tier(None).unwrap(), table.tier(Some("high")).unwrap());
            assert_eq!(table.names().count(), 7);
            let error = table.tier(Some("huge")).unwrap_err().to_string();
            assert!(error.contains("huge") && error.contains("minimal, low, medium"), "{error}");
        }
        assert!(V4.since < V4_0731.since && V4_0731.since < V41.since);
    }
}
