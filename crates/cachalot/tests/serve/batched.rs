//! Many requests at once say what each says alone, whatever they share: steps, prefixes, too few blocks.

use std::thread;

use cachalot::serve::ServiceOptions;
use cachalot::{Drafter, LoadOptions, Speculation};
use serde_json::{Value, json};

use crate::support::{TestServer, chat, comes_true, options, with};

const REQUESTS: usize = 64;

/// A request of the mix: prompts of about 20 to 65 tokens, answers of up to 97, which is several blocks more than a
/// sequence is admitted with.
fn request(i: usize) -> Value {
    let story = "The fox and the raven met at the river. ".repeat(i % 4);
    let question = format!("{story}What is {} + {}?", i * 7 % 90, i + 3);
    with(chat(&question), json!({"max_tokens": 8 + i * 29 % 90, "ignore_eos": !i.is_multiple_of(4)}))
}

/// What a client can see of an answer, asked for with a stream or without.
#[derive(Debug, PartialEq)]
struct Said {
    text: String,
    finish_reason: String,
}

fn ask(server: &TestServer, i: usize) -> Said {
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if i.is_multiple_of(3) {
        let frames = server.stream("/v1/chat/completions", &request(i));
        let (done, chunks) = frames.split_last().unwrap();
        assert_eq!(done.data, "[DONE]");
        let choices: Vec<Value> = chunks.iter().map(|frame| frame.json()["choices"][0].clone()).collect();
        let text = choices.iter().map(|choice| string(&choice["delta"]["content"])).collect();
        return Said { text, finish_reason: string(&choices.last().unwrap()["finish_reason"]) };
    }
    let reply = server.post("/v1/chat/completions", &request(i));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let choice = &reply.json()["choices"][0];
    Said { text: string(&choice["message"]["content"]), finish_reason: string(&choice["finish_reason"]) }
}

/// Asks for `count` answers from as many threads, and does `meanwhile`.
fn at_once(server: &TestServer, count: usize, meanwhile: impl FnOnce()) -> Vec<Said> {
    thread::scope(|scope| {
        let clients: Vec<_> = (0..count).map(|i| scope.spawn(move || ask(server, i))).collect();
        meanwhile();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

fn server(prefix_cache: bool, context_len: usize, max_sequences: usize) -> TestServer {
    let load = LoadOptions { context_len: Some(context_len), max_sequences, ..LoadOptions::default() };
    let service = ServiceOptions { prefix_cache, max_waiting: REQUESTS, ..ServiceOptions::default() };
    TestServer::loaded(load, options(), service)
}

#[test]
fn sixty_four_together_say_what_each_says_alone() {
    let lone = server(false, 320, 8);
    let expected: Vec<Said> = (0..REQUESTS).map(|i| ask(&lone, i)).collect();
    assert_eq!(lone.metric("vllm:num_preemptions_total"), 0.0);
    // The mix is one: answers of many lengths, some that end by themselves.
    assert!(expected.iter().any(|said| said.finish_reason == "stop"));
    assert!(expected.iter().filter(|said| said.finish_reason == "length").count() > REQUESTS / 2);
    drop(lone);
    // A pool for all of them, and one of 320 tokens.
    for (prefix_cache, max_sequences) in [(true, 32), (false, 32), (true, 1), (false, 1)] {
        let server = server(prefix_cache, 320, max_sequences);
        // The second round finds the first one's prefixes, if anything does.
        for round in 0..1 + usize::from(prefix_cache) {
            // Without a block nobody begins before all are there, however slow the clients are.
            let taken = (round == 0).then(|| server.take_blocks_but(0));
            let said = at_once(&server, REQUESTS, || {
                assert!(taken.is_none() || comes_true(|| server.service.health().waiting == REQUESTS));
                drop(taken);
            });
            for (i, (said, expected)) in said.iter().zip(&expected).enumerate() {
                let setup = format!("prefix cache {prefix_cache}, {max_sequences} contexts, round {round}");
                assert_eq!(said, expected, "request {i}, {setup}");
            }
        }
        assert!(server.becomes_idle());
        let preemptions = server.metric("vllm:num_preemptions_total");
        assert_eq!(preemptions > 0.0, max_sequences == 1, "{preemptions} preemptions");
        assert_eq!(server.metric("vllm:prefix_cache_hits_total") > 0.0, prefix_cache);
        assert_eq!(server.metric("vllm:kv_cache_usage_perc"), 0.0);
        server.service.engine().allocator().check_integrity().unwrap();
    }
}

#[test]
fn a_long_shared_prefix_is_computed_once() {
    let server = TestServer::new();
    let document = "The fox and the raven met at the river. ".repeat(130);
    let ask = |question: &str| {
        let body = with(chat(&format!("{document}{question}")), json!({"max_tokens": 4}));
        let reply = server.post("/v1/chat/completions", &body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        let usage = reply.json()["usage"].clone();
        assert_eq!(usage["prompt_cache_hit_tokens"], usage["prompt_tokens_details"]["cached_tokens"]);
        let tokens = |field: &str| usage[field].as_u64().unwrap();
        (tokens("prompt_tokens"), tokens("prompt_cache_hit_tokens"), tokens("prompt_cache_miss_tokens"))
    };
    let (prompt, hit, _) = ask("Who met?");
    assert!((1800..2040).contains(&prompt) && hit == 0, "{prompt} tokens, {hit} cached");
    let (prompt, hit, miss) = ask("Where was it?");
    assert!(hit >= 1800 && miss <= prompt / 10 && hit + miss == prompt, "{prompt} tokens, {hit} cached");
    // Both prompts were looked up, and what the engine counts is what the client was told.
    assert_eq!(server.metric("vllm:prefix_cache_hits_total"), hit as f64);
}

/// What one asks for alone and unguessed, sixteen get at once from steps that guess; the counters say how well.
#[test]
fn guesses_change_no_answer() {
    let lone = server(false, 320, 8);
    let expected: Vec<Said> = (0..16).map(|i| ask(&lone, i)).collect();
    assert_eq!(lone.metric("vllm:spec_decode_num_drafts_total"), 0.0);
    let speculation = Some(Speculation { drafter: Drafter::Mtp, num_tokens: 1 });
    let load =
        LoadOptions { context_len: Some(320), max_sequences: 16, speculation, ..LoadOptions::default() };
    let guessing = TestServer::loaded(load, options(), ServiceOptions::default());
    assert_eq!(at_once(&guessing, 16, || ()), expected);
    let [drafts, guessed, right] = ["drafts", "draft_tokens", "accepted_tokens"]
        .map(|what| guessing.metric(&format!("vllm:spec_decode_num_{what}_total")));
    assert!(drafts > 100.0 && guessed == drafts, "{guessed} guesses in {drafts} drafts");
    assert!(right > 0.4 * guessed && right < guessed, "{right} of {guessed} guesses were right");
}
