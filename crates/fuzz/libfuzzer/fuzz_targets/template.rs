//! [`fuzz::TemplateTarget`] under libFuzzer.

#![no_main]

use std::sync::LazyLock;

use fuzz::{TemplateTarget, Target};

static TARGET: LazyLock<TemplateTarget> = LazyLock::new(Target::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.fuzz(data));
