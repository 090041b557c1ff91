//! [`Served`]: a model behind HTTP in this very process, so that one run can ask it both ways.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use cachalot::serve::{Server, ServerOptions, Service, ServiceOptions};
use cachalot::{LanguageModel, LoadOptions, ModelSource};
use tokio::sync::oneshot;

/// A server on a free port. Dropping it stops it.
pub struct Served {
    /// The model, for what is asked of it directly.
    pub model: LanguageModel,
    /// The engine thread that the server uses.
    pub service: Service,
    /// Where it listens.
    pub addr: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Loads a checkpoint, or the demo model, and serves it under the name `bench`.
    pub fn start(checkpoint: Option<PathBuf>, load: LoadOptions, service: &ServiceOptions) -> Result<Self> {
        let source = checkpoint.map_or(ModelSource::Embedded, ModelSource::Path);
        let model = LanguageModel::load(source, load)?;
        let served = model.served("bench", service)?;
        let service = served.service.clone();
        let options = ServerOptions { addr: SocketAddr::from(([127, 0, 0, 1], 0)), ..Default::default() };
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = channel();
        let thread = thread::spawn(move || {
            let failed = |error: &dyn std::fmt::Display| Err(anyhow!("no server: {error}"));
            let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(failed(&error))),
            };
            runtime.block_on(async {
                match Server::bind(served, options).await {
                    Err(error) => drop(tell.send(failed(&error))),
                    Ok(server) => {
                        drop(tell.send(Ok(server.local_addr())));
                        server.run(async { drop(stopped.await) }).await;
                    }
                }
            });
        });
        let addr = told.recv().context("the server's thread is gone")??.to_string();
        Ok(Self { model, service, addr, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A server that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
