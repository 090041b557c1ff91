//! The library over the demo model: events, chats, async streams, cancellation.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use cachalot::{
    DType, Drafter, Error, Event, EventStream, FinishReason, GenerateOptions, IndexFormat, Input,
    LanguageModel, LoadOptions, Message, ModelSource, Speculation,
};
use futures_core::Stream;
use serde_json::json;
use testkit::Fixture;

fn model() -> LanguageModel {
    LanguageModel::load(ModelSource::Embedded, LoadOptions::default()).unwrap()
}

fn limited(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), ignore_eos: true, ..GenerateOptions::greedy() }
}

/// `tokenizer.json` of 256 tokens, the bytes, in the letters that byte-level tokenizers write them in.
fn bytes_tokenizer() -> String {
    let is_plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..=u8::MAX).filter(|byte| !is_plain(byte)).count() as u32;
    let letters = (0..=u8::MAX).filter(is_plain).map(char::from);
    let letters = letters.chain((0..others).map(|i| char::from_u32(0x100 + i).unwrap()));
    let vocab: serde_json::Map<_, _> =
        letters.zip(0..256).map(|(c, id)| (c.to_string(), id.into())).collect();
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "merges": [], "vocab": vocab},
    })
    .to_string()
}

/// The option arrives: the cache of every rank has packed index keys, and the text is another than that of exact maths, the
/// same however many ranks there are.
#[test]
fn an_indexer_in_fp8_by_option() {
    let dir = Fixture::open("deepseek_v32").copy();
    std::fs::write(dir.path().join("tokenizer.json"), bytes_tokenizer()).unwrap();
    let prompt = "The quick brown fox jumps over the lazy dog.";
    let text = |index, tensor_parallel| {
        let options = LoadOptions { index, tensor_parallel, max_sequences: 1, ..Default::default() };
        let model = LanguageModel::load(ModelSource::Path(dir.path().to_owned()), options).unwrap();
        // 3 layers of a latent of 32 and a rope key of 16, and an index key of 32.
        let key = if index == IndexFormat::Fp8 { 32 + 4 } else { 4 * 32 };
        let layout = model.engine().model().kv_layout().bytes_per_token(DType::F32).unwrap();
        assert_eq!(layout, 3 * (4 * 48 + key));
        model.generate(Input::Raw(prompt.to_owned()), &limited(24)).unwrap().tokens
    };
    let fp8 = text(IndexFormat::Fp8, 1);
    assert_eq!(fp8.len(), 24);
    assert_ne!(fp8, text(IndexFormat::Exact, 1));
    assert_eq!(fp8, text(IndexFormat::Fp8, 2));
}

#[test]
fn the_pieces_are_the_whole() {
    let model = model();
    for thinking in [Some(false), Some(true)] {
        let options = GenerateOptions { thinking, ..limited(60) };
        let output = model.generate("What is 12 + 30?", &options).unwrap();
        let (mut text, mut reasoning, mut finishes) = (String::new(), String::new(), 0);
        for event in model.stream("What is 12 + 30?", &options).unwrap() {
            assert_eq!(finishes, 0, "nothing follows the end");
            match event.unwrap() {
                Event::Text(piece) => text.push_str(&piece),
                Event::Reasoning(piece) => reasoning.push_str(&piece),
                Event::Finish { reason, .. } => {
                    assert_eq!(reason, output.finish_reason);
                    finishes += 1;
                }
                _ => {}
            }
        }
        assert_eq!((text, reasoning, finishes), (output.text, output.reasoning, 1));
        assert_eq!(output.tokens.len(), 60);
    }
}

/// The demo model's prediction layer was trained with it, so most of its guesses are right.
#[test]
fn guesses_change_the_time_and_not_the_text() {
    let plain = model();
    for (drafter, num_tokens, least) in
        [(Drafter::Mtp, 1, 0.5), (Drafter::Mtp, 3, 0.3), (Drafter::Ngram, 4, 0.0)]
    {
        let speculation = Some(Speculation { drafter, num_tokens });
        let options = LoadOptions { speculation, ..LoadOptions::default() };
        let guessing = LanguageModel::load(ModelSource::Embedded, options).unwrap();
        let (mut guessed, mut accepted) = (0, 0);
        for (prompt, temperature) in [("Tell me a story about a fox.", 0.0), ("What is 12 + 30?", 0.8)] {
            let options = GenerateOptions { temperature: Some(temperature), seed: Some(4), ..limited(90) };
            let output = guessing.generate(prompt, &options).unwrap();
            assert_eq!(output.tokens, plain.generate(prompt, &options).unwrap().tokens, "{drafter:?}");
            let stats = output.stats;
            assert!(stats.decode_steps + stats.accepted_tokens >= 89);
            (guessed, accepted) = (guessed + stats.guessed_tokens, accepted + stats.accepted_tokens);
        }
        let rate = accepted as f64 / guessed as f64;
        assert!(accepted > 0 && rate > least, "{drafter:?} {num_tokens}: {accepted} of {guessed} right");
    }
}

#[test]
fn what_might_have_become_a_stop_string_is_said_at_the_end() {
    let model = model();
    let whole = model.generate("What is 12 + 30?", &limited(10)).unwrap();
    let last = whole.text.chars().last().unwrap();
    let options = GenerateOptions { stop: vec![format!("{last}\u{0}")], ..limited(10) };
    assert_eq!(model.generate("What is 12 + 30?", &options).unwrap().text, whole.text);
}

#[test]
fn inputs_differ_in_their_format_only() {
    let model = model();
    let options = GenerateOptions::default();
    let encode = |input: Input| model.encode(input, &options).unwrap();
    assert_eq!(encode("hi".into()), encode(vec![Message::user("hi")].into()));
    assert!(encode(Input::Raw("hi".to_owned())).len() < encode("hi".into()).len());
    let control = model.tokenizer().id_of_token("<｜User｜>").unwrap();
    let count = |ids: &[u32]| ids.iter().filter(|&&id| id == control).count();
    assert_eq!(count(&encode("<｜User｜>".into())), 1, "user text spells no control token");
    assert_eq!(count(&encode(Input::Raw("<｜User｜>".to_owned()))), 0);
}

#[test]
fn a_chat_reuses_its_cache_and_says_what_a_fresh_start_would() {
    let model = model();
    let options = limited(12);
    let mut chat = model.chat();
    chat.set_system("You are a helpful assistant.");
    let mut cached = Vec::new();
    for question in ["My name is Ada.", "What is my name?"] {
        for event in chat.send(question, &options).unwrap() {
            if let Event::Finish { stats, .. } = event.unwrap() {
                cached.push(stats.cached_tokens);
            }
        }
    }
    assert_eq!(chat.messages().len(), 5);
    assert!(cached[0] == 0 && cached[1] > 0, "{cached:?}");
    let history = chat.messages()[..4].to_vec();
    let fresh = model.generate(history, &options).unwrap();
    assert_eq!(chat.messages()[4].content.as_deref(), Some(fresh.text.as_str()));
    chat.reset();
    assert_eq!(chat.messages().len(), 1);
}

#[test]
fn a_turn_dropped_half_way_joins_as_far_as_it_came() {
    let model = model();
    let mut chat = model.chat();
    let mut turn = chat.send("Tell me a story about a fox.", &limited(50)).unwrap();
    let mut said = String::new();
    while said.len() < 5 {
        if let Event::Text(piece) = turn.next().unwrap().unwrap() {
            said.push_str(&piece);
        }
    }
    drop(turn);
    assert_eq!(chat.messages()[1].content.as_deref(), Some(said.as_str()));
    let bad = GenerateOptions { top_p: Some(7.0), ..limited(5) };
    assert!(chat.send("hm", &bad).is_err());
    assert_eq!(chat.messages().len(), 2, "a refused turn leaves no trace");
}

#[test]
fn cancelling_ends_with_an_event() {
    let model = model();
    let mut stream = model.stream("Tell me a story.", &limited(200)).unwrap();
    stream.next().unwrap().unwrap();
    stream.cancel_handle().cancel();
    let last = stream.by_ref().map(Result::unwrap).last().unwrap();
    assert!(matches!(last, Event::Finish { reason: FinishReason::Cancelled, .. }));
    assert!(stream.next().is_none());
}

/// Counts how often it was woken, and unparks its thread.
struct Counter(AtomicUsize, std::thread::Thread);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        self.1.unpark();
    }
}

fn next(stream: &mut EventStream) -> Option<Result<Event, Error>> {
    let waker = Waker::from(Arc::new(Counter(AtomicUsize::new(0), std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match Pin::new(&mut *stream).poll_next(&mut context) {
            Poll::Ready(event) => return event,
            Poll::Pending => std::thread::park_timeout(Duration::from_secs(30)),
        }
    }
}

#[test]
fn an_async_stream_says_the_same() {
    let model = model();
    let options = limited(40);
    let expected = model.generate("What is 12 + 30?", &options).unwrap();
    let mut streams: Vec<EventStream> =
        (0..3).map(|_| model.stream_async("What is 12 + 30?", &options).unwrap()).collect();
    for stream in &mut streams {
        let mut text = String::new();
        let mut finished = false;
        while let Some(event) = next(stream) {
            match event.unwrap() {
                Event::Text(piece) => text.push_str(&piece),
                Event::Finish { .. } => finished = true,
                _ => {}
            }
        }
        assert!(finished);
        assert_eq!(text, expected.text);
        assert!(next(stream).is_none(), "an ended stream stays ended");
    }
}

#[test]
fn dropping_an_async_stream_frees_its_cache() {
    let model = model();
    let pool = model.engine().allocator().clone();
    let mut stream = model.stream_async("Tell me a story.", &limited(300)).unwrap();
    next(&mut stream).unwrap().unwrap();
    assert!(pool.num_free_blocks() < pool.num_blocks());
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(30);
    while pool.num_free_blocks() < pool.num_blocks() {
        assert!(Instant::now() < deadline, "the worker never let go");
        std::thread::sleep(Duration::from_millis(5));
    }
    pool.check_integrity().unwrap();
}

#[test]
fn errors_name_the_field() {
    let model = model();
    let refuse = |options: GenerateOptions| model.generate("hi", &options).unwrap_err().to_string();
    assert!(refuse(GenerateOptions { top_p: Some(0.0), ..Default::default() }).contains("top_p"));
    assert!(
        refuse(GenerateOptions { max_tokens: Some(1 << 20), ..Default::default() }).contains("max_tokens")
    );
    assert!(refuse(GenerateOptions { stop: vec![String::new()], ..Default::default() }).contains("stop[0]"));
    let long = "word ".repeat(20_000);
    assert!(model.generate(long, &GenerateOptions::default()).unwrap_err().to_string().contains("prompt"));
}
