//! [`Tolerances`]: how far a value may be from its reference, by key.

use std::str::FromStr;

use super::Key;
use crate::Error;

/// The rule for every key: a default by prompt length, replaced by one number for all, replaced by patterns.
///
/// The defaults are what two sound single-precision implementations of these models keep, with room to spare: 1e-4
/// up to 7 tokens, 3e-4 up to 33, 1e-3 beyond and for greedy logits. Token ids and expert ids are always exact.
#[derive(Debug, Clone, Default)]
pub struct Tolerances {
    /// Replaces every default.
    pub all: Option<f64>,
    /// `(pattern, value)`: the last pattern that matches a key wins over everything else.
    pub by_key: Vec<KeyTolerance>,
}

/// `PATTERN=VALUE`; in the pattern `*` stands for any characters.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyTolerance {
    pattern: String,
    value: f64,
}

impl Tolerances {
    /// Checks the numbers, and that every pattern matches one of `keys`: a misspelt pattern would loosen nothing.
    pub(crate) fn check<'k>(&self, keys: impl Iterator<Item = &'k str> + Clone) -> Result<(), Error> {
        for value in self.all.iter().chain(self.by_key.iter().map(|k| &k.value)) {
            if !(value.is_finite() && *value >= 0.0) {
                return Err(Error::option("tolerance", "a finite number of at least 0", value));
            }
        }
        for KeyTolerance { pattern, .. } in &self.by_key {
            if !keys.clone().any(|key| matches(pattern, key)) {
                return Err(Error::option("tolerance-key", "a pattern that matches a golden key", pattern));
            }
        }
        Ok(())
    }

    pub(crate) fn of(&self, name: &str, key: &Key) -> f64 {
        let by_key = self.by_key.iter().rev().find(|k| matches(&k.pattern, name)).map(|k| k.value);
        by_key.or(self.all).unwrap_or(match key.prompt() {
            Some(..=7) => 1e-4,
            Some(..=33) => 3e-4,
            _ => 1e-3,
        })
    }
}

impl FromStr for KeyTolerance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pattern, value) = text.rsplit_once('=').ok_or("expected PATTERN=VALUE")?;
        let value: f64 =
            value.parse().map_err(|_| format!("expected a number after `=`, found `{value}`"))?;
        if pattern.is_empty() {
            return Err("expected a pattern before `=`".to_owned());
        }
        Ok(Self { pattern: pattern.to_owned(), value })
    }
}

/// Whether `text` fits `pattern`, where `*` stands for any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_run() {
        for (pattern, text, expected) in [
            ("p7.logits", "p7.logits", true),
            ("p7.logits", "p7.logits_f64", false),
            ("p7.*", "p7.logits_f64", true),
            ("*.logits", "p130.logits", true),
            ("p*.router.*.weights", "p33.router.layer2.weights", true),
            ("p*.router.*.weights", "p33.router.layer2.logits", false),
            ("*", "anything", true),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn the_last_pattern_wins_over_the_number_for_all() {
        let tolerances = Tolerances {
            all: Some(0.5),
            by_key: ["p7.*=0.1", "p7.logits=0.2"].map(|t| t.parse().unwrap()).to_vec(),
        };
        let of = |name| tolerances.of(name, &Key::parse(name));
        assert_eq!([of("p7.logits"), of("p7.logits_f64"), of("p1.logits")], [0.2, 0.1, 0.5]);
    }

    #[test]
    fn defaults_grow_with_the_prompt() {
        let of = |name| Tolerances::default().of(name, &Key::parse(name));
        assert_eq!([of("p1.logits"), of("p7.logits"), of("p8.logits")], [1e-4, 1e-4, 3e-4]);
        assert_eq!([of("p33.hidden.embed"), of("p34.logits"), of("greedy.logits")], [3e-4, 1e-3, 1e-3]);
    }

    #[test]
    fn senseless_numbers_and_misspelt_patterns_are_refused() {
        let check = |all, by_key: &[&str]| {
            let by_key = by_key.iter().map(|t| t.parse().unwrap()).collect();
            Tolerances { all, by_key }.check(["p7.logits"].into_iter())
        };
        assert!(check(Some(0.1), &["p7.*=1"]).is_ok());
        for error in [
            check(Some(f64::NAN), &[]),
            check(Some(-1.0), &[]),
            check(None, &["p7.*=inf"]),
            check(None, &["p8.*=1"]),
        ] {
            assert!(matches!(error, Err(Error::Option { .. })));
        }
        assert!("nothing".parse::<KeyTolerance>().is_err());
        assert!("=1".parse::<KeyTolerance>().is_err());
        assert!("p7=x".parse::<KeyTolerance>().is_err());
    }
}
