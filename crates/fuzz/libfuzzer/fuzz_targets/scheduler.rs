//! [`fuzz::SchedulerTarget`] under libFuzzer.

#![no_main]

use std::sync::LazyLock;

use fuzz::{SchedulerTarget, Target};

static TARGET: LazyLock<SchedulerTarget> = LazyLock::new(Target::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.fuzz(data));
