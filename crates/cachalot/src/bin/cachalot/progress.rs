//! Progress of downloads and loads, on stderr and only where that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use cachalot::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is over sooner needs no bar.
const PATIENCE: Duration = Duration::from_millis(300);

/// One bar that changes its subject as the work goes on.
pub(crate) struct ProgressDisplay {
    bar: ProgressBar,
    subject: String,
    since: Instant,
}

impl ProgressDisplay {
    /// A display that shows nothing yet.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        Self { bar, subject: String::new(), since: Instant::now() }
    }

    /// Shows a step of a load.
    pub(crate) fn show(&mut self, step: &Progress) {
        match step {
            Progress::Download(step) => self.bytes(&step.file, step.bytes_done, step.bytes_total),
            Progress::Weights(step) => self.bytes("weights", step.bytes_done, step.bytes_total),
            Progress::Notice(words) => self.note(words),
            _ => {}
        }
    }

    /// Shows a byte count under a subject; a new subject starts a new bar.
    fn bytes(&mut self, subject: &str, done: u64, total: u64) {
        const TEMPLATE: &str = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        self.start(subject, TEMPLATE, total);
        self.bar.set_position(done);
    }

    /// Shows how many of `total` things are done.
    pub(crate) fn count(&mut self, subject: &str, done: u64, total: u64) {
        self.start(subject, "{msg} {bar:30} {pos}/{len} {eta}", total);
        self.bar.set_position(done);
    }

    /// Shows what is going on, without an end in sight.
    pub(crate) fn message(&mut self, subject: &str) {
        self.start(subject, "{spinner} {msg}", 0);
        self.bar.tick();
    }

    fn start(&mut self, subject: &str, template: &str, total: u64) {
        if self.bar.is_hidden() && io::stderr().is_terminal() && self.since.elapsed() > PATIENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        if self.subject == subject {
            return;
        }
        self.subject = subject.to_owned();
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_length(total);
        self.bar.set_message(subject.to_owned());
        self.bar.reset();
    }

    /// Takes the bar off the screen.
    pub(crate) fn clear(&mut self) {
        self.bar.finish_and_clear();
        self.subject.clear();
    }

    /// Prints a warning above the bar.
    pub(crate) fn warn(&self, message: &str) {
        self.note(&format!("warning: {message}"));
    }

    /// Prints a line above the bar.
    fn note(&self, message: &str) {
        // A line that cannot be written is not worth failing for.
        self.bar.suspend(|| drop(writeln!(io::stderr(), "{message}")));
    }
}
