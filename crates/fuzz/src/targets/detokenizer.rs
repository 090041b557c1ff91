//! Ids to text: what is streamed is the lossy decode of all bytes, stop strings are where a plain search finds them, and
//! text comes back from its ids.

use arbitrary::{Result, Unstructured};
use text::{SpecialTokens, StopMatcher, Tokenizer};

use super::tokenizer;
use crate::Target;
use crate::words::Words;

/// [`text::Detokenizer`], [`StopMatcher`] and [`Tokenizer::encode_text`].
pub struct DetokenizerTarget {
    tokenizer: Tokenizer,
    words: Words,
}

impl Target for DetokenizerTarget {
    fn new() -> Self {
        Self {
            tokenizer: tokenizer(),
            words: Words::new(["\r\n", "  ", "12345", "一龥", "e\u{301}", "The "]),
        }
    }

    fn run(&self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let special = if bytes.arbitrary()? { SpecialTokens::Skip } else { SpecialTokens::Show };
        let count = bytes.int_in_range(0..=40)?;
        let ids = (0..count).map(|_| self.id(bytes)).collect::<Result<Vec<u32>>>()?;
        let pieces = self.stream(&ids, special);
        let whole = pieces.concat();

        let stops = (0..bytes.int_in_range(0..=3)?).map(|_| self.stop(&whole, bytes));
        let mut stops = stops.collect::<Result<Vec<String>>>()?;
        stops.retain(|stop| !stop.is_empty());
        let mut matcher = StopMatcher::new(stops.clone()).unwrap();
        let mut passed: String = pieces.iter().map(|piece| matcher.push(piece).text).collect();
        passed.push_str(&matcher.finish());
        let hit = matcher.hit().map(|index| stops[index].as_str());
        assert_eq!((passed.as_str(), hit), first_stop(&whole, &stops), "{whole:?}");

        let text = self.words.text(bytes)?;
        let ids = self.tokenizer.encode_text(&text).unwrap();
        assert!(!ids.iter().any(|&id| self.tokenizer.is_control(id)), "{text:?} became {ids:?}");
        assert_eq!(self.stream(&ids, SpecialTokens::Skip).concat(), text);
        Ok(())
    }
}

impl DetokenizerTarget {
    /// Mostly ids of tokens.
    fn id(&self, bytes: &mut Unstructured<'_>) -> Result<u32> {
        match bytes.ratio(1, 20)? {
            true => bytes.arbitrary(),
            false => bytes.int_in_range(0..=self.tokenizer.vocab_size() as u32),
        }
    }

    /// Detokenizes, and holds the result against the bytes of the tokens.
    fn stream(&self, ids: &[u32], special: SpecialTokens) -> Vec<String> {
        let mut detokenizer = self.tokenizer.detokenizer(special);
        let mut pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
        pieces.push(detokenizer.finish());
        let is_shown = |id: &&u32| special == SpecialTokens::Show || !is_special(&self.tokenizer, **id);
        let tokens = ids.iter().filter(is_shown).filter_map(|&id| self.tokenizer.token_bytes(id));
        let all = tokens.flatten().copied().collect::<Vec<u8>>();
        assert_eq!(pieces.concat(), String::from_utf8_lossy(&all), "{ids:?}");
        pieces
    }

    /// A part of the text, or anything.
    fn stop(&self, text: &str, bytes: &mut Unstructured<'_>) -> Result<String> {
        if bytes.ratio(1, 4)? {
            return self.words.text(bytes);
        }
        let start = bytes.int_in_range(0..=text.chars().count())?;
        Ok(text.chars().skip(start).take(bytes.int_in_range(1..=4)?).collect())
    }
}

fn is_special(tokenizer: &Tokenizer, id: u32) -> bool {
    [tokenizer.bos_id(), tokenizer.pad_id()].contains(&Some(id)) || tokenizer.eos_ids().contains(&id)
}

/// Grows the text character by character until it ends with a stop string; the longest one counts.
fn first_stop<'a>(text: &'a str, stops: &'a [String]) -> (&'a str, Option<&'a str>) {
    for end in text.char_indices().map(|(at, c)| at + c.len_utf8()) {
        let ending = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str()));
        if let Some(stop) = ending.max_by_key(|stop| stop.len()) {
            return (&text[..end - stop.len()], Some(stop));
        }
    }
    (text, None)
}
