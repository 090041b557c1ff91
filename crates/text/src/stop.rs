//! `StopMatcher`: stop strings in a stream of text, whatever the chunks.
//!
//! A stop string may begin in one chunk and end in a later one, so the longest end of the text that could still become a stop string is held
//! back. The rule does not depend on the chunks: the stop string that is complete first wins; of those complete at the same character the
//! longest wins, because it begins first.

use crate::error::{Error, Result};

/// What one chunk led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopStep {
    /// Text that is certain not to belong to a stop string; it ends before the stop string when one was hit.
    pub text: String,
    /// Index of the stop string that ended the text, in the order given to [`StopMatcher::new`].
    pub hit: Option<usize>,
}

/// Finds the first stop string in streamed text.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    hit: Option<usize>,
}

impl StopMatcher {
    /// A matcher for `stops`; with an empty list all text passes at once.
    ///
    /// # Errors
    /// [`Error::EmptyStopString`] when a stop string is empty.
    pub fn new(stops: Vec<String>) -> Result<Self> {
        match stops.iter().position(String::is_empty) {
            Some(index) => Err(Error::EmptyStopString { index }),
            None => Ok(Self { stops, held: String::new(), hit: None }),
        }
    }

    /// Takes a chunk of text. After a hit everything further is swallowed and the hit is reported again.
    pub fn push(&mut self, chunk: &str) -> StopStep {
        if self.hit.is_some() {
            return StopStep { text: String::new(), hit: self.hit };
        }
        self.held.push_str(chunk);
        if let Some((start, index)) = self.first_hit() {
            self.held.truncate(start);
            self.hit = Some(index);
            return StopStep { text: std::mem::take(&mut self.held), hit: self.hit };
        }
        let keep = self.held.len() - self.held_back();
        let rest = self.held.split_off(keep);
        StopStep { text: std::mem::replace(&mut self.held, rest), hit: None }
    }

    /// Ends the stream and returns what was held back; empty after a hit.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The stop string that was hit, if any.
    pub fn hit(&self) -> Option<usize> {
        self.hit
    }

    /// Start and index of the stop string that is complete first.
    fn first_hit(&self) -> Option<(usize, usize)> {
        let found = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, index))
        });
        // Equal ends: the smallest start is the longest string.
        found.min().map(|(_, start, index)| (start, index))
    }

    /// Length of the longest end of the text that begins a stop string.
    fn held_back(&self) -> usize {
        let longest = |stop: &String| {
            let most = self.held.len().min(stop.len() - 1);
            (1..=most)
                .rev()
                .find(|&length| self.held.as_bytes().ends_with(&stop.as_bytes()[..length]))
                .unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(stops.iter().map(|&stop| stop.to_owned()).collect()).unwrap()
    }

    /// Grows the text a character at a time and asks whether it ends with a stop string.
    fn naive(text: &str, stops: &[String]) -> (String, Option<usize>) {
        let ends = text.char_indices().map(|(offset, c)| offset + c.len_utf8());
        for end in ends {
            let ending = stops.iter().enumerate().filter(|(_, stop)| text[..end].ends_with(stop.as_str()));
            let longest = ending.fold(None, |best: Option<(usize, &String)>, (index, stop)| match best {
                Some((_, other)) if other.len() >= stop.len() => best,
                _ => Some((index, stop)),
            });
            if let Some((index, stop)) = longest {
                return (text[..end - stop.len()].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    fn chunked(text: &str, sizes: &[usize], stops: &[String]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops.to_vec()).unwrap();
        let mut out = String::new();
        let mut chars = text.chars().peekable();
        let mut sizes = sizes.iter().cycle();
        while chars.peek().is_some() {
            let size = sizes.next().copied().unwrap_or(1);
            let chunk: String = chars.by_ref().take(size).collect();
            out.push_str(&matcher.push(&chunk).text);
        }
        out.push_str(&matcher.finish());
        (out, matcher.hit())
    }

    #[test]
    fn a_stop_string_across_chunks_is_held_back() {
        let mut matcher = matcher(&["STOP"]);
        assert_eq!(matcher.push("go ST"), StopStep { text: "go ".to_owned(), hit: None });
        assert_eq!(matcher.push("OP and more"), StopStep { text: String::new(), hit: Some(0) });
        assert_eq!(matcher.push("later"), StopStep { text: String::new(), hit: Some(0) });
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn a_false_start_is_released() {
        let mut matcher = matcher(&["STOP"]);
        assert_eq!(matcher.push("ST").text, "");
        assert_eq!(matcher.push("AR").text, "STAR");
        assert_eq!(matcher.push("S").text, "");
        assert_eq!(matcher.finish(), "S");
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopMatcher::new(vec!["a".to_owned(), String::new()]).unwrap_err();
        assert!(matches!(error, Error::EmptyStopString { index: 1 }));
    }

    proptest! {
        // A small alphabet makes overlaps, repeats and false starts frequent; two letters have several bytes.
        #[test]
        fn equals_the_naive_search(
            text in "[abéク]{0,30}",
            stops in prop::collection::vec("[abéク]{1,4}", 0..4),
            sizes in prop::collection::vec(1usize..6, 1..5),
        ) {
            let (text_out, hit) = chunked(&text, &sizes, &stops);
            let (expected, index) = naive(&text, &stops);
            prop_assert_eq!(text_out, expected);
            prop_assert_eq!(hit.map(|i| &stops[i]), index.map(|i| &stops[i]));
        }
    }
}
