//! Serving a loaded model over HTTP: [`LanguageModel::served`] is what a [`Server`] binds to an address.
//!
//! ```no_run
//! use cachalot::serve::{Server, ServerOptions, ServiceOptions};
//! use cachalot::{LanguageModel, ModelSource};
//!
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let model = LanguageModel::load(ModelSource::Embedded, Default::default())?;
//! let served = model.served("demo", &ServiceOptions::default())?;
//! let server = Server::bind(served, ServerOptions::default()).await?;
//! println!("http://{}", server.local_addr());
//! server.run(std::future::pending()).await;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

pub use engine::{Service, ServiceOptions};
pub use server::{Dialect, Limits, ServedModel, Server, ServerError, ServerOptions};

use crate::{Error, GenerateOptions, LanguageModel};

impl LanguageModel {
    /// Starts the thread that serves this model, and says what a server needs to know of it. `name` is what clients
    /// call it.
    ///
    /// # Errors
    /// [`Error::Engine`] for options out of range.
    pub fn served(&self, name: impl Into<String>, options: &ServiceOptions) -> Result<ServedModel, Error> {
        Ok(ServedModel {
            name: name.into(),
            service: Service::start(Arc::clone(self.engine()), options)?,
            tokenizer: Arc::new(self.tokenizer().clone()),
            format: self.format().clone(),
            defaults: GenerateOptions::default().sampling(self.generation_config()),
        })
    }
}
