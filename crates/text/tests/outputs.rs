//! Output parsers against what the references find in the same texts, however the texts are cut.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its data has to fail")]

mod support;

use proptest::prelude::*;
use support::parse_file;
use text::{Chunkings, Generation, OutputDelta, OutputParser, ParsedOutput, Tool, verify_parse_file};

fn check(name: &str, cases: usize) {
    let file = parse_file(name);
    assert_eq!(file.cases.len(), cases);
    let report = verify_parse_file(&file, Chunkings::All, None);
    assert!(report.passed(), "{:#?}", report.failures().collect::<Vec<_>>());
}

#[test]
fn v3() {
    check("v3", 20);
}

#[test]
fn r1() {
    check("r1", 26);
}

#[test]
fn v31() {
    check("v31", 46);
}

#[test]
fn v32() {
    check("v32", 54);
    check("v32_random", 141);
}

#[test]
fn v4() {
    check("v4", 54);
}

#[test]
fn v41() {
    check("v41", 54);
}

/// Catches: ids left out of the check, markers lost between ids.
#[test]
fn v4_by_token() {
    let report = verify_parse_file(&parse_file("v4"), Chunkings::All, Some(support::tokenizer()));
    assert!(report.passed(), "{:#?}", report.failures().collect::<Vec<_>>());
    assert!(report.cases.iter().filter(|case| case.ids_compared).count() > 10);
}

fn tool(name: &str) -> Tool {
    serde_json::from_value(serde_json::json!({"type": "function", "function": {"name": name}})).unwrap()
}

fn deltas(mut parser: OutputParser, chunks: &[&str]) -> Vec<OutputDelta> {
    let mut deltas: Vec<OutputDelta> = chunks.iter().flat_map(|chunk| parser.push(chunk)).collect();
    deltas.extend(parser.finish());
    deltas
}

/// Catches: text held back to the end instead of streamed, markers or the white space before them let through.
#[test]
fn text_streams_and_markers_do_not() {
    let chunks = [
        "so",
        "</thi",
        "nk>",
        "I ",
        "look.",
        "\n\n<｜tool▁",
        "calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}",
    ];
    let mut parser = Generation::V31.parser(true, &[tool("f")]);
    let steps: Vec<Vec<OutputDelta>> = chunks.iter().map(|chunk| parser.push(chunk)).collect();
    let content = |text: &str| vec![OutputDelta::Content(text.to_owned())];
    assert_eq!(steps[0], [OutputDelta::Reasoning("so".to_owned())]);
    assert_eq!(steps[1..3], [vec![], vec![]]);
    assert_eq!(steps[3..5], [content("I"), content(" look.")]);
    assert_eq!(steps[5..], [vec![], vec![]]);
    let call = parser.push("<｜tool▁call▁end｜>");
    let expected = [
        OutputDelta::ToolCall { index: 0, name: "f".to_owned() },
        OutputDelta::Arguments { index: 0, text: "{}".to_owned() },
    ];
    assert_eq!(call, expected);
    assert_eq!(parser.push("<｜tool▁calls▁end｜>\nDone."), []);
    assert_eq!(parser.finish(), []);
}

/// Catches: calls read where nobody offered a tool.
#[test]
fn without_tools_markers_are_text() {
    let text =
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    for generation in Generation::ALL {
        let output = generation.parser(false, &[]).parse([text]);
        assert_eq!(output, ParsedOutput { content: text.to_owned(), ..ParsedOutput::default() });
    }
}

/// Catches: a broken call after a good one swallowed, or the good one taken back.
#[test]
fn a_broken_call_is_text_and_earlier_calls_stay() {
    let good = "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>";
    for broken in ["f<｜tool▁sep｜>{\"a\"", "f", "f<｜tool▁sep｜>[1]", "f<｜tool▁sep｜>"] {
        let bad = format!("<｜tool▁call▁begin｜>{broken}<｜tool▁call▁end｜>");
        let text = format!("Hi. <｜tool▁calls▁begin｜>{good}{bad}{good}<｜tool▁calls▁end｜>");
        let output = Generation::V31.parser(false, &[tool("f")]).parse([text.as_str()]);
        assert_eq!(output.tool_calls.len(), 1, "{broken}");
        assert_eq!(output.content, format!("Hi.{bad}{good}<｜tool▁calls▁end｜>"));
    }
}

/// Catches: text held back where no tag is, calls of V3.2 passed on before their list is closed, line breaks taken from or left to the text.
#[test]
fn tagged_calls_come_once_their_list_is_closed() {
    let content = |text: &str| vec![OutputDelta::Content(text.to_owned())];
    let mut parser = Generation::V32.parser(true, &[tool("f")]);
    assert_eq!(
        parser.push("so</think>I look.\n"),
        [vec![OutputDelta::Reasoning("so".to_owned())], content("I look.")].concat()
    );
    assert_eq!(parser.push("\n<"), []);
    assert_eq!(parser.push("b>\n\n"), content("\n\n<b>"));
    let list = "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\"> é</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>";
    for chunk in list.split_inclusive('>') {
        assert_eq!(parser.push(chunk), []);
    }
    let expected = [
        OutputDelta::ToolCall { index: 0, name: "f".to_owned() },
        OutputDelta::Arguments { index: 0, text: r#"{"a": " é"}"#.to_owned() },
    ];
    assert_eq!(parser.finish(), expected);
}

/// Catches: the strict reading where the text is not DeepSeek's own to the letter, or the broad one where it is.
#[test]
fn a_well_formed_list_is_read_to_the_letter_and_others_broadly() {
    let parse = |text: &str| Generation::V32.parser(false, &[tool("f")]).parse([text]);
    let call = |name: &str, value: &str| {
        format!(
            "<｜DSML｜invoke name=\"{name}\">\n<｜DSML｜parameter name=\"a\" string=\"true\">{value}</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
        )
    };
    let list = |calls: &str| format!("Hi.\n\n<｜DSML｜function_calls>\n{calls}</｜DSML｜function_calls>");
    let found = |output: &ParsedOutput| {
        let call = |call: &text::FunctionCall| format!("{}{}", call.name, call.arguments.text());
        (output.content.clone(), output.tool_calls.iter().map(call).collect::<Vec<_>>().join(" "))
    };
    let both = call("f", " x ") + &call("g", "y");
    for (text, content, calls) in [
        (list(&both), "Hi.", r#"f{"a": " x "} g{"a": "y"}"#),
        (list(&both) + "\nDone.", "Hi.", r#"f{"a": "x"}"#),
        (list(&both).replace("\n\n", ""), "Hi.", r#"f{"a": "x"}"#),
        (list(&both) + "\n\n" + &list(&call("f", "z")), "Hi.", r#"f{"a": "x"} f{"a": "z"}"#),
        (list(&both).replace("</｜DSML｜function_calls>", ""), "Hi.", ""),
        (both.clone(), "", r#"f{"a": "x"}"#),
        ("x｜DSML｜y".to_owned(), "x｜DSML｜y", ""),
        (list("<｜DSML｜invoke name=\"f\"/>"), "Hi.", "f{}"),
        (list("<｜DSML｜invoke name=\"f\">\n{\"b\": 1.0}\n</｜DSML｜invoke>"), "Hi.", r#"f{"b": 1.0}"#),
        (list("<｜DSML｜invoke name=\"f\">\nwords\n</｜DSML｜invoke>"), "Hi.", ""),
        (list(&both.replacen(" string=\"true\"", "", 1)), "Hi.", ""),
    ] {
        assert_eq!(found(&parse(&text)), (content.to_owned(), calls.to_owned()), "{text}");
    }
}

/// Catches: time that grows with the square of the text, which a model that never stops would turn into a hang.
#[test]
fn long_outputs_char_by_char_are_quick() {
    let long = "{\"a\": \"".to_owned() + &"x".repeat(400_000);
    let call = format!("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{long}");
    let junk = format!(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{{}}<｜tool▁call▁end｜>{}",
        "<｜".repeat(200_000)
    );
    let calls = "<｜DSML｜invoke name=\"f\">\n</｜DSML｜invoke>\n".repeat(20_000);
    let calls = format!("\n\n<｜DSML｜function_calls>\n{calls}</｜DSML｜function_calls>");
    let open = format!("<｜DSML｜invoke name=\"f\">{}", "<｜DSML｜parameter name=\"a\">".repeat(20_000));
    for text in [call, junk, "\n".repeat(400_000), "<".repeat(400_000), calls, open] {
        for generation in [Generation::V31, Generation::V32] {
            let mut parser = generation.parser(false, &[tool("f")]);
            let mut sizes = [0u8; 4];
            for c in text.chars() {
                parser.push(c.encode_utf8(&mut sizes));
            }
            parser.finish();
        }
    }
}

const PARTS: &str = "(<think>|</think>|<｜tool▁calls▁begin｜>|<｜tool▁call▁begin｜>|<｜tool▁call▁end｜>|<｜tool▁calls▁end｜>|<｜tool▁sep｜>|\
    <｜DSML｜tool_calls>|\n\n<｜DSML｜function_calls>\n|</｜DSML｜function_calls>|<｜DSML｜invoke name=\"f\">\n|</｜DSML｜invoke>\n|</｜DSML｜parameter>\n|<｜DSML｜ invoke name=\"|<｜DSML｜parameter name=\"|string=\"true\">|\"|</｜DSML｜|function|f|g|\n```json\n|\n```|\\{\\}|\\{\"a\": \"é\"\\}|<｜|<|\n| |a|é|\\PC){0,6}";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Catches: outputs that depend on the chunks, panics on any text, empty deltas, characters lost or invented.
    #[test]
    fn chunks_do_not_matter_and_nothing_is_lost(parts in prop::collection::vec(PARTS, 0..8), inside: bool, generation in 0..Generation::ALL.len()) {
        let generation = Generation::ALL[generation];
        let whole = parts.concat();
        let parser = |tools: &[Tool]| generation.parser(inside, tools);
        let tools = [tool("f")];
        let chunks: Vec<&str> = parts.iter().map(String::as_str).collect();
        let chars: Vec<String> = whole.chars().map(String::from).collect();
        let one = parser(&tools).parse([whole.as_str()]);
        prop_assert_eq!(&parser(&tools).parse(chunks.iter().copied()), &one);
        prop_assert_eq!(&parser(&tools).parse(chars.iter().map(String::as_str)), &one);
        for delta in deltas(parser(&tools), &chunks) {
            let (OutputDelta::Content(text)
            | OutputDelta::Reasoning(text)
            | OutputDelta::Arguments { text, .. }) = delta
            else {
                continue;
            };
            prop_assert!(!text.is_empty());
        }
        // Without tools only the reasoning's own tags may go.
        let plain = parser(&[]).parse(chunks.iter().copied());
        let count = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
        let kept = count(&plain.reasoning) + count(&plain.content);
        let ends = whole.matches("</think>").count();
        let tags = "<think>".len() + ends * "</think>".len();
        prop_assert!(kept <= count(&whole) && kept + tags >= count(&whole), "{kept} of {}", count(&whole));
    }
}
