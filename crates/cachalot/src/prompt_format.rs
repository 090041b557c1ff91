//! [`PromptFormat`]: how a checkpoint wants its conversations written.

use text::{ChatRequest, ChatTemplate, CheckpointFacts, Generation, Prompt, Tokenizer};

use crate::Error;

/// The checkpoint's own chat template, the built-in format of its generation, or both.
pub(crate) struct PromptFormat {
    template: Option<Template>,
    generation: Option<Generation>,
    model_type: String,
}

struct Template {
    template: ChatTemplate,
    /// Whether it has a place for a list of tools.
    takes_tools: bool,
}

impl PromptFormat {
    pub(crate) fn of(tokenizer: &Tokenizer, model_type: &str) -> Result<Self, Error> {
        let source = tokenizer.config().chat_template();
        let template = source
            .map(|source| {
                let template = ChatTemplate::new(source, tokenizer)?;
                Ok::<_, Error>(Template { template, takes_tools: source.contains("tools") })
            })
            .transpose()?;
        let facts = CheckpointFacts {
            model_type: Some(model_type),
            tokenizer: Some(tokenizer),
            chat_template: source,
        };
        Ok(Self { template, generation: Generation::detect(&facts), model_type: model_type.to_owned() })
    }

    /// Renders a conversation. The template is what the model was released with, so it comes first; DeepSeek's own
    /// templates ignore tools, which the built-in format writes as the model card says.
    pub(crate) fn render(&self, request: &ChatRequest) -> Result<Prompt, Error> {
        match (&self.template, self.generation) {
            (Some(t), None) => Ok(t.template.render(request)?),
            (Some(t), Some(_)) if request.tools.is_empty() || t.takes_tools => {
                Ok(t.template.render(request)?)
            }
            (_, Some(generation)) => Ok(generation.encode(request)?),
            (None, None) => Err(Error::NoPromptFormat { model_type: self.model_type.clone() }),
        }
    }

    /// Name of the format, for `inspect`.
    pub(crate) fn name(&self) -> String {
        let generation = self.generation.map(Generation::name);
        match (&self.template, generation) {
            (Some(_), Some(name)) => format!("chat template ({name})"),
            (Some(_), None) => "chat template".to_owned(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "raw text only".to_owned(),
        }
    }
}
