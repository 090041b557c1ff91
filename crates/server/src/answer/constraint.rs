//! From what an answer must look like to the tokens that may come next.

use engine::Constraint;
use text::OutputStart;
use text::grammar::{Grammar, GrammarSpec, Matcher};

use crate::error::{ApiError, ApiResult};
use crate::request::{GenerateRequest, OutputForm, ToolChoice};
use crate::state::App;

/// Compiles what the request holds its answers to. May take a while: not for the event loop.
pub(super) fn grammar(
    app: &App,
    request: &GenerateRequest,
    start: OutputStart,
) -> ApiResult<Option<Grammar>> {
    let Some((spec, field)) = spec(app, request, start)? else { return Ok(None) };
    let Some(compiler) = &app.grammars else {
        let reason = "this model's tokenizer cannot hold answers to a form".to_owned();
        return Err(ApiError::Refused { field, reason });
    };
    compiler.compile(&spec).map(Some).map_err(|error| refusal(&field, &error))
}

/// What the answer is held to, and the field that says so.
fn spec(
    app: &App,
    request: &GenerateRequest,
    start: OutputStart,
) -> ApiResult<Option<(GrammarSpec, String)>> {
    let format = request.format.as_ref().map(|format| (format.spec.clone(), format.field.clone()));
    let OutputForm::Turn { tools, choice, parallel } = &request.output else { return Ok(format) };
    let must = matches!(choice, ToolChoice::Required | ToolChoice::Named(_));
    if !must && tools.iter().all(|tool| !tool.is_strict()) {
        return Ok(format);
    }
    let Some(generation) = app.model.format.generation() else {
        let reason = "the calls of this model have no form that could be enforced".to_owned();
        return Err(ApiError::Refused { field: "tool_choice".to_owned(), reason });
    };
    let chosen = |name: &str| !matches!(choice, ToolChoice::Named(named) if named != name);
    let spec = GrammarSpec::ToolCalls {
        generation,
        tools: tools.iter().filter(|tool| chosen(tool.name())).cloned().collect(),
        required: must,
        parallel: *parallel,
        opened: start == OutputStart::ToolCalls,
    };
    Ok(Some((spec, "tools".to_owned())))
}

/// What a client is told about a form that cannot be enforced. `field` holds the schema, the expression or the grammar.
fn refusal(field: &str, error: &text::Error) -> ApiError {
    let place = |path: &str| {
        let rest = ["schema", "regex", "grammar"].iter().find_map(|root| path.strip_prefix(root));
        match rest {
            Some(rest) => format!("{field}{rest}"),
            None => path.to_owned(),
        }
    };
    match error {
        text::Error::InvalidGrammar { path, reason } => {
            ApiError::Refused { field: place(path), reason: format!("{}: {reason}", place(path)) }
        }
        text::Error::GrammarTooLarge { path, unit, limit, found } => {
            ApiError::value(place(path), format!("at most {limit} {unit}"), found)
        }
        text::Error::GrammarBusy { compiling } => ApiError::Busy { waiting: *compiling },
        other => ApiError::Refused { field: field.to_owned(), reason: format!("{field}: {other}") },
    }
}

/// A matcher as the engine takes it.
pub(super) struct Held(Matcher);

impl Held {
    /// For an answer that begins at `start`: what comes before the end of the reasoning is free.
    pub(super) fn boxed(grammar: &Grammar, start: OutputStart) -> Box<dyn Constraint> {
        let reasons = matches!(start, OutputStart::Reasoning | OutputStart::ContinuedReasoning);
        Box::new(Self(grammar.matcher(reasons)))
    }
}

impl Constraint for Held {
    fn allowed(&mut self) -> Option<&[u32]> {
        self.0.allowed()
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.0.accept(token)
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Self(self.0.fork()))
    }
}
