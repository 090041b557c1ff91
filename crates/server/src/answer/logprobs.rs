//! [`TokenLogprob`]: the log-probability of a token and of the alternatives to it.

use engine::Sampled;
use serde_json::{Value, json};
use text::{SpecialTokens, Tokenizer};

/// A token that was chosen, and others that might have been.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenLogprob {
    chosen: Candidate,
    top: Vec<Candidate>,
    /// Whether it is part of the reasoning.
    pub(crate) is_reasoning: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    token: String,
    bytes: Vec<u8>,
    logprob: f32,
}

impl Candidate {
    fn new(tokenizer: &Tokenizer, id: u32, logprob: f32) -> Self {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default().to_vec();
        // JSON has no infinity; OpenAI's API writes this for a token that cannot come.
        let logprob = logprob.max(-9999.0);
        Self { token: tokenizer.decode(&[id], SpecialTokens::Show), bytes, logprob }
    }

    fn to_json(&self) -> Value {
        json!({"token": self.token, "logprob": self.logprob, "bytes": self.bytes})
    }
}

impl TokenLogprob {
    /// `None` where nobody asked.
    pub(super) fn new(tokenizer: &Tokenizer, sampled: &Sampled, is_reasoning: bool) -> Option<Self> {
        let chosen = Candidate::new(tokenizer, sampled.token, sampled.logprob?);
        let candidate = |&(id, logprob): &(u32, f32)| Candidate::new(tokenizer, id, logprob);
        Some(Self { chosen, top: sampled.top_logprobs.iter().map(candidate).collect(), is_reasoning })
    }

    /// As chat answers have it.
    fn to_json(&self) -> Value {
        let mut value = self.chosen.to_json();
        value["top_logprobs"] = self.top.iter().map(Candidate::to_json).collect();
        value
    }
}

/// The field `logprobs` of a chat choice: `null` where nobody asked.
pub(crate) fn chat_logprobs(wanted: bool, tokens: &[TokenLogprob]) -> Value {
    if !wanted {
        return Value::Null;
    }
    let of = |reasoning: bool| -> Vec<Value> {
        tokens.iter().filter(|t| t.is_reasoning == reasoning).map(TokenLogprob::to_json).collect()
    };
    let mut value = json!({"content": of(false), "refusal": null});
    let reasoning = of(true);
    if !reasoning.is_empty() {
        value["reasoning_content"] = reasoning.into();
    }
    value
}

/// The field `logprobs` of a completion choice. `offset` is where the first token begins in the text, in characters,
/// and is moved behind the last.
pub(crate) fn completion_logprobs(wanted: bool, tokens: &[TokenLogprob], offset: &mut usize) -> Value {
    if !wanted {
        return Value::Null;
    }
    let mut offsets = Vec::with_capacity(tokens.len());
    for token in tokens {
        offsets.push(*offset);
        *offset += token.chosen.token.chars().count();
    }
    let top = |token: &TokenLogprob| -> Value {
        // The chosen token is among the alternatives even where it is not one of the best.
        let all = token.top.iter().chain([&token.chosen]);
        all.map(|c| (c.token.clone(), json!(c.logprob))).collect::<serde_json::Map<_, _>>().into()
    };
    json!({
        "tokens": tokens.iter().map(|t| t.chosen.token.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|t| t.chosen.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
