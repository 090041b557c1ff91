//! [`LanguageModel`]: a loaded model that answers.

use std::sync::Arc;

use checkpoint::{GenerationConfig, ModelConfig};
use engine::{Engine, EngineOptions, Request, Sequence};
use kernels::Device;
use text::encoding::fim;
use text::{Prompt, PromptFormat, ReasoningSplitter, Tokenizer};

use crate::device::OpenDevices;
use crate::source::Opened;
use crate::{
    Chat, Error, EventStream, GenerateOptions, Input, LoadOptions, ModelSource, Output, Progress, TextStream,
    ranks,
};

/// A model in memory, with its tokenizer and prompt format. Clones share everything; use one from as many threads as
/// you like.
///
/// ```
/// use cachalot::{GenerateOptions, LanguageModel, ModelSource};
///
/// # fn main() -> Result<(), cachalot::Error> {
/// let model = LanguageModel::load(ModelSource::Embedded, Default::default())?;
/// let output = model.generate("What is 12 + 30?", &GenerateOptions::greedy())?;
/// assert!(!output.text.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LanguageModel {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    engine: Arc<Engine>,
    tokenizer: Tokenizer,
    format: PromptFormat,
    generation_config: GenerationConfig,
}

impl std::fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LanguageModel")
            .field("name", &self.inner.name)
            .field("engine", &self.inner.engine)
            .finish_non_exhaustive()
    }
}

/// A prompt as ids, and where its continuation begins.
struct Encoded {
    ids: Vec<u32>,
    /// `None` where reasoning has no meaning.
    reasoning: Option<ReasoningSplitter>,
}

impl LanguageModel {
    /// Loads a model.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] and [`Error::Model`] for files that are missing, damaged or of an unsupported kind,
    /// [`Error::Text`] for the tokenizer, [`Error::Engine`] for options out of range and a cache that does not fit.
    pub fn load(source: ModelSource, options: LoadOptions) -> Result<Self, Error> {
        Self::load_with_progress(source, options, &mut |_| {})
    }

    /// As [`LanguageModel::load`], telling `progress` as files and weights arrive.
    ///
    /// # Errors
    /// As [`LanguageModel::load`].
    pub fn load_with_progress(
        source: ModelSource,
        options: LoadOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        let opened = source.open(progress)?;
        // The small files first: a checkpoint without a tokenizer should not be read to the last gigabyte.
        let tokenizer = opened.tokenizer()?;
        let Opened { name, checkpoint, generation_config, .. } = opened;
        let format = PromptFormat::new(&tokenizer, &checkpoint.config().common().model_type)?;
        let engine_options = EngineOptions {
            context_len: options.context_len,
            kv_dtype: options.kv_dtype,
            max_sequences: options.max_sequences,
            state_slots: options.state_slots,
            state_snapshots: options.state_snapshots,
            commit_cache: options.commit_cache,
            prefill_chunk: options.prefill_chunk,
            speculation: options.speculation,
            ..EngineOptions::default()
        };
        options.index.check(checkpoint.config())?;
        let OpenDevices { ranks, notice } =
            ranks::open_devices(&checkpoint, &options.device, options.tensor_parallel)?;
        if let Some(notice) = notice {
            progress(Progress::Notice(notice));
        }
        let sizes = engine_options.sizes(checkpoint.config().common())?;
        if let Some(plan) = ranks::plan(&checkpoint, &ranks, &sizes, &options)? {
            progress(Progress::Notice(plan.to_string()));
        }
        let model_options = |device: &Device| options.model(device);
        let ranks = ranks::load(&checkpoint, ranks, options.device.transport, model_options, &mut |done| {
            progress(Progress::Weights(done));
        })?;
        if let Some(notice) = ranks::int8_notice(&ranks) {
            progress(Progress::Notice(notice));
        }
        let engine = Engine::new(ranks, &engine_options)?;
        Ok(Self { inner: Arc::new(Inner { name, engine, tokenizer, format, generation_config }) })
    }

    /// Answers, and returns when the answer is complete.
    ///
    /// # Errors
    /// As [`LanguageModel::stream`], and any error of a step.
    pub fn generate(&self, input: impl Into<Input>, options: &GenerateOptions) -> Result<Output, Error> {
        self.stream(input, options)?.collect_output()
    }

    /// Answers piece by piece. The caller's thread computes while it iterates.
    ///
    /// ```
    /// use cachalot::{Event, GenerateOptions, LanguageModel, ModelSource};
    ///
    /// # fn main() -> Result<(), cachalot::Error> {
    /// let model = LanguageModel::load(ModelSource::Embedded, Default::default())?;
    /// let options = GenerateOptions { max_tokens: Some(8), ..Default::default() };
    /// for event in model.stream("Tell me a story about a fox.", &options)? {
    ///     match event? {
    ///         Event::Text(piece) => print!("{piece}"),
    ///         Event::Finish { stats, .. } => assert_eq!(stats.generated_tokens, 8),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Text`] if the input has no form, [`Error::Engine`] with the name of the
    /// field for options out of range and prompts that do not fit the context.
    pub fn stream(&self, input: impl Into<Input>, options: &GenerateOptions) -> Result<TextStream, Error> {
        self.resume(self.inner.engine.sequence(), input.into(), options)
    }

    /// Answers as a [`futures_core::Stream`], computed on a thread of its own. Needs no particular async runtime.
    ///
    /// # Errors
    /// As [`LanguageModel::stream`], and [`Error::Thread`].
    pub fn stream_async(
        &self,
        input: impl Into<Input>,
        options: &GenerateOptions,
    ) -> Result<EventStream, Error> {
        EventStream::spawn(self.stream(input, options)?)
    }

    /// Starts a conversation that remembers its turns and computes only what is new in each.
    pub fn chat(&self) -> Chat {
        Chat::new(self.clone())
    }

    /// The token ids of an input, as a generation would feed them to the model.
    ///
    /// # Errors
    /// [`Error::Text`] if the input has no form.
    pub fn encode(&self, input: impl Into<Input>, options: &GenerateOptions) -> Result<Vec<u32>, Error> {
        Ok(self.encode_input(input.into(), options)?.ids)
    }

    pub(crate) fn resume(
        &self,
        sequence: Sequence,
        input: Input,
        options: &GenerateOptions,
    ) -> Result<TextStream, Error> {
        let Inner { engine, tokenizer, generation_config, .. } = &*self.inner;
        let Encoded { ids, reasoning } = self.encode_input(input, options)?;
        let stop_token_ids = if options.ignore_eos { Vec::new() } else { tokenizer.eos_ids().to_vec() };
        let request = Request {
            prompt: ids,
            sampling: options.sampling(generation_config),
            stop_token_ids,
            max_tokens: options.max_tokens,
        };
        let generation = engine.resume(sequence, request)?;
        TextStream::new(generation, tokenizer, &options.stop, reasoning)
    }

    fn encode_input(&self, input: Input, options: &GenerateOptions) -> Result<Encoded, Error> {
        let Inner { tokenizer, format, .. } = &*self.inner;
        let ids_only = |ids| Encoded { ids, reasoning: None };
        match input {
            Input::Chat(mut request) => {
                request.thinking = options.thinking.or(request.thinking);
                let prompt = format.render(&request)?;
                let reasoning = Some(ReasoningSplitter::new(prompt.opens_reasoning()));
                Ok(Encoded { ids: tokenizer.encode_prompt(&prompt)?, reasoning })
            }
            Input::Raw(text) => {
                let mut prompt = Prompt::new();
                prompt.text(&text);
                Ok(ids_only(tokenizer.encode_completion(&prompt)?))
            }
            Input::FillInTheMiddle { prefix, suffix } => {
                Ok(ids_only(tokenizer.encode_completion(&fim::encode(&prefix, &suffix))?))
            }
        }
    }

    /// How to call it: `demo`, the directory or the hub id.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The checkpoint's config.
    pub fn config(&self) -> &ModelConfig {
        self.inner.engine.model().config()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// The engine, for callers that speak token ids.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.inner.engine
    }

    pub(crate) fn format(&self) -> &PromptFormat {
        &self.inner.format
    }

    pub(crate) fn generation_config(&self) -> &GenerationConfig {
        &self.inner.generation_config
    }

    /// Name of the prompt format that conversations are written in.
    pub fn prompt_format(&self) -> String {
        self.inner.format.name()
    }

    /// Tensors of the checkpoint that the model did not understand. Not empty means that the answers do not reflect
    /// everything the checkpoint says.
    pub fn unknown_tensors(&self) -> &[String] {
        self.inner.engine.model().unknown_tensors()
    }
}
