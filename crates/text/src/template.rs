//! `ChatTemplate`: the checkpoint's own Jinja chat template, rendered to a segmented prompt.
//!
//! minijinja runs the template as transformers runs it with jinja2: `trim_blocks`, `lstrip_blocks`, loop controls, Python's string and dict
//! methods, `tojson` without ASCII or HTML escapes, `raise_exception`, `strftime_now`. A template has no access to files, environment or
//! clock beyond that, and runs under limits: instructions, recursion, size of the output. How the control tokens of the rendered string are
//! told from those a user spelled is argued in `provenance.rs`.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, State, Value};
use serde_json::{Map, json};

use crate::chat::ChatRequest;
use crate::clock::strftime;
use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::provenance::{ControlFinder, Marks, segment, strip_around_marks, without_marks};
use crate::python_json;
use crate::tokenizer::Tokenizer;

/// Instructions a template may run: about a second, and a hundred times what a conversation of a thousand messages needs.
const MAX_INSTRUCTIONS: u64 = 10_000_000;
/// Nested macros and loops; kept well below what a thread's stack holds.
const MAX_RECURSION: usize = 64;
/// Bytes of output beyond eight times the conversation's own size.
const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// A parsed chat template together with the control tokens of its tokenizer.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    finder: ControlFinder,
    tokens: Map<String, serde_json::Value>,
}

/// What `raise_exception` throws, so that it can be told from other errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Parses a template for a tokenizer.
    ///
    /// # Errors
    /// [`Error::TemplateSyntax`] when the template does not parse.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let config = tokenizer.config();
        let mut tokens = Map::new();
        for (name, token) in [
            ("bos_token", config.bos_token()),
            ("eos_token", config.eos_token()),
            ("pad_token", config.pad_token()),
        ] {
            if let Some(token) = token {
                tokens.insert(name.to_owned(), token.into());
            }
        }
        environment(HashSet::new(), SystemTime::UNIX_EPOCH)
            .template_from_str(source)
            .map_err(|error| syntax_error(&error))?;
        Ok(Self {
            source: source.to_owned(),
            finder: ControlFinder::new(tokenizer.control_tokens())?,
            tokens,
        })
    }

    /// Renders a conversation with the present time.
    ///
    /// # Errors
    /// As [`ChatTemplate::render_at`].
    pub fn render(&self, request: &ChatRequest) -> Result<Prompt> {
        self.render_at(request, SystemTime::now())
    }

    /// Renders a conversation as of `now` (UTC), which a template may ask for by `strftime_now`.
    ///
    /// # Errors
    /// [`Error::TemplateRaised`] when the template refuses the conversation, [`Error::TemplateRender`] when it fails,
    /// [`Error::TemplateLimit`] when it runs too long or writes too much, [`Error::TemplateProvenance`] when user text spells control tokens
    /// and the template hides which, [`Error::CannotContinue`] when the message to continue is not in the output.
    pub fn render_at(&self, request: &ChatRequest, now: SystemTime) -> Result<Prompt> {
        let continued = request.continued()?;
        let (user, own) = self.variables(request, continued.is_some());
        let plain = self.run(user.clone(), own.clone(), HashSet::new(), now)?;
        let mut marks = Marks::new(&self.finder, &self.source, user.values())?;
        let mut marked_user = Map::new();
        for (name, value) in user {
            marked_user.insert(name, marks.mark(&value)?);
        }
        let marked = match marks.used().is_empty() {
            true => plain.clone(),
            false => self.run(marked_user, own, marks.used().clone(), now)?,
        };
        let mut prompt = segment(&marks, &plain, &marked)?;
        if let Some(content) = continued {
            let content = content.trim();
            if content.is_empty() {
                let found = "an assistant message without content".to_owned();
                return Err(Error::CannotContinue { found });
            }
            let found = || "a message that the template does not write out".to_owned();
            let start = plain.rfind(content).ok_or_else(|| Error::CannotContinue { found: found() })?;
            prompt.truncate(start + content.len());
        }
        Ok(prompt)
    }

    /// The template's variables: those that a user fills, and our own.
    fn variables(
        &self,
        request: &ChatRequest,
        continued: bool,
    ) -> (Map<String, serde_json::Value>, Map<String, serde_json::Value>) {
        let mut user = request.chat_template_kwargs.clone();
        user.insert("messages".to_owned(), json!(request.messages));
        let tools = if request.tools.is_empty() { serde_json::Value::Null } else { json!(request.tools) };
        user.insert("tools".to_owned(), tools);
        if let Some(effort) = &request.reasoning_effort {
            user.insert("reasoning_effort".to_owned(), json!(effort));
        }
        if let Some(format) = &request.response_format {
            user.insert("response_format".to_owned(), format.clone());
        }
        let mut own = self.tokens.clone();
        own.insert("add_generation_prompt".to_owned(), json!(request.add_generation_prompt && !continued));
        if let Some(thinking) = request.thinking {
            // DeepSeek's name and the one other families use.
            own.insert("thinking".to_owned(), json!(thinking));
            own.insert("enable_thinking".to_owned(), json!(thinking));
        }
        (user, own)
    }

    fn run(
        &self,
        mut variables: Map<String, serde_json::Value>,
        own: Map<String, serde_json::Value>,
        marks: HashSet<char>,
        now: SystemTime,
    ) -> Result<String> {
        let input: usize = variables.values().map(|value| value.to_string().len()).sum();
        let limit = MAX_OUTPUT_BYTES + 8 * input;
        variables.extend(own);
        let environment = environment(marks, now);
        let template = environment.template_from_str(&self.source).map_err(|error| syntax_error(&error))?;
        let mut output = Limited { bytes: Vec::new(), limit, exceeded: false };
        let rendered = template.render_captured_to(Value::from(Serde(&variables)), &mut output).map(drop);
        if output.exceeded {
            return Err(Error::TemplateLimit { limit: limit as u64, unit: "bytes of output" });
        }
        rendered.map_err(|error| render_error(&error))?;
        String::from_utf8(output.bytes)
            .map_err(|error| Error::TemplateRender { line: 0, reason: error.to_string() })
    }
}

/// A buffer that stops taking bytes at its limit.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.exceeded = true;
            return Err(io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An environment as transformers sets jinja2 up; methods and filters that look at the ends of strings look through `marks`.
fn environment(marks: HashSet<char>, now: SystemTime) -> Environment<'static> {
    let mut environment = Environment::new();
    // Only custom delimiters can make a configuration invalid, and none are set.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_fuel(Some(MAX_INSTRUCTIONS));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let marks = Arc::new(marks);
    let method_marks = Arc::clone(&marks);
    environment.set_unknown_method_callback(move |state, value, method, args| {
        call_method(state, value, method, args, &method_marks)
    });
    environment.add_filter("trim", move |text: String, chars: Option<String>| {
        strip(&text, chars.as_deref(), true, true, &marks)
    });
    environment.add_filter("tojson", tojson);
    environment.add_function(
        "raise_exception",
        |message: String| -> std::result::Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception")
                .with_source(Raised(message)))
        },
    );
    environment.add_function("strftime_now", move |format: &str| strftime(now, format));
    environment
}

fn strip(text: &str, chars: Option<&str>, left: bool, right: bool, marks: &HashSet<char>) -> String {
    match chars {
        Some(chars) => strip_around_marks(text, left, right, marks, |c| chars.contains(c)),
        None => strip_around_marks(text, left, right, marks, char::is_whitespace),
    }
}

fn call_method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
    marks: &HashSet<char>,
) -> std::result::Result<Value, minijinja::Error> {
    let Some(text) = value.as_str().filter(|text| text.chars().any(|c| marks.contains(&c))) else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args);
    };
    let chars = args.first().and_then(Value::as_str);
    match method {
        "strip" => Ok(strip(text, chars, true, true, marks).into()),
        "lstrip" => Ok(strip(text, chars, true, false, marks).into()),
        "rstrip" => Ok(strip(text, chars, false, true, marks).into()),
        "startswith" | "endswith" => {
            let unmarked = Value::from(without_marks(text, marks));
            minijinja_contrib::pycompat::unknown_method_callback(state, &unmarked, method, args)
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `json.dumps(value, ensure_ascii=False)`, as transformers replaces jinja2's filter.
fn tojson(value: &Value, kwargs: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    // Accepted for compatibility: characters are never escaped.
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let bad =
        |error: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string());
    Ok(python_json::dumps(&serde_json::to_value(value).map_err(bad)?, indent))
}

fn syntax_error(error: &minijinja::Error) -> Error {
    Error::TemplateSyntax { line: error.line().unwrap_or(0), reason: reason(error) }
}

fn render_error(error: &minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref::<Raised>() {
            return Error::TemplateRaised { message: message.clone() };
        }
        if inner.downcast_ref::<minijinja::Error>().is_some_and(|inner| inner.kind() == ErrorKind::OutOfFuel)
        {
            return Error::TemplateLimit { limit: MAX_INSTRUCTIONS, unit: "instructions" };
        }
        cause = inner.source();
    }
    Error::TemplateRender { line: error.line().unwrap_or(0), reason: reason(error) }
}

fn reason(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{:?}: {detail}", error.kind()),
        None => format!("{:?}", error.kind()),
    }
}
