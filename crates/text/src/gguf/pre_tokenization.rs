//! [`PreTokenization`]: how a text is cut before the merges, by the name in `tokenizer.ggml.pre`.
//!
//! The expressions are those of the released tokenizer.json files that the names stand for; the names are llama.cpp's.

use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

/// All names, for people.
pub(super) const NAMES: &str =
    "one of deepseek-llm, deepseek-coder, deepseek-v3, deepseek-r1-qwen, qwen2, llama-bpe, smollm, gpt-2";

/// What a name stands for.
#[derive(Debug)]
pub(super) struct PreTokenization {
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// Whether GPT-2's expression cuts last.
    gpt2: bool,
    /// Whether the text is put into the normal form C first.
    pub(super) normalised: bool,
    /// Whether a piece that is a token stays whole, whatever the merges say.
    pub(super) whole_tokens: bool,
    /// Whether a text begins with BOS where the file does not say.
    pub(super) adds_bos: bool,
}

#[derive(Debug)]
enum Cut {
    /// Where the expression matches.
    Around(&'static str),
    /// Around every digit.
    Digits,
}

const LINE_BREAK: Cut = Cut::Around(r"[\r\n]");
const CJK: Cut = Cut::Around(r"[一-龥ࠀ-一가-퟿]+");
const LATIN_WORD: Cut = Cut::Around(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
);
const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

const PLAIN: PreTokenization = PreTokenization {
    names: &[],
    cuts: &[],
    gpt2: false,
    normalised: false,
    whole_tokens: false,
    adds_bos: false,
};

const ALL: [PreTokenization; 8] = [
    PreTokenization {
        names: &["deepseek-llm"],
        cuts: &[
            LINE_BREAK,
            LATIN_WORD,
            Cut::Around(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Cut::Around(r"\s+$"),
            CJK,
            Cut::Digits,
        ],
        ..PLAIN
    },
    PreTokenization {
        names: &["deepseek-coder"],
        cuts: &[LINE_BREAK, Cut::Around(r"\s?\p{L}+"), Cut::Around(r"\s?\p{P}+"), CJK, Cut::Digits],
        ..PLAIN
    },
    PreTokenization {
        names: &["deepseek-v3"],
        cuts: &[Cut::Around(r"\p{N}{1,3}"), Cut::Around(r"[一-龥぀-ゟ゠-ヿ]+"), Cut::Around(V3)],
        ..PLAIN
    },
    PreTokenization { names: &["deepseek-r1-qwen"], cuts: &[Cut::Around(QWEN)], ..PLAIN },
    PreTokenization { names: &["qwen2"], cuts: &[Cut::Around(QWEN)], normalised: true, ..PLAIN },
    PreTokenization {
        names: &["llama-bpe", "llama3", "llama-v3"],
        cuts: &[Cut::Around(LLAMA)],
        whole_tokens: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenization { names: &["smollm"], cuts: &[Cut::Digits], gpt2: true, ..PLAIN },
    PreTokenization { names: &["gpt-2", "default"], gpt2: true, ..PLAIN },
];

impl PreTokenization {
    /// What the name stands for. A file without a name is as one of before there were names: GPT-2's.
    pub(super) fn named(name: Option<&str>) -> Option<Self> {
        let name = name.unwrap_or("default");
        ALL.into_iter().find(|known| known.names.contains(&name))
    }

    /// Sets a tokenizer of the library up.
    pub(super) fn apply(&self, tokenizer: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        let mut steps = Vec::new();
        for cut in self.cuts {
            steps.push(match cut {
                Cut::Digits => PreTokenizerWrapper::from(Digits::new(true)),
                Cut::Around(expression) => {
                    let pattern = SplitPattern::Regex((*expression).to_owned());
                    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into()
                }
            });
        }
        steps.push(ByteLevel::new(false, true, self.gpt2).into());
        tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
        if self.normalised {
            tokenizer.with_normalizer(Some(NFC))?;
        }
        Ok(())
    }
}
