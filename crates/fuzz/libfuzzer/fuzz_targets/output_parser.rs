//! [`fuzz::OutputParserTarget`] under libFuzzer.

#![no_main]

use std::sync::LazyLock;

use fuzz::{OutputParserTarget, Target};

static TARGET: LazyLock<OutputParserTarget> = LazyLock::new(Target::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.fuzz(data));
