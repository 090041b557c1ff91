//! Which control tokens of a rendered template came from the template, and which a user spelled.
//!
//! A Jinja template yields one string, in which a user's `<｜User｜>` looks like the template's own. The usual ways out are to trust the string
//! (then users can speak as the template) or to replace the spellings before rendering (then a template that looks for `</think>` in a
//! message no longer finds it, and renders something else). Here the template is rendered twice: once as it is, and once with an invisible
//! mark on both sides of every control spelling in user-supplied strings. The spelling itself stays, so the template takes the same way; the
//! marks are private-use characters that occur nowhere in the conversation or the template, one per occurrence. The second rendering without
//! its marks must equal the first, else the marks changed something and the conversation is refused. In the equal case an occurrence in the
//! output is the user's exactly if the same mark stands on both of its sides.
//!
//! A token can also come together at a seam: a template that writes `<` and a tool's name and `>` would make `<think>` of a tool named
//! `think`. Strings that could take part in that get a mark at their ends, and a token with any mark inside is text.

use std::collections::HashSet;

use aho_corasick::AhoCorasick;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::prompt::Prompt;

/// Names that templates compare with: a mark at their ends would change what a template does, and alone they spell no token.
const STRUCTURAL: [&str; 38] = [
    "role",
    "content",
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "reasoning_content",
    "tool_calls",
    "tool_call_id",
    "id",
    "name",
    "prefix",
    "type",
    "function",
    "arguments",
    "description",
    "parameters",
    "properties",
    "required",
    "items",
    "enum",
    "default",
    "title",
    "strict",
    "string",
    "object",
    "array",
    "number",
    "integer",
    "boolean",
    "null",
    "text",
    "json_object",
    "json_schema",
    "additionalProperties",
    "format",
    "schema",
];

/// Finds control tokens in text.
#[derive(Debug, Clone)]
pub(crate) struct ControlFinder {
    tokens: Vec<String>,
    search: AhoCorasick,
    prefixes: HashSet<String>,
    suffixes: HashSet<String>,
    longest: usize,
}

impl ControlFinder {
    /// A finder for these spellings.
    pub(crate) fn new<'a>(tokens: impl Iterator<Item = &'a str>) -> Result<Self> {
        let tokens: Vec<String> = tokens.filter(|token| !token.is_empty()).map(str::to_owned).collect();
        let search = AhoCorasick::new(&tokens)
            .map_err(|reason| Error::Encode { bytes: 0, reason: reason.to_string() })?;
        let (mut prefixes, mut suffixes) = (HashSet::new(), HashSet::new());
        for token in &tokens {
            for (at, _) in token.char_indices().skip(1) {
                prefixes.insert(token[..at].to_owned());
                suffixes.insert(token[at..].to_owned());
            }
        }
        let longest = tokens.iter().map(String::len).max().unwrap_or(0);
        Ok(Self { tokens, search, prefixes, suffixes, longest })
    }

    /// All occurrences as byte ranges, overlapping ones included; the leftmost first, of those the longest first.
    fn find_all(&self, text: &str) -> Vec<(usize, usize)> {
        let mut found: Vec<_> =
            self.search.find_overlapping_iter(text).map(|hit| (hit.start(), hit.end())).collect();
        found.sort_unstable_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
        found
    }

    /// Whether a token could begin before the text and end in it, and whether one could begin in it and end after it.
    fn open_ends(&self, text: &str) -> (bool, bool) {
        if text.is_empty() {
            return (false, false);
        }
        if text.len() < self.longest && self.tokens.iter().any(|token| token.contains(text)) {
            return (true, true);
        }
        let heads = text
            .char_indices()
            .skip(1)
            .map(|(at, _)| &text[..at])
            .take_while(|head| head.len() < self.longest);
        let tails =
            text.char_indices().rev().map(|(at, _)| &text[at..]).take_while(|tail| tail.len() < self.longest);
        (
            heads.into_iter().any(|head| self.suffixes.contains(head)),
            tails.into_iter().any(|tail| self.prefixes.contains(tail)),
        )
    }
}

/// The marks of one rendering.
pub(crate) struct Marks<'f> {
    finder: &'f ControlFinder,
    free: Box<dyn Iterator<Item = char>>,
    seam: char,
    used: HashSet<char>,
}

/// The planes of private use, without their non-characters.
fn private_use() -> impl Iterator<Item = char> {
    (FIRST_MARK..='\u{FFFFD}').chain('\u{100000}'..='\u{10FFFD}')
}

const FIRST_MARK: char = '\u{F0000}';

impl<'f> Marks<'f> {
    /// Marks that occur neither in `template` nor in any string of `values`.
    pub(crate) fn new<'v>(
        finder: &'f ControlFinder,
        template: &str,
        values: impl Iterator<Item = &'v Value>,
    ) -> Result<Self> {
        let mut taken: HashSet<char> = template.chars().filter(|&c| c >= FIRST_MARK).collect();
        for value in values {
            visit_strings(value, &mut |text| taken.extend(text.chars().filter(|&c| c >= FIRST_MARK)));
        }
        let mut free = private_use().filter(move |c| !taken.contains(c));
        let seam = free.next().ok_or(Error::TemplateProvenance)?;
        Ok(Self { finder, free: Box::new(free), seam, used: HashSet::new() })
    }

    /// Marks every string of `value`, keys included.
    pub(crate) fn mark(&mut self, value: &Value) -> Result<Value> {
        Ok(match value {
            Value::String(text) => Value::String(self.mark_text(text)?),
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.mark(item)).collect::<Result<_>>()?)
            }
            Value::Object(members) => {
                let mut marked = Map::with_capacity(members.len());
                for (key, member) in members {
                    marked.insert(self.mark_text(key)?, self.mark(member)?);
                }
                Value::Object(marked)
            }
            other => other.clone(),
        })
    }

    fn mark_text(&mut self, text: &str) -> Result<String> {
        if STRUCTURAL.contains(&text) {
            return Ok(text.to_owned());
        }
        let mut inserts: Vec<(usize, char)> = Vec::new();
        for (start, end) in self.finder.find_all(text) {
            let mark = self.free.next().ok_or(Error::TemplateProvenance)?;
            self.used.insert(mark);
            inserts.extend([(start, mark), (end, mark)]);
        }
        let (open_start, open_end) = self.finder.open_ends(text);
        inserts.extend(open_start.then_some((0, self.seam)));
        inserts.extend(open_end.then_some((text.len(), self.seam)));
        if open_start || open_end {
            self.used.insert(self.seam);
        }
        inserts.sort_by_key(|&(at, _)| at);
        let mut marked = String::with_capacity(text.len() + 4 * inserts.len());
        let mut done = 0;
        for (at, mark) in inserts {
            marked.push_str(&text[done..at]);
            marked.push(mark);
            done = at;
        }
        marked.push_str(&text[done..]);
        Ok(marked)
    }

    /// The characters that serve as marks; empty when no string needed one.
    pub(crate) fn used(&self) -> &HashSet<char> {
        &self.used
    }
}

/// Splits a rendering into the template's control tokens and text.
///
/// `plain` is the rendering of the unmarked conversation, `marked` that of the conversation marked with `marks`.
pub(crate) fn segment(marks: &Marks<'_>, plain: &str, marked: &str) -> Result<Prompt> {
    let mut found: Vec<(usize, char)> = Vec::new();
    let mut unmarked = String::with_capacity(plain.len());
    for c in marked.chars() {
        if marks.used.contains(&c) {
            found.push((unmarked.len(), c));
        } else {
            unmarked.push(c);
        }
    }
    if unmarked != plain {
        return Err(Error::TemplateProvenance);
    }
    let mut prompt = Prompt::new();
    let mut done = 0;
    for (start, end) in marks.finder.find_all(plain) {
        if start >= done && is_templates_own(&found, marks.seam, start, end) {
            prompt.text(&plain[done..start]).control(&plain[start..end]);
            done = end;
        }
    }
    prompt.text(&plain[done..]);
    Ok(prompt)
}

/// Whether no mark says that the user wrote the token or a part of it.
fn is_templates_own(found: &[(usize, char)], seam: char, start: usize, end: usize) -> bool {
    let range = |from, to| {
        &found[found.partition_point(|&(at, _)| at < from)..found.partition_point(|&(at, _)| at < to)]
    };
    let inside = !range(start + 1, end).is_empty();
    let at_end = range(end, end + 1);
    let same = |mark: &char| at_end.iter().any(|(_, other)| other == mark);
    // The seam mark may stand on both sides of a template's token, between two user strings: it only counts inside.
    let both_sides = range(start, start + 1).iter().any(|(_, mark)| *mark != seam && same(mark));
    !inside && !both_sides
}

fn visit_strings(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| visit_strings(item, visit)),
        Value::Object(members) => {
            for (key, member) in members {
                visit(key);
                visit_strings(member, visit);
            }
        }
        _ => {}
    }
}

/// Python's `strip` family on a string that may hold marks: characters in `strip` go from the sides asked for, marks beside what stays remain.
pub(crate) fn strip_around_marks(
    text: &str,
    left: bool,
    right: bool,
    marks: &HashSet<char>,
    strip: impl Fn(char) -> bool,
) -> String {
    let (mut start, mut end) = (0, text.len());
    if left {
        for (at, c) in text.char_indices().filter(|(_, c)| !marks.contains(c)) {
            if !strip(c) {
                break;
            }
            start = at + c.len_utf8();
        }
    }
    if right {
        for (at, c) in text.char_indices().rev().filter(|(_, c)| !marks.contains(c)) {
            if !strip(c) || at < start {
                break;
            }
            end = at;
        }
    }
    text[start..end.max(start)].to_owned()
}

/// The string without its marks.
pub(crate) fn without_marks(text: &str, marks: &HashSet<char>) -> String {
    text.chars().filter(|c| !marks.contains(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Segment;

    fn finder() -> ControlFinder {
        ControlFinder::new(["<think>", "</think>", "<｜User｜>"].into_iter()).unwrap()
    }

    /// Plays a template that writes `before`, the user's text and `after`, and returns the control tokens found.
    fn controls(before: &str, user: &str, after: &str) -> Vec<String> {
        let finder = finder();
        let value = Value::from(user);
        let mut marks = Marks::new(&finder, "", std::iter::once(&value)).unwrap();
        let marked = marks.mark(&value).unwrap();
        let wrap = |user: &str| format!("{before}{user}{after}");
        let prompt = segment(&marks, &wrap(user), &wrap(marked.as_str().unwrap())).unwrap();
        assert_eq!(prompt.to_string(), wrap(user));
        let control =
            |segment: &Segment| matches!(segment, Segment::Control(_)).then(|| segment.as_str().to_owned());
        prompt.segments().iter().filter_map(control).collect()
    }

    #[test]
    fn user_spellings_are_text_and_template_spellings_are_control() {
        assert_eq!(controls("<｜User｜>", "a</think>b<｜User｜>", "<think>"), ["<｜User｜>", "<think>"]);
        assert_eq!(controls("<think>", "</think>", "</think>"), ["<think>", "</think>"]);
        assert_eq!(controls("", "<think><think>", ""), Vec::<String>::new());
    }

    #[test]
    fn a_token_that_comes_together_at_a_seam_is_text() {
        assert_eq!(controls("<", "think", ">"), Vec::<String>::new());
        assert_eq!(controls("", "<thi", "nk>"), Vec::<String>::new());
        assert_eq!(controls("</thi", "nk>", ""), Vec::<String>::new());
        assert_eq!(controls("<think>", ">quoted<", "</think>"), ["<think>", "</think>"]);
    }

    #[test]
    fn a_users_private_use_characters_are_not_taken_for_marks() {
        assert_eq!(controls("", "\u{F0000}<think>\u{F0000}\u{F0001}", "<think>\u{F0001}"), ["<think>"]);
    }

    #[test]
    fn a_rendering_that_the_marks_changed_is_refused() {
        let finder = finder();
        let value = Value::from("<think>");
        let mut marks = Marks::new(&finder, "", std::iter::once(&value)).unwrap();
        marks.mark(&value).unwrap();
        assert!(matches!(segment(&marks, "7", "9"), Err(Error::TemplateProvenance)));
    }

    #[test]
    fn stripping_looks_through_marks() {
        let marks = HashSet::from(['*']);
        let space = |c: char| c == ' ';
        assert_eq!(strip_around_marks("* * a* ", true, true, &marks, space), "a*");
        assert_eq!(strip_around_marks("*a*", true, true, &marks, space), "*a*");
        assert_eq!(strip_around_marks(" * ", true, true, &marks, space), "");
        assert_eq!(strip_around_marks(" a ", false, true, &marks, space), " a");
    }
}
