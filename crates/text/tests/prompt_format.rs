//! `PromptFormat`: which form a checkpoint's conversations take, and messages that are continued.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its data has to fail")]

mod support;

use text::{ChatRequest, Error, Generation, Message, OutputStart, PromptFormat, Thinking, Tool};

fn continued(content: Option<&str>, reasoning: Option<&str>, thinking: Option<bool>) -> ChatRequest {
    let mut last = Message::assistant("");
    last.content = content.map(str::to_owned);
    last.reasoning_content = reasoning.map(str::to_owned);
    last.prefix = Some(true);
    ChatRequest { thinking, continue_final_message: true, ..ChatRequest::new(vec![Message::user("Q"), last]) }
}

/// Catches: reasoning dropped or put behind its end, content continued as reasoning, the turn closed.
#[test]
fn reasoning_and_content_are_continued() {
    let render = |generation, request: &ChatRequest| {
        let prompt = PromptFormat::of_generation(generation).render(request)?;
        Ok::<_, Error>((prompt.to_string(), prompt.opens_reasoning()))
    };
    let head = "<｜begin▁of▁sentence｜><｜User｜>Q<｜Assistant｜>";
    for (generation, content, reasoning, thinking, tail, open) in [
        (Generation::V31, None, Some("so"), None, "<think>so", true),
        (Generation::V31, Some(""), Some("so"), Some(true), "<think>so", true),
        (Generation::V31, Some("A"), Some("so"), Some(true), "<think>so</think>A", false),
        (Generation::V31, Some("A"), Some("so"), Some(false), "</think>A", false),
        (Generation::V31, Some("A"), None, Some(true), "</think>A", false),
        (Generation::V32, None, Some("so"), None, "<think>so", true),
        (Generation::V32, Some("A"), Some("so"), Some(true), "<think>so</think>A", false),
        (Generation::V32, Some("A"), Some("so"), Some(false), "</think>A", false),
        (Generation::V32, Some("A"), None, Some(true), "<think></think>A", false),
        (Generation::R1, None, Some("so"), None, "<think>\nso", true),
        (Generation::R1, Some("A"), Some("so"), None, "<think>\nso</think>A", false),
        (Generation::V3, Some("A"), Some("so"), None, "A", false),
    ] {
        let rendered = render(generation, &continued(content, reasoning, thinking)).unwrap();
        assert_eq!(rendered, (format!("{head}{tail}"), open), "{generation:?} {content:?} {thinking:?}");
    }
    for (generation, thinking) in [(Generation::V3, None), (Generation::V31, Some(false))] {
        let refused = render(generation, &continued(None, Some("so"), thinking));
        assert!(matches!(refused, Err(Error::CannotContinue { .. })), "{refused:?}");
    }
}

/// Catches: two ways to continue a reasoning that part ways. V4's encoder has its own.
#[test]
fn v4_continues_as_its_own_encoder_does() {
    for generation in [Generation::V4, Generation::V4_0731, Generation::V41] {
        for (content, reasoning) in [(None, "so"), (Some("A"), "so"), (Some(""), "so")] {
            let request = continued(content, Some(reasoning), Some(true));
            let prompt = PromptFormat::of_generation(generation).render(&request).unwrap();
            assert_eq!(prompt, generation.encode(&request).unwrap(), "{generation:?} {content:?}");
            assert_eq!(prompt.opens_reasoning(), content.is_none_or(str::is_empty));
        }
        let required = serde_json::json!({"messages": [{"role": "user", "content": "Q"}], "thinking": false, "tool_choice": "required",
            "tools": [{"type": "function", "function": {"name": "f"}}]});
        let request: ChatRequest = serde_json::from_value(required).unwrap();
        let prompt = generation.encode(&request).unwrap();
        assert_eq!(OutputStart::from(&prompt), OutputStart::ToolCalls, "{prompt}");
        let prompt = generation.encode(&ChatRequest { thinking: Some(true), ..request }).unwrap();
        assert_eq!(OutputStart::from(&prompt), OutputStart::Reasoning, "{prompt}");
        let effort = ChatRequest { reasoning_effort: Some("vast".to_owned()), ..ChatRequest::new(vec![]) };
        assert!(matches!(generation.encode(&effort), Err(Error::UnknownEffort { .. })));
    }
}

/// Catches: a template left out, tools sent to a template without a place for them.
#[test]
fn the_template_comes_first_and_the_generation_helps_out() {
    let with_template = |template: &str| {
        let config = serde_json::json!({"chat_template": template, "bos_token": "<｜begin▁of▁sentence｜>"});
        let tokenizer =
            text::Tokenizer::from_bytes(&support::tokenizer_json(), Some(config.to_string().as_bytes()));
        PromptFormat::new(&tokenizer.unwrap(), "deepseek_v3").unwrap()
    };
    let tool = serde_json::json!({"type": "function", "function": {"name": "f"}});
    let tools: Vec<Tool> = vec![serde_json::from_value(tool).unwrap()];
    let plain = ChatRequest::new(vec![Message::user("Q")]);
    let offering = ChatRequest { tools: tools.clone(), ..plain.clone() };

    let own = with_template("TEMPLATE{{'<｜User｜>' + messages[0].content + '<｜Assistant｜></think>'}}");
    assert_eq!(own.name(), "chat template (v31)");
    assert!(own.takes_tools() && own.thinking() == Thinking::Optional { default: false });
    assert!(own.render(&plain).unwrap().to_string().starts_with("TEMPLATE"));
    assert!(own.render(&offering).unwrap().to_string().contains("### f"));

    let taking = with_template("TEMPLATE{{'<｜User｜>' + '<｜Assistant｜></think>'}}{{tools}}");
    assert!(taking.render(&offering).unwrap().to_string().starts_with("TEMPLATE"));

    let unknown = with_template("[INST]{{messages[0].content}}");
    assert_eq!((unknown.generation(), unknown.thinking()), (None, Thinking::Never));
    assert!(!unknown.takes_tools());
    let call = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>";
    assert_eq!(own.parser(false, &tools).parse([call]).tool_calls.len(), 1);
    assert_eq!(unknown.parser(false, &tools).parse([call]).content, call);
}

#[test]
fn nothing_known_is_an_error_that_says_so() {
    let tokenizer = support::tokenizer();
    let format = PromptFormat::new(tokenizer, "mystery").unwrap();
    assert_eq!(format.name(), "raw text only");
    let refused = format.render(&ChatRequest::new(vec![Message::user("Q")]));
    assert!(
        matches!(refused, Err(Error::NoPromptFormat { ref model_type }) if model_type == "mystery"),
        "{refused:?}"
    );
}
