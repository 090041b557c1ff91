//! Data of the integration tests: the V4 tokenizer and the prompt files under `tests/data`.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Read;
use std::path::PathBuf;
use std::sync::OnceLock;

use text::{ParseFile, Prompt, PromptFile, Tokenizer};

/// A file under tests/data.
pub(crate) fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The decompressed tokenizer.json.
pub(crate) fn tokenizer_json() -> Vec<u8> {
    let file = std::fs::File::open(data("tokenizer.json.gz")).unwrap();
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut json).unwrap();
    json
}

/// DeepSeek-V4's tokenizer, loaded once per test binary.
pub(crate) fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let config = std::fs::read(data("tokenizer_config.json")).unwrap();
        Tokenizer::from_bytes(&tokenizer_json(), Some(&config)).unwrap()
    })
}

/// A prompt file as JSON and parsed.
pub(crate) fn prompt_file(name: &str) -> (serde_json::Value, PromptFile) {
    let json = std::fs::read_to_string(data(&format!("prompts/{name}.json"))).unwrap();
    (serde_json::from_str(&json).unwrap(), PromptFile::from_json(&json).unwrap())
}

/// A parse file.
pub(crate) fn parse_file(name: &str) -> ParseFile {
    ParseFile::from_json(&std::fs::read_to_string(data(&format!("outputs/{name}.json"))).unwrap()).unwrap()
}

/// Cuts a string into control tokens (the longest at each place) and text.
pub(crate) fn with_controls(tokenizer: &Tokenizer, text: &str) -> Prompt {
    let mut controls: Vec<&str> = tokenizer.control_tokens().collect();
    controls.sort_by_key(|token| std::cmp::Reverse(token.len()));
    let mut prompt = Prompt::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        match controls.iter().find(|token| text[at..].starts_with(**token)) {
            Some(token) => {
                prompt.text(&text[start..at]).control(token);
                at += token.len();
                start = at;
            }
            None => at += text[at..].chars().next().unwrap().len_utf8(),
        }
    }
    prompt.text(&text[start..]);
    prompt
}
