//! `GrammarCompiler`: grammars become parsers, each on a thread of its own with a deadline, and are remembered.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use llguidance::ParserFactory;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob};
use serde_json::{Value, json};

use super::matcher::first_line;
use super::tool_calls::{CallTokens, Extent};
use super::{GrammarLimits, GrammarSpec, Matcher, expression, invalid, schema, tool_calls, vocabulary};
use crate::encoding::markers::END_THINK;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Compiles grammars for one tokenizer. Share it behind an [`Arc`] or clone it; clones share the memory.
#[derive(Clone)]
pub struct GrammarCompiler {
    inner: Arc<Inner>,
}

struct Inner {
    factory: ParserFactory,
    limits: GrammarLimits,
    tokens: CallTokens,
    end_think: Option<u32>,
    eos: SimpleVob,
    compiling: AtomicUsize,
    /// Least recently used first.
    cache: Mutex<Vec<(GrammarSpec, Grammar)>>,
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").field("limits", &self.inner.limits).finish_non_exhaustive()
    }
}

/// A compiled grammar; clones are cheap.
#[derive(Clone)]
pub struct Grammar {
    start: Arc<Mutex<llguidance::Matcher>>,
    end_think: Option<u32>,
    eos: SimpleVob,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammar {
    /// A matcher for one answer. With `after_reasoning`, everything is allowed up to and including `</think>`, and the grammar begins after
    /// it: for prompts that opened the reasoning.
    pub fn matcher(&self, after_reasoning: bool) -> Matcher {
        let begins_after = self.end_think.filter(|_| after_reasoning);
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        Matcher::new(start.deep_clone(), self.eos.clone(), begins_after)
    }
}

impl GrammarCompiler {
    /// Lays out the tokenizer's vocabulary, which takes a moment for a large one.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the tokenizer names no token that ends an answer.
    pub fn new(tokenizer: &Tokenizer, limits: GrammarLimits) -> Result<Self> {
        let environment = vocabulary::environment(tokenizer)?;
        let eos = environment.tok_trie().eos_token_set();
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| invalid("tokenizer", first_line(&error.to_string())))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            // A lexer state takes one or two kilobytes; a grammar of a real schema needs a few thousand.
            max_lexer_states: 30_000,
            initial_lexer_fuel: 1_000_000,
            max_grammar_size: 100_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        let inner = Inner {
            factory,
            limits,
            tokens: CallTokens::of(tokenizer),
            end_think: tokenizer.id_of_token(END_THINK),
            eos,
            compiling: AtomicUsize::new(0),
            cache: Mutex::new(Vec::new()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Compiles a grammar, or finds it among those remembered. Blocks up to [`GrammarLimits::max_time`].
    ///
    /// # Errors
    /// [`Error::InvalidGrammar`] with the place that is wrong, [`Error::UnknownControlToken`] for calls in a form that the tokenizer cannot
    /// write, [`Error::GrammarTooLarge`], [`Error::GrammarTooSlow`] and [`Error::GrammarBusy`] for costs beyond the limits.
    pub fn compile(&self, spec: &GrammarSpec) -> Result<Grammar> {
        if let Some(grammar) = self.inner.remembered(spec) {
            return Ok(grammar);
        }
        let Inner { end_think, eos, .. } = &*self.inner;
        let grammar = Grammar { start: self.in_time(spec)?, end_think: *end_think, eos: eos.clone() };
        self.inner.remember(spec, &grammar);
        Ok(grammar)
    }

    /// Number of grammars remembered.
    pub fn cached(&self) -> usize {
        self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether a grammar is remembered, so that compiling it costs nothing.
    pub fn is_cached(&self, spec: &GrammarSpec) -> bool {
        let cache = self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.iter().any(|(known, _)| known == spec)
    }

    /// Compiles on another thread and waits as long as the limit says. A thread that is given up goes on until llguidance's own limits end
    /// it, and takes one of the places meanwhile.
    fn in_time(&self, spec: &GrammarSpec) -> Result<Arc<Mutex<llguidance::Matcher>>> {
        let limits = &self.inner.limits;
        let started = Instant::now();
        let place = Place::take(&self.inner)?;
        let (sender, receiver) = sync_channel(1);
        let spec = spec.clone();
        let work = move || {
            let compiled = place.inner.build(&spec);
            // Nobody listens after the deadline.
            let _ = sender.send(compiled);
        };
        std::thread::Builder::new()
            .name("grammar".to_owned())
            .spawn(work)
            .map_err(|error| invalid("grammar", format!("no thread to compile it: {error}")))?;
        match receiver.recv_timeout(limits.max_time) {
            // A busy machine may wake this thread long after the other one is done.
            Ok(_) if started.elapsed() > limits.max_time => {
                Err(Error::GrammarTooSlow { limit: limits.max_time })
            }
            Ok(compiled) => compiled.map(|matcher| Arc::new(Mutex::new(matcher))),
            Err(RecvTimeoutError::Timeout) => Err(Error::GrammarTooSlow { limit: limits.max_time }),
            Err(RecvTimeoutError::Disconnected) => Err(invalid("grammar", "the grammar cannot be compiled")),
        }
    }
}

/// One of the places for compiling; given back on drop.
struct Place {
    inner: Arc<Inner>,
}

impl Place {
    fn take(inner: &Arc<Inner>) -> Result<Self> {
        let place = Self { inner: Arc::clone(inner) };
        let compiling = inner.compiling.fetch_add(1, Ordering::AcqRel);
        if compiling >= inner.limits.max_compiling {
            return Err(Error::GrammarBusy { compiling });
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.compiling.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Inner {
    fn remembered(&self, spec: &GrammarSpec) -> Option<Grammar> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let at = cache.iter().position(|(known, _)| known == spec)?;
        let entry = cache.remove(at);
        let grammar = entry.1.clone();
        cache.push(entry);
        Some(grammar)
    }

    fn remember(&self, spec: &GrammarSpec, grammar: &Grammar) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.retain(|(known, _)| known != spec);
        if cache.len() >= self.limits.max_cached && !cache.is_empty() {
            cache.remove(0);
        }
        if self.limits.max_cached > 0 {
            cache.push((spec.clone(), grammar.clone()));
        }
    }

    fn build(&self, spec: &GrammarSpec) -> Result<llguidance::Matcher> {
        match spec {
            GrammarSpec::JsonObject => self.schema(&json!({"type": "object"})),
            GrammarSpec::JsonSchema(schema) => self.schema(schema),
            GrammarSpec::Regex(regex) => {
                self.sized("regex", regex)?;
                expression::check("regex", regex, self.limits.max_count)?;
                self.parser("regex", TopLevelGrammar::from_regex(whole(regex)))
            }
            GrammarSpec::Lark(grammar) => {
                self.sized("grammar", grammar)?;
                self.parser("grammar", TopLevelGrammar::from_lark(grammar.clone()))
            }
            GrammarSpec::ToolCalls { generation, tools, required, parallel, opened } => {
                for (index, tool) in tools.iter().enumerate().filter(|(_, tool)| tool.is_strict()) {
                    let path = format!("tools[{index}].function.parameters");
                    self.checked(&path, tool.parameters().unwrap_or(&Value::Bool(true)))?;
                }
                let extent = Extent { required: *required, parallel: *parallel, opened: *opened };
                let lark = tool_calls::lark(&self.tokens, *generation, tools, extent)?;
                self.parser("tools", TopLevelGrammar::from_lark(lark))
            }
        }
    }

    fn schema(&self, schema: &Value) -> Result<llguidance::Matcher> {
        schema::check("schema", schema, &self.limits)?;
        let parser =
            |schema: &Value| self.parser("schema", TopLevelGrammar::from_json_schema(schema::tidied(schema)));
        parser(schema).map_err(|error| schema::locate("schema", schema, error, &|part| parser(part).err()))
    }

    /// Checks a schema by itself, so that what is wrong with it is found at its own place.
    fn checked(&self, path: &str, part: &Value) -> Result<()> {
        schema::check(path, part, &self.limits)?;
        let failure = |schema: &Value| {
            self.parser(path, TopLevelGrammar::from_json_schema(schema::tidied(schema))).err()
        };
        match failure(part) {
            Some(error) => Err(schema::locate(path, part, error, &failure)),
            None => Ok(()),
        }
    }

    fn sized(&self, path: &str, source: &str) -> Result<()> {
        let (limit, found) = (self.limits.max_bytes as u64, source.len() as u64);
        if found > limit {
            return Err(Error::GrammarTooLarge { path: path.to_owned(), unit: "bytes", limit, found });
        }
        Ok(())
    }

    fn parser(&self, path: &str, grammar: TopLevelGrammar) -> Result<llguidance::Matcher> {
        let wrong = |reason: &str| invalid(path, first_line(reason));
        let parser = self.factory.create_parser(grammar).map_err(|error| wrong(&error.to_string()))?;
        let mut matcher = llguidance::Matcher::new(Ok(parser));
        // A grammar whose first step is beyond the limits would fail every answer.
        matcher.compute_mask_or_eos().map_err(|error| wrong(&error.to_string()))?;
        Ok(matcher)
    }
}

/// The expression without anchors at its ends: it is matched from end to end anyway.
fn whole(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        Some(rest) if !rest.ends_with('\\') => rest,
        _ => regex,
    }
}
