//! [`fuzz::RequestTarget`] under libFuzzer.

#![no_main]

use std::sync::LazyLock;

use fuzz::{RequestTarget, Target};

static TARGET: LazyLock<RequestTarget> = LazyLock::new(Target::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.fuzz(data));
