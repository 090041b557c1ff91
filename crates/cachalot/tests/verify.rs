//! `verify` on every fixture, in every chunking, and on fixtures that were damaged on purpose.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "a test may panic, and is in no hurry")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cachalot::Error;
use cachalot::verify::{
    Chunkings, KeyTolerance, Outcome, Report, Tolerances, Verdict, VerifyOptions, verify_checkpoint,
    verify_text_file,
};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;
use testkit::Fixture;

fn verify_with(dir: &Path, options: &VerifyOptions) -> Result<Report, Error> {
    verify_checkpoint(dir, options, &mut |_| {})
}

fn verify(dir: &Path) -> Result<Report, Error> {
    verify_with(dir, &VerifyOptions::default())
}

fn failed_keys(report: &Report) -> Vec<&str> {
    report.rows.iter().filter(|r| r.verdict == Verdict::Fail).map(|r| r.key.as_str()).collect()
}

fn check_chunk(chunk: Option<usize>) {
    for fixture in Fixture::all() {
        let options = VerifyOptions { chunk, ..Default::default() };
        let report = verify_with(fixture.dir(), &options).unwrap();
        assert_eq!(report.outcome(), Outcome::Pass, "{} in chunks of {chunk:?}\n{report}", fixture.name());
        assert_eq!(report.rows.len(), fixture.golden().keys("").len(), "every key has its row");
    }
}

#[test]
fn every_fixture_holds_whole() {
    check_chunk(None);
}

#[test]
fn every_fixture_holds_token_by_token() {
    check_chunk(Some(1));
}

#[test]
fn every_fixture_holds_in_odd_chunks() {
    check_chunk(Some(7));
}

#[test]
fn every_fixture_holds_in_large_chunks() {
    check_chunk(Some(64));
}

#[test]
fn every_kind_of_key_is_compared() {
    let report = verify(Fixture::open("deepseek_v3_mtp").dir()).unwrap();
    for key in [
        "p130.logits",
        "p33.logits_f64",
        "p33.hidden.embed",
        "p33.hidden.layer1",
        "p33.hidden.final_norm",
        "p33.router.layer1.logits",
        "p33.router.layer1.indices",
        "p33.router.layer1.weights",
        "p33.mtp_logits",
        "p33.mtp_logits_prenorm_h",
        "greedy.tokens",
        "greedy.logits",
    ] {
        let row = report.rows.iter().find(|row| row.key == key).unwrap();
        assert_eq!(row.verdict, Verdict::Pass, "{key}");
    }
}

/// A stored tensor: dtype, shape, little-endian bytes.
type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// A copy of a fixture that a test may damage.
struct Copy(TempDir);

impl Copy {
    fn of(fixture: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(Fixture::open(fixture).dir()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Rewrites a safetensors file of the copy.
    fn edit(&self, file: &str, edit: impl FnOnce(&mut BTreeMap<String, Stored>)) {
        let path = self.path().join(file);
        let bytes = fs::read(&path).unwrap();
        let mut tensors: BTreeMap<String, Stored> = SafeTensors::deserialize(&bytes)
            .unwrap()
            .iter()
            .map(|(name, view)| {
                (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            })
            .collect();
        edit(&mut tensors);
        let views: Vec<(&String, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()))
            .collect();
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    fn edit_golden(&self, edit: impl FnOnce(&mut BTreeMap<String, Stored>)) -> &Self {
        self.edit("golden.safetensors", edit);
        self
    }

    fn report(&self) -> Report {
        verify(self.path()).unwrap()
    }

    /// The key that a malformed golden file is refused for.
    fn refused_key(&self) -> String {
        match verify(self.path()) {
            Err(Error::Golden { key, .. }) => key,
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// Adds to one element.
fn nudge(stored: &mut Stored, element: usize, by: f64) {
    let data = &mut stored.2;
    match stored.0 {
        Dtype::F32 => {
            let at = &mut data[element * 4..][..4];
            let value = f32::from_le_bytes((&*at).try_into().unwrap()) + by as f32;
            at.copy_from_slice(&value.to_le_bytes());
        }
        Dtype::F64 => {
            let at = &mut data[element * 8..][..8];
            let value = f64::from_le_bytes((&*at).try_into().unwrap()) + by;
            at.copy_from_slice(&value.to_le_bytes());
        }
        Dtype::I32 => {
            let at = &mut data[element * 4..][..4];
            let value = i32::from_le_bytes((&*at).try_into().unwrap()) + by as i32;
            at.copy_from_slice(&value.to_le_bytes());
        }
        Dtype::I64 => {
            let at = &mut data[element * 8..][..8];
            let value = i64::from_le_bytes((&*at).try_into().unwrap()) + by as i64;
            at.copy_from_slice(&value.to_le_bytes());
        }
        other => panic!("no test touches {other:?}"),
    }
}

#[test]
fn one_wrong_value_fails_its_key_alone() {
    for (key, element, by) in [
        ("p1.logits", 255, 2e-4),
        ("p7.logits_f64", 3, -2e-4),
        ("p33.logits", 33 * 256 - 1, 1e-3),
        ("p130.logits", 129 * 256, 3e-3),
        ("p33.hidden.embed", 0, 1e-3),
        ("p33.hidden.layer1", 64, 1e-3),
        ("p33.hidden.final_norm", 5, 1e-3),
        ("p33.router.layer1.logits", 8, 1e-3),
        ("p33.router.layer1.weights", 4, 1e-3),
        ("p33.mtp_logits", 31 * 256, 1e-3),
        ("p33.mtp_logits_prenorm_h", 256, 1e-3),
        ("greedy.logits", 31 * 256, 3e-3),
    ] {
        let copy = Copy::of("deepseek_v3_mtp");
        copy.edit_golden(|golden| nudge(golden.get_mut(key).unwrap(), element, by));
        let report = copy.report();
        assert_eq!(failed_keys(&report), [key], "{report}");
        assert_eq!(report.outcome(), Outcome::Fail);
    }
}

#[test]
fn one_wrong_token_fails() {
    let copy = Copy::of("deepseek_v3_mtp");
    copy.edit_golden(|golden| {
        let last = golden.get_mut("greedy.tokens").unwrap();
        let by = if last.2[31 * 8] < 100 { 1.0 } else { -1.0 };
        nudge(last, 31, by);
    });
    // The golden logits follow the golden tokens, and the last token is fed to nobody.
    assert_eq!(failed_keys(&copy.report()), ["greedy.tokens"]);
}

#[test]
fn one_wrong_expert_fails() {
    // V3's 16 experts leave gaps between chosen ids, so that a wrong id can still be in order.
    let copy = Copy::of("deepseek_v3");
    let key = "p33.router.layer1.indices";
    copy.edit_golden(|golden| {
        let stored = golden.get_mut(key).unwrap();
        let ids: Vec<i32> = stored.2.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect();
        let row = ids.chunks(4).position(|row| row[3] < 15).unwrap();
        nudge(stored, row * 4 + 3, 1.0);
    });
    let report = copy.report();
    assert_eq!(failed_keys(&report), [key], "{report}");
}

#[test]
fn one_wrong_weight_fails_downstream_keys() {
    let copy = Copy::of("deepseek_v2_lite");
    copy.edit("model.safetensors", |weights| {
        nudge(weights.get_mut("model.layers.2.mlp.gate.weight").unwrap(), 7, 0.05);
    });
    let report = copy.report();
    let failed = failed_keys(&report);
    assert!(failed.contains(&"p33.router.layer2.logits"), "{report}");
    assert!(failed.contains(&"p33.logits"), "{report}");
    assert!(!failed.contains(&"p33.hidden.layer1"), "what comes before the weight still holds\n{report}");
}

#[test]
fn an_unknown_key_is_never_a_pass() {
    let copy = Copy::of("llama3_distill");
    for key in ["p33.indexer.layer0.logits", "p7.attention.layer0", "notes"] {
        copy.edit_golden(|golden| {
            golden.insert(key.to_owned(), (Dtype::U8, vec![1], vec![1]));
        });
    }
    let report = copy.report();
    assert_eq!((report.outcome(), report.count(Verdict::Unchecked)), (Outcome::Unchecked, 3));
    copy.edit_golden(|golden| nudge(golden.get_mut("p7.logits").unwrap(), 0, 1.0));
    assert_eq!(copy.report().outcome(), Outcome::Fail, "a failure outweighs it");
}

#[test]
fn information_does_not_gate() {
    let copy = Copy::of("deepseek_v3_fp8");
    copy.edit_golden(|golden| nudge(golden.get_mut("p7.logits_actquant").unwrap(), 0, 100.0));
    let report = copy.report();
    assert_eq!(report.outcome(), Outcome::Pass);
    let row = report.rows.iter().find(|row| row.key == "p7.logits_actquant").unwrap();
    assert!(row.verdict == Verdict::Info && row.max_abs_diff.unwrap() > 90.0, "{row:?}");
}

#[test]
fn an_unsupported_model_is_not_checked() {
    let copy = Copy::of("deepseek_v3");
    let config = fs::read_to_string(copy.path().join("config.json")).unwrap();
    let config = config.replace("DeepseekV3ForCausalLM", "DeepseekV41ForCausalLM");
    fs::write(copy.path().join("config.json"), config.replace("\"deepseek_v3\"", "\"deepseek_v41\""))
        .unwrap();
    let report = copy.report();
    assert_eq!(report.outcome(), Outcome::Unchecked);
    assert_eq!(report.count(Verdict::Pass), 0);
}

#[test]
fn other_prompt_lengths_are_checked() {
    let copy = Copy::of("qwen2_distill");
    copy.edit_golden(|golden| {
        // The first five tokens of the 33: causality makes their logits the same.
        let (dtype, _, ids) = golden["p33.ids"].clone();
        golden.insert("p5.ids".to_owned(), (dtype, vec![5], ids[..5 * 8].to_vec()));
        let (dtype, shape, logits) = golden["p33.logits"].clone();
        let row = shape[1] * 4;
        golden.insert("p5.logits".to_owned(), (dtype, vec![5, shape[1]], logits[..5 * row].to_vec()));
    });
    let report = copy.report();
    assert_eq!(report.outcome(), Outcome::Pass, "{report}");
    assert!(report.rows.iter().any(|row| row.key == "p5.logits" && row.verdict == Verdict::Pass));
}

#[test]
fn malformed_goldens_name_the_key() {
    type Edit = fn(&mut BTreeMap<String, Stored>);
    let cases: [(&str, Edit); 9] = [
        ("p7.ids", |g| drop(g.remove("p7.ids"))),
        ("p7.ids", |g| {
            let ids = g["p33.ids"].clone();
            g.insert("p7.ids".to_owned(), ids);
        }),
        ("p7.ids", |g| nudge(g.get_mut("p7.ids").unwrap(), 2, 100_000.0)),
        ("p7.logits", |g| {
            let logits = g["p1.logits"].clone();
            g.insert("p7.logits".to_owned(), logits);
        }),
        ("p7.logits", |g| nudge(g.get_mut("p7.logits").unwrap(), 9, f64::NAN)),
        ("p7.logits", |g| {
            let ids = g["p7.ids"].clone();
            g.insert("p7.logits".to_owned(), (ids.0, vec![7, 1], ids.2));
        }),
        ("greedy.prompt", |g| drop(g.remove("greedy.prompt"))),
        ("greedy.logits", |g| {
            let logits = g["p7.logits"].clone();
            g.insert("greedy.logits".to_owned(), logits);
        }),
        ("p33.router.layer1.indices", |g| nudge(g.get_mut("p33.router.layer1.indices").unwrap(), 0, 9.0)),
    ];
    for (expected, edit) in cases {
        let copy = Copy::of("deepseek_v3");
        assert_eq!(copy.edit_golden(edit).refused_key(), expected);
    }
}

#[test]
fn a_golden_file_without_anything_to_compare_does_not_pass() {
    let copy = Copy::of("qwen2_distill");
    copy.edit_golden(|golden| golden.retain(|key, _| key == "p7.ids"));
    assert_eq!(copy.report().outcome(), Outcome::Fail);
    copy.edit_golden(BTreeMap::clear);
    assert_eq!(copy.refused_key(), "golden.safetensors");
    fs::write(copy.path().join("golden.safetensors"), b"not a safetensors file").unwrap();
    assert_eq!(copy.refused_key(), "golden.safetensors");
    fs::remove_file(copy.path().join("golden.safetensors")).unwrap();
    assert!(matches!(verify(copy.path()), Err(Error::Io { .. })));
}

#[test]
fn tolerances_can_be_replaced() {
    let copy = Copy::of("qwen2_distill");
    copy.edit_golden(|golden| nudge(golden.get_mut("p7.logits").unwrap(), 0, 0.5));
    let outcome = |all, by_key: &[&str]| {
        let by_key: Vec<KeyTolerance> = by_key.iter().map(|text| text.parse().unwrap()).collect();
        let options = VerifyOptions { tolerances: Tolerances { all, by_key }, ..Default::default() };
        verify_with(copy.path(), &options).map(|report| report.outcome())
    };
    assert_eq!(outcome(None, &[]).unwrap(), Outcome::Fail);
    assert_eq!(outcome(Some(1.0), &[]).unwrap(), Outcome::Pass);
    assert_eq!(outcome(None, &["p7.*=1"]).unwrap(), Outcome::Pass);
    assert_eq!(outcome(Some(0.0), &[]).unwrap(), Outcome::Fail);
    assert!(matches!(outcome(None, &["p8.*=1"]), Err(Error::Option { .. })));
    let options = VerifyOptions { chunk: Some(0), ..Default::default() };
    assert!(matches!(verify_with(copy.path(), &options), Err(Error::Option { field: "chunk", .. })));
}

fn prompts(json: &str) -> Result<Outcome, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prompts.json");
    fs::write(&path, json).unwrap();
    verify_text_file(&path, Chunkings::All, None).map(|report| report.outcome())
}

#[test]
fn prompt_files_are_judged() {
    let file = |generation: &str, prompt: &str, ids: &str| {
        format!(
            r#"{{"generation": "{generation}", "cases": [{{"name": "a", "thinking": null, "tools": null,
                "messages": [{{"role": "user", "content": "hi"}}], "prompt": "{prompt}", "ids": {ids}}}]}}"#
        )
    };
    let good = "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜>";
    assert_eq!(prompts(&file("v3", good, "null")).unwrap(), Outcome::Pass);
    assert_eq!(prompts(&file("v3", "else", "null")).unwrap(), Outcome::Fail);
    assert_eq!(
        prompts(&file("v3", good, "[1, 2]")).unwrap(),
        Outcome::Pass,
        "no tokenizer, no ids asked for"
    );
    assert_eq!(prompts(&file("v99", good, "null")).unwrap(), Outcome::Unchecked);
    let parse = |generation: &str, content: &str| {
        let text = "<｜tool▁calls▁begin｜>";
        prompts(&format!(
            r#"{{"generation": "{generation}", "cases": [{{"name": "a", "text": "x{text}", "result": {{"content": "{content}"}},
                "tools": [{{"type": "function", "function": {{"name": "f"}}}}]}}]}}"#
        ))
    };
    assert_eq!(parse("v31", "x").unwrap(), Outcome::Pass);
    assert_eq!(parse("v31", "y").unwrap(), Outcome::Fail);
    assert_eq!(parse("v99", "x").unwrap(), Outcome::Unchecked);
    for malformed in ["", "[]", r#"{"cases": []}"#, r#"{"cases": [{"name": "a", "prompt": "x"}]}"#] {
        assert!(matches!(prompts(malformed), Err(Error::File { .. })), "{malformed}");
    }
}
