//! [`fuzz::DetokenizerTarget`] under libFuzzer.

#![no_main]

use std::sync::LazyLock;

use fuzz::{DetokenizerTarget, Target};

static TARGET: LazyLock<DetokenizerTarget> = LazyLock::new(Target::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.fuzz(data));
