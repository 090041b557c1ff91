//! How large a regular expression is once its counts are written out: nested counts multiply.

use regex_syntax::hir::{Hir, HirKind};

use crate::error::{Error, Result};

/// Refuses an expression whose counts, written out, make more than `limit` characters. What does not parse is left to
/// the compiler, which says why.
pub(super) fn check(path: &str, expression: &str, limit: u64) -> Result<()> {
    let found = regex_syntax::parse(expression).map_or(0, |hir| size(&hir));
    if found > limit {
        return Err(Error::GrammarTooLarge { path: path.to_owned(), unit: "characters", limit, found });
    }
    Ok(())
}

/// Recursion is bounded by the parser's limit on nesting.
fn size(hir: &Hir) -> u64 {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(literal) => literal.0.len() as u64,
        HirKind::Class(_) => 1,
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1);
            size(&repetition.sub).saturating_mul(u64::from(times))
        }
        HirKind::Capture(capture) => size(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().map(size).fold(0, u64::saturating_add)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_counts_multiply() {
        let found = |expression: &str| match check("regex", expression, 0) {
            Err(Error::GrammarTooLarge { found, .. }) => found,
            other => panic!("{other:?}"),
        };
        assert_eq!(found("abc"), 3);
        assert_eq!(found("[a-z]{2,5}|x*y+"), 7);
        assert_eq!(found("((a{9}){9}){9}"), 729);
        assert_eq!(found(&format!("{}a{}", "(".repeat(30), "{9})".repeat(30))), u64::MAX);
        assert!(check("regex", "(unclosed", 0).is_ok());
    }
}
