//! Grammars: what the masks allow always parses and validates, and no grammar costs more than its budget.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its data has to fail")]

mod support;

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use text::grammar::{GrammarCompiler, GrammarLimits, GrammarSpec, Matcher};
use text::{Error, Generation, SpecialTokens, Tokenizer, Tool};

/// The demo model's tokenizer: a thousand tokens, V3.1's control tokens among them.
fn small() -> &'static (Tokenizer, GrammarCompiler) {
    static SMALL: OnceLock<(Tokenizer, GrammarCompiler)> = OnceLock::new();
    SMALL.get_or_init(|| {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
        let tokenizer = Tokenizer::from_dir(&dir).unwrap();
        let compiler = GrammarCompiler::new(&tokenizer, limits()).unwrap();
        (tokenizer, compiler)
    })
}

/// The budget of the tests is generous: the machine that runs them may be busy.
fn limits() -> GrammarLimits {
    GrammarLimits { max_time: Duration::from_secs(60), ..GrammarLimits::default() }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end
    }
}

fn allowed(matcher: &mut Matcher) -> Vec<u32> {
    let words = matcher.allowed().expect("the grammar has begun").to_vec();
    let ids = (0..words.len() as u32 * 32).filter(|id| words[*id as usize / 32] >> (id % 32) & 1 == 1);
    ids.collect()
}

/// Allowed tokens that lead towards an end: control tokens, and what closes a tag, an object, a list or a text.
fn closing(tokenizer: &Tokenizer, allowed: &[u32]) -> Vec<u32> {
    let ends: [&[u8]; 5] = [b"</", b"<", b"}", b"]", b"\""];
    let closes = |id: &u32| {
        tokenizer.is_control(*id) || tokenizer.token_bytes(*id).is_some_and(|bytes| ends.contains(&bytes))
    };
    allowed.iter().copied().filter(closes).collect()
}

/// Walks at random through what is allowed, and after a while towards an end. Returns ids without the end token.
fn wander(tokenizer: &Tokenizer, matcher: &mut Matcher, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    let mut ids = Vec::new();
    for step in 0..2_000 {
        let allowed = allowed(matcher);
        assert!(!allowed.is_empty(), "a dead end after {:?}", tokenizer.decode(&ids, SpecialTokens::Show));
        let end = allowed.iter().find(|id| tokenizer.eos_ids().contains(id));
        let hurry = step > 30;
        let closing = closing(tokenizer, &allowed);
        let opens = closing.iter().find(|id| tokenizer.is_control(**id) && Some(*id) != end);
        let id = match (end, opens) {
            (_, Some(&control)) if random.below(4) == 0 => control,
            (Some(&end), _) if hurry || random.below(4) == 0 => end,
            _ if hurry && !closing.is_empty() && random.below(4) > 0 => closing[random.below(closing.len())],
            _ => allowed[random.below(allowed.len())],
        };
        matcher.accept(id).unwrap();
        if tokenizer.eos_ids().contains(&id) {
            return ids;
        }
        ids.push(id);
    }
    panic!("no end after {:?}", tokenizer.decode(&ids, SpecialTokens::Show));
}

fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
            "required": ["name", "age"], "additionalProperties": false}),
        json!({"type": "array", "items": {"enum": ["a", "é", 3, null, true]}, "minItems": 1, "maxItems": 4}),
        json!({"type": "object", "properties": {"kind": {"const": "x"}, "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 3}},
            "required": ["kind"], "additionalProperties": false}),
        json!({"anyOf": [{"type": "number", "minimum": -1000, "maximum": 1000}, {"type": "string", "pattern": "^[a-c]{2,4}$"}, {"type": "null"}]}),
        json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {"left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
            "value": {"type": "boolean"}}, "required": ["left", "value"], "additionalProperties": false}}}),
        json!({"type": "object", "properties": {"at": {"type": "string", "format": "date-time"}, "mail": {"type": "string", "format": "email"}},
            "required": ["at"], "additionalProperties": false}),
        json!({"type": ["string", "integer"]}),
        json!(true),
    ]
}

/// Catches: masks that let through what the schema forbids, an end too early, masks of another token.
#[test]
fn whatever_the_masks_allow_validates() {
    let (tokenizer, compiler) = small();
    for schema in schemas() {
        let validator = jsonschema::validator_for(&schema).unwrap();
        let grammar = compiler.compile(&GrammarSpec::JsonSchema(schema.clone())).unwrap();
        for seed in 0..12 {
            let ids = wander(tokenizer, &mut grammar.matcher(false), seed);
            let text = tokenizer.decode(&ids, SpecialTokens::Show);
            let value = match serde_json::from_str::<Value>(&text) {
                Ok(value) => value,
                // 1E999 is JSON, though more than this reader's numbers hold.
                Err(error) if error.to_string().contains("out of range") => continue,
                Err(error) => panic!("{error}: {text}"),
            };
            assert!(validator.is_valid(&value), "{schema} does not accept {text}");
        }
    }
    let grammar = compiler.compile(&GrammarSpec::JsonObject).unwrap();
    for seed in 0..12 {
        let ids = wander(tokenizer, &mut grammar.matcher(false), seed);
        let text = tokenizer.decode(&ids, SpecialTokens::Show);
        assert!(text.starts_with('{') && text.ends_with('}'), "{text}");
    }
}

#[test]
fn expressions_and_grammars_are_followed() {
    let (tokenizer, compiler) = small();
    for anchored in ["[ab]{2,3}-[0-9]+", "^[ab]{2,3}-[0-9]+$"] {
        let grammar = compiler.compile(&GrammarSpec::Regex(anchored.to_owned())).unwrap();
        for seed in 0..12 {
            let text =
                tokenizer.decode(&wander(tokenizer, &mut grammar.matcher(false), seed), SpecialTokens::Show);
            let (word, number) = text.split_once('-').unwrap();
            assert!((2..=3).contains(&word.len()) && word.bytes().all(|b| b == b'a' || b == b'b'), "{text}");
            assert!(!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()), "{text}");
        }
    }
    let sums = "start: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]{1,3}/".to_owned();
    let grammar = compiler.compile(&GrammarSpec::Lark(sums)).unwrap();
    let text = tokenizer.decode(&wander(tokenizer, &mut grammar.matcher(false), 3), SpecialTokens::Show);
    assert!(text.split('+').all(|number| (1..=3).contains(&number.len())), "{text}");
}

fn tool(name: &str, strict: bool) -> Tool {
    let parameters = json!({"type": "object", "additionalProperties": false, "required": ["city", "code"], "properties": {
        "city": {"type": "string"}, "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{2}$"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}, "unit": {"enum": ["c", "f"]}}});
    let function = json!({"name": name, "strict": strict, "parameters": parameters});
    serde_json::from_value(json!({"type": "function", "function": function})).unwrap()
}

/// Wanders through the calls of a generation and reads them with its parser. `lead` is a text after which `opener` may open the calls.
fn check_calls(
    tokenizer: &Tokenizer,
    compiler: &GrammarCompiler,
    generation: Generation,
    (lead, opener): (&str, &str),
) {
    let tools = vec![tool("look_up", true), tool("other", false)];
    let validator = jsonschema::validator_for(tools[0].parameters().unwrap()).unwrap();
    let (lead_ids, opener) = (tokenizer.encode_text(lead).unwrap(), tokenizer.id_of_token(opener).unwrap());
    for (required, parallel) in [(true, true), (true, false), (false, true)] {
        let spec =
            GrammarSpec::ToolCalls { generation, tools: tools.clone(), required, parallel, opened: false };
        let grammar = compiler.compile(&spec).unwrap();
        let mut called = 0;
        for seed in 0..10 {
            let mut matcher = grammar.matcher(false);
            let mut ids = Vec::new();
            if !required {
                ids.extend(lead_ids.iter().chain([&opener]));
                ids.iter().for_each(|&id| matcher.accept(id).unwrap());
            }
            ids.extend(wander(tokenizer, &mut matcher, seed));
            let text = tokenizer.decode(&ids, SpecialTokens::Show);
            let output = generation.parser(false, &tools).parse([text.as_str()]);
            assert!(!output.tool_calls.is_empty(), "{generation:?}: no call in {text:?}");
            assert!(parallel || output.tool_calls.len() < 2, "{text}");
            assert_eq!(output.content, if required { "" } else { "Hi." });
            for call in &output.tool_calls {
                called += 1;
                let arguments: Value = serde_json::from_str(&call.arguments.text()).unwrap();
                assert!(call.name == "other" || validator.is_valid(&arguments), "{text}");
            }
        }
        assert!(called >= 10);
    }
    let spec = GrammarSpec::ToolCalls { generation, tools, required: false, parallel: true, opened: false };
    let mut matcher = compiler.compile(&spec).unwrap().matcher(false);
    lead_ids.iter().for_each(|&id| matcher.accept(id).unwrap());
    assert!(matcher.is_accepting(), "text alone is an answer");
}

#[test]
fn calls_of_v31_and_v3_are_called_by_construction() {
    let (tokenizer, compiler) = small();
    let lead = ("Hi.", "<｜tool▁calls▁begin｜>");
    check_calls(tokenizer, compiler, Generation::V31, lead);
    check_calls(tokenizer, compiler, Generation::V3, lead);
    let v2 = GrammarSpec::ToolCalls {
        generation: Generation::V2,
        tools: vec![tool("f", true)],
        required: true,
        parallel: true,
        opened: false,
    };
    assert!(matches!(compiler.compile(&v2), Err(Error::InvalidGrammar { .. })));
}

#[test]
fn calls_in_tags_are_called_by_construction() {
    let tokenizer = support::tokenizer();
    let compiler = GrammarCompiler::new(tokenizer, limits()).unwrap();
    let lead = ("Hi.\n\n<", "｜DSML｜");
    check_calls(tokenizer, &compiler, Generation::V32, lead);
    check_calls(tokenizer, &compiler, Generation::V4_0731, lead);
    check_calls(tokenizer, &compiler, Generation::V41, lead);
    let tools = vec![tool("look_up", true)];
    let generation = Generation::V4_0731;
    let spec = GrammarSpec::ToolCalls {
        generation,
        tools: tools.clone(),
        required: true,
        parallel: true,
        opened: true,
    };
    let ids = wander(tokenizer, &mut compiler.compile(&spec).unwrap().matcher(false), 1);
    let text = tokenizer.decode(&ids, SpecialTokens::Show);
    let output = generation.parser(text::OutputStart::ToolCalls, &tools).parse([text.as_str()]);
    assert_eq!(output.tool_calls[0].name, "look_up", "{text}");
}

/// Catches: a mask before the reasoning has ended, a grammar that never begins, forks that share their state.
#[test]
fn the_grammar_begins_after_the_reasoning_and_forks_go_their_own_way() {
    let (tokenizer, compiler) = small();
    let grammar = compiler.compile(&GrammarSpec::Regex("ab".to_owned())).unwrap();
    let mut matcher = grammar.matcher(true);
    for id in tokenizer.encode_text("Let me think: {").unwrap() {
        assert_eq!(matcher.allowed(), None);
        assert!(!matcher.is_accepting());
        matcher.accept(id).unwrap();
        assert_eq!(matcher.fork().allowed(), None);
    }
    matcher.accept(tokenizer.id_of_token("</think>").unwrap()).unwrap();
    let a = tokenizer.encode_text("a").unwrap()[0];
    let mut fork = matcher.fork();
    assert!(allowed(&mut matcher).contains(&a));
    matcher.accept(a).unwrap();
    assert!(!allowed(&mut matcher).contains(&a) && allowed(&mut fork).contains(&a));
    let b = tokenizer.encode_text("b").unwrap()[0];
    matcher.accept(b).unwrap();
    assert!(matcher.is_accepting() && !fork.is_accepting());
    assert_eq!(allowed(&mut matcher), tokenizer.eos_ids());
    matcher.accept(tokenizer.eos_ids()[0]).unwrap();
    assert!(fork.accept(b).is_err());
    assert!(fork.accept(a).is_err(), "a matcher that was left stays left");
}

/// Catches: grammars let through that no budget bears, errors without a place.
#[test]
fn bombs_are_refused_and_mistakes_are_placed() {
    let compiler = &small().1;
    let deep = (0..100).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let long = json!({"enum": ["x".repeat(300 << 10)]});
    let nested =
        |inner: Value| json!({"type": "object", "properties": {"a": {"type": "array", "items": inner}}});
    for (schema, place) in [
        (deep, "schema.items.items"),
        (long, "bytes"),
        (nested(json!({"type": "strin"})), "schema.properties.a.items: "),
        (
            nested(json!({"type": "array", "minItems": 4_000_000_000u64})),
            "schema.properties.a.items.minItems",
        ),
        (nested(json!({"maxLength": 1e18})), "schema.properties.a.items.maxLength"),
        (nested(json!({"$ref": "http://example.com/x"})), "schema.properties.a.items.$ref"),
        (nested(json!({"$ref": "#/$defs/missing"})), "schema.properties.a.items: "),
        (nested(json!({"type": "string", "pattern": "("})), "schema.properties.a.items: "),
        (nested(json!({"anyOf": 3})), "schema.properties.a.items.anyOf"),
        (nested(json!(3)), "schema.properties.a.items"),
        (json!([]), "schema"),
        (json!({"type": "object", "properties": {"x": {"if": {"type": "null"}}}}), "schema.properties.x: "),
    ] {
        let error = compiler.compile(&GrammarSpec::JsonSchema(schema)).unwrap_err().to_string();
        assert!(error.contains(place), "{error}");
        assert!(error.len() < 1_000, "{error}");
    }
    for regex in ["(", r"a{2}{3}{4}(?<=x)", &"a|".repeat(200_000)] {
        let error = compiler.compile(&GrammarSpec::Regex(regex.to_owned())).unwrap_err().to_string();
        assert!(error.starts_with("regex: ") && error.len() < 400, "{error}");
    }
    // Whether these compile is llguidance's affair; that neither they nor their masks take long is ours.
    for regex in
        [r"((a{1000}){1000}){1000}", r"(?:[a-z]{0,5000}){0,5000}x", r"(.*.*.*.*.*a){50}", r"(x+x+)+y"]
    {
        if let Ok(grammar) = compiler.compile(&GrammarSpec::Regex(regex.to_owned())) {
            let mut matcher = grammar.matcher(false);
            for id in small().0.encode_text("xxxxaaaaxxaaxxaaxxxaaa").unwrap() {
                if matcher.allowed().is_none() || matcher.accept(id).is_err() {
                    break;
                }
            }
        }
    }
    for grammar in ["", "start: missing", "start: start start start"] {
        let compiled = compiler.compile(&GrammarSpec::Lark(grammar.to_owned()));
        assert!(matches!(compiled, Err(Error::InvalidGrammar { .. })), "{grammar}: {compiled:?}");
    }
    let mut bad = serde_json::to_value(tool("f", true)).unwrap();
    bad["function"]["parameters"]["properties"]["city"]["type"] = json!("town");
    let tools = vec![tool("g", true), serde_json::from_value(bad).unwrap()];
    let generation = Generation::V31;
    let spec = GrammarSpec::ToolCalls { generation, tools, required: true, parallel: true, opened: false };
    let error = compiler.compile(&spec).unwrap_err().to_string();
    assert!(error.starts_with("tools[1].function.parameters.properties.city: "), "{error}");
}

/// Catches: a deadline that is not kept, a cache that keeps everything or nothing.
#[test]
fn time_places_and_memory_are_bounded() {
    let tokenizer = &small().0;
    let compiler = |limits| GrammarCompiler::new(tokenizer, limits).unwrap();
    let spec = |n: usize| GrammarSpec::Regex(format!("a{{{n}}}"));
    let hasty = compiler(GrammarLimits { max_time: Duration::ZERO, ..GrammarLimits::default() });
    assert!(matches!(hasty.compile(&spec(1)), Err(Error::GrammarTooSlow { .. })));
    let full = compiler(GrammarLimits { max_compiling: 0, ..limits() });
    assert!(matches!(full.compile(&spec(1)), Err(Error::GrammarBusy { compiling: 0 })));
    let small = compiler(GrammarLimits { max_cached: 2, ..limits() });
    for n in [1, 2, 1, 3, 1] {
        small.compile(&spec(n)).unwrap();
    }
    assert_eq!(small.cached(), 2);
    assert!(small.is_cached(&spec(1)) && small.is_cached(&spec(3)) && !small.is_cached(&spec(2)));
}
