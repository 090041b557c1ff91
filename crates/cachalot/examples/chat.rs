//! A small assistant that remembers: each turn computes only what the cache does not hold yet.
//!
//! `cargo run --release --example chat`

use std::io::{self, Write};

use cachalot::{Event, GenerateOptions, LanguageModel, ModelSource};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = LanguageModel::load(ModelSource::Embedded, Default::default())?;
    let mut chat = model.chat();
    chat.set_system("You are a helpful assistant.");
    let mut out = io::stdout();
    for question in ["My name is Ada.", "What is 128 + 256?", "What is my name?"] {
        writeln!(out, "> {question}")?;
        for event in chat.send(question, &GenerateOptions::greedy())? {
            match event? {
                Event::Text(piece) => write!(out, "{piece}")?,
                Event::Finish { stats, .. } => {
                    let (cached, prompt) = (stats.cached_tokens, stats.prompt_tokens);
                    writeln!(out, "\n  [{cached} of {prompt} prompt tokens came from the cache]")?;
                }
                _ => {}
            }
            out.flush()?;
        }
    }
    Ok(())
}
