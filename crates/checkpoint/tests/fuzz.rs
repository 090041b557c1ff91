//! Random damage to headers, indices and configs: an error or a sound checkpoint, never a panic. Whatever our header
//! check accepts, the reference implementation accepts too.

#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use support::{Files, INDEX, SHARD_1, SHARD_2, load, sound, write};

#[derive(Debug, Clone)]
enum Damage {
    Flip { at: usize, bits: u8 },
    Cut { at: usize },
    Insert { at: usize, byte: u8 },
    Digit { at: usize, digit: u8 },
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), 1..=255u8).prop_map(|(at, bits)| Damage::Flip { at, bits }),
        any::<usize>().prop_map(|at| Damage::Cut { at }),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert { at, byte }),
        (any::<usize>(), b'0'..=b'9').prop_map(|(at, digit)| Damage::Digit { at, digit }),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage, reach: usize) {
    let reach = reach.min(bytes.len());
    if reach == 0 {
        return;
    }
    match damage {
        Damage::Flip { at, bits } => bytes[at % reach] ^= bits,
        Damage::Cut { at } => bytes.truncate(at % reach),
        Damage::Insert { at, byte } => bytes.insert(at % reach, *byte),
        // Other numbers in valid JSON reach the checks behind the parser.
        Damage::Digit { at, digit } => {
            let digits: Vec<_> = (8..reach).filter(|&i| bytes[i].is_ascii_digit()).collect();
            if !digits.is_empty() {
                bytes[digits[at % digits.len()]] = *digit;
            }
        }
    }
}

fn load_damaged(files: &Files) -> bool {
    let dir = tempfile::tempdir().unwrap();
    write(files, dir.path());
    let loaded = load(dir.path());
    if let Err(error) = &loaded {
        assert!(!error.to_string().is_empty());
    }
    loaded.is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn headers(damages in prop::collection::vec(damage(), 1..4), second in any::<bool>()) {
        let mut files = sound();
        let file = if second { SHARD_2 } else { SHARD_1 };
        let header = u64::from_le_bytes(files[file][..8].try_into().unwrap()) as usize;
        for damage in &damages {
            apply(files.get_mut(file).unwrap(), damage, 8 + header);
        }
        if load_damaged(&files) {
            prop_assert!(safetensors::SafeTensors::deserialize(&files[file]).is_ok());
        }
    }

    #[test]
    fn json_files(damages in prop::collection::vec(damage(), 1..4), which in 0..3usize) {
        let mut files = sound();
        let file = ["config.json", "generation_config.json", INDEX][which];
        for damage in &damages {
            apply(files.get_mut(file).unwrap(), damage, usize::MAX);
        }
        load_damaged(&files);
    }
}
