//! Finding markers in text that arrives in pieces: how much of the end may still become one.

/// Length in bytes of the longest end of `text` that begins `marker` without completing it.
///
/// The result is where to cut: `text.len() - begun(..)` is a character boundary, because a marker begins with a whole character.
pub(super) fn begun(text: &str, marker: &str) -> usize {
    let (text, marker) = (text.as_bytes(), marker.as_bytes());
    let longest = text.len().min(marker.len() - 1);
    (1..=longest).rev().find(|&length| text.ends_with(&marker[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_counts() {
        for (text, marker, expected) in [
            ("a<", "<think>", 1),
            ("a<<thin", "<think>", 5),
            ("a<think>", "<think>", 0),
            ("<", "<｜x｜>", 1),
            ("é<｜", "<｜x｜>", 4),
            ("", "<a>", 0),
            ("aab", "aabaac", 3),
            ("aabaa", "aabaac", 5),
        ] {
            assert_eq!(begun(text, marker), expected, "{text} {marker}");
        }
    }
}
