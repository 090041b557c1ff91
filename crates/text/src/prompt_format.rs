//! `PromptFormat`: how a checkpoint wants its conversations written, and how what it writes is read.

use crate::chat::{ChatRequest, Tool};
use crate::continuation::with_reasoning;
use crate::encoding::{CheckpointFacts, Generation, Thinking};
use crate::error::{Error, Result};
use crate::output::{OutputParser, OutputStart};
use crate::prompt::Prompt;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// The checkpoint's own chat template, the built-in format of its generation, or both.
#[derive(Debug, Clone)]
pub struct PromptFormat {
    template: Option<Template>,
    generation: Option<Generation>,
    model_type: String,
}

#[derive(Debug, Clone)]
struct Template {
    template: ChatTemplate,
    /// Whether it has a place for a list of tools.
    takes_tools: bool,
    /// Whether it writes reasoning tags.
    thinks: bool,
}

impl PromptFormat {
    /// The format of a checkpoint, by its tokenizer's template and the `model_type` of its config.
    ///
    /// # Errors
    /// [`Error::TemplateSyntax`] when the checkpoint's template does not parse.
    pub fn new(tokenizer: &Tokenizer, model_type: &str) -> Result<Self> {
        let source = tokenizer.config().chat_template();
        let template = source
            .map(|source| {
                let template = ChatTemplate::new(source, tokenizer)?;
                let takes_tools = source.contains("tools");
                Ok::<_, Error>(Template { template, takes_tools, thinks: source.contains("<think>") })
            })
            .transpose()?;
        let facts = CheckpointFacts {
            model_type: Some(model_type),
            tokenizer: Some(tokenizer),
            chat_template: source,
        };
        Ok(Self { template, generation: Generation::detect(&facts), model_type: model_type.to_owned() })
    }

    /// The built-in format of a generation, for a checkpoint whose own template is to be ignored.
    pub fn of_generation(generation: Generation) -> Self {
        Self { template: None, generation: Some(generation), model_type: String::new() }
    }

    /// Renders a conversation. The template is what the model was released with, so it comes first; DeepSeek's own
    /// templates ignore tools, which the built-in format writes as the model card says.
    ///
    /// # Errors
    /// [`Error::NoPromptFormat`] for a checkpoint without any format; else as [`ChatTemplate::render`] and
    /// [`Generation::encode`].
    pub fn render(&self, request: &ChatRequest) -> Result<Prompt> {
        if !request.continue_final_message {
            return self.render_turns(request);
        }
        // To be continued is said already; V3.1's template takes the flag for an open reasoning.
        let mut request = request.clone();
        if let Some(last) = request.messages.last_mut() {
            last.prefix = None;
        }
        match with_reasoning(&request, |opened| self.render_turns(opened))? {
            Some(prompt) => Ok(prompt),
            None => self.render_turns(&request),
        }
    }

    fn render_turns(&self, request: &ChatRequest) -> Result<Prompt> {
        match (&self.template, self.generation) {
            (Some(t), None) => t.template.render(request),
            (Some(t), Some(_)) if request.tools.is_empty() || t.takes_tools => t.template.render(request),
            (_, Some(generation)) => generation.encode(request),
            (None, None) => Err(Error::NoPromptFormat { model_type: self.model_type.clone() }),
        }
    }

    /// A parser for one answer. `start` is its [`Prompt`], or at least [`Prompt::opens_reasoning`] of it; `tools` are those that the model
    /// was offered; without tools, markers of tool calls are text.
    pub fn parser(&self, start: impl Into<OutputStart>, tools: &[Tool]) -> OutputParser {
        match self.generation {
            Some(generation) => generation.parser(start, tools),
            None => OutputParser::plain(start),
        }
    }

    /// Whether conversations with tools have a form, and calls are read back.
    pub fn takes_tools(&self) -> bool {
        self.generation.is_some_and(|generation| {
            generation.calls_tools()
                && (generation.takes_tools() || self.template.as_ref().is_some_and(|t| t.takes_tools))
        })
    }

    /// Whether the model reasons before it answers.
    pub fn thinking(&self) -> Thinking {
        match (self.generation, &self.template) {
            (Some(generation), _) => generation.thinking(),
            // Most templates of other families that know the tags take the switch.
            (None, Some(Template { thinks: true, .. })) => Thinking::Optional { default: true },
            (None, _) => Thinking::Never,
        }
    }

    /// The generation, where the checkpoint is of one that this build knows.
    pub fn generation(&self) -> Option<Generation> {
        self.generation
    }

    /// Name of the format, for people.
    pub fn name(&self) -> String {
        let generation = self.generation.map(Generation::name);
        match (&self.template, generation) {
            (Some(_), Some(name)) => format!("chat template ({name})"),
            (Some(_), None) => "chat template".to_owned(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "raw text only".to_owned(),
        }
    }
}
