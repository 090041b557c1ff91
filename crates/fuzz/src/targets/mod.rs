//! The targets, one file each.

pub(crate) mod detokenizer;
pub(crate) mod output_parser;
#[cfg(feature = "server")]
pub(crate) mod request;
pub(crate) mod scheduler;
pub(crate) mod template;

use text::Tokenizer;

/// The demo model's tokenizer: 1024 tokens, all control tokens of V3.1 among them, and its chat template.
fn tokenizer() -> Tokenizer {
    let tokenizer = include_bytes!("../../../../models/demo/tokenizer.json");
    let config = include_bytes!("../../../../models/demo/tokenizer_config.json");
    Tokenizer::from_bytes(tokenizer, Some(config)).unwrap()
}
