//! Ctrl-C: the first press ends the running generation, a press with nothing running ends the program.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use cachalot::CancelHandle;

/// Exit code of a program that was interrupted, as shells count it: 128 + SIGINT.
pub(crate) const EXIT_CODE: u8 = 130;

/// What Ctrl-C acts on. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    running: Arc<Mutex<Option<CancelHandle>>>,
}

impl Interrupt {
    /// Takes over Ctrl-C for this process.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let interrupt = Self::default();
        let handler = interrupt.clone();
        ctrlc::set_handler(move || match handler.take() {
            Some(generation) => generation.cancel(),
            None => std::process::exit(i32::from(EXIT_CODE)),
        })
        .context("cannot take over Ctrl-C")?;
        Ok(interrupt)
    }

    /// From now on Ctrl-C cancels this generation, once.
    pub(crate) fn arm(&self, generation: CancelHandle) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(generation);
    }

    /// The generation is over.
    pub(crate) fn disarm(&self) {
        self.take();
    }

    fn take(&self) -> Option<CancelHandle> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
