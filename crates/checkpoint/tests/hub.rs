//! Models from a hub that the test itself runs: fresh, resumed, pinned, refused, damaged, offline.

#![allow(clippy::unwrap_used)]

#[path = "support/hub_server.rs"]
mod hub_server;
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use checkpoint::hub::{DownloadProgress, HubOptions, resolve};
use checkpoint::{Checkpoint, CheckpointError};
use hub_server::{HubServer, State, sha256};
use support::{SHARD_1, SHARD_2, sound};

const MODEL: &str = "org/name";
const COMMIT_A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const COMMIT_B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// A hub with the sound checkpoint on `main`, among files that nobody asked for.
fn hub() -> HubServer {
    let mut files = sound();
    for name in
        ["pytorch_model.bin", "modeling_deepseek.py", "original/consolidated.safetensors", "README.md"]
    {
        files.insert(name.to_owned(), b"not wanted".to_vec());
    }
    files.insert("tokenizer.json".to_owned(), b"{}".to_vec());
    files.insert("chat_template.jinja".to_owned(), b"{{ messages }}".to_vec());
    let mut state = State { cut_after: 100, ..State::default() };
    state.revisions.insert("main".to_owned(), COMMIT_B.to_owned());
    state.commits.insert(COMMIT_B.to_owned(), files);
    HubServer::start(state)
}

struct Client {
    _dir: tempfile::TempDir,
    options: HubOptions,
}

fn client(hub: &HubServer) -> Client {
    let dir = tempfile::tempdir().unwrap();
    let options = HubOptions {
        endpoint: hub.endpoint.clone(),
        token: None,
        cache_dir: dir.path().join("hub"),
        offline: false,
    };
    Client { _dir: dir, options }
}

impl Client {
    fn get(&self, model: &str) -> Result<PathBuf, CheckpointError> {
        resolve(model, &self.options, &mut |_| {})
    }

    fn refused(&self, model: &str, fragments: &[&str]) {
        let message = self.get(model).expect_err(model).to_string();
        for fragment in fragments {
            assert!(message.contains(fragment), "`{fragment}` is not in: {message}");
        }
    }
}

fn transfers(log: &[String], file: &str) -> Vec<String> {
    let lines = log.iter().filter(|line| line.contains(&format!("/{file} ")) && !line.ends_with("bytes=0-0"));
    lines.map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn a_fresh_download_holds_what_a_model_needs_and_nothing_else() {
    let hub = hub();
    let client = client(&hub);
    let mut last = BTreeMap::<String, DownloadProgress>::new();
    let dir = resolve(MODEL, &client.options, &mut |progress| {
        last.insert(progress.file.clone(), progress.clone());
    })
    .unwrap();
    assert!(dir.ends_with(format!("models--org--name/snapshots/{COMMIT_B}")), "{}", dir.display());
    Checkpoint::open(&dir).unwrap();
    for wanted in ["tokenizer.json", "chat_template.jinja", "generation_config.json"] {
        assert!(dir.join(wanted).is_file(), "{wanted}");
    }
    let log = hub.log().join("\n");
    for unwanted in [".bin", ".py", "original", "README"] {
        assert!(!log.contains(unwanted), "{unwanted} was asked for:\n{log}");
    }
    let shard = &last[SHARD_1];
    assert_eq!((shard.bytes_done, shard.bytes_total), (sound()[SHARD_1].len() as u64, shard.bytes_done));
    let reference = client.options.cache_dir.join("models--org--name/refs/main");
    assert_eq!(std::fs::read_to_string(reference).unwrap(), COMMIT_B);

    assert_eq!(client.get(MODEL).unwrap(), dir);
    let log = hub.log();
    assert_eq!(log.len(), 1, "a second time only the listing is asked for: {log:?}");
}

#[test]
fn a_cut_transfer_resumes_where_it_was_cut() {
    let hub = hub();
    hub.edit(|state| state.cuts = 2);
    let dir = client_dir(&hub);
    let log = hub.log();
    assert_eq!(transfers(&log, SHARD_1), ["bytes=0-", "bytes=100-", "bytes=200-"]);
    assert_eq!(transfers(&log, SHARD_2), ["bytes=0-"]);
    Checkpoint::open(&dir.1).unwrap();
}

/// The snapshot of a new client, kept alive with its cache.
fn client_dir(hub: &HubServer) -> (Client, PathBuf) {
    let client = client(hub);
    let dir = client.get(MODEL).unwrap();
    (client, dir)
}

#[test]
fn a_later_run_resumes_what_an_earlier_one_left() {
    let hub = hub();
    hub.edit(|state| state.cuts = 5);
    let client = client(&hub);
    client.refused(MODEL, &[SHARD_1, "the file within 5 attempts"]);
    hub.log();
    let dir = client.get(MODEL).unwrap();
    assert_eq!(transfers(&hub.log(), SHARD_1), ["bytes=500-"]);
    Checkpoint::open(&dir).unwrap();
}

/// A process that dies after the last byte but before the rename leaves a whole partial file, which cannot be resumed.
#[test]
fn a_whole_or_oversized_partial_file_is_started_again() {
    for extra in [0, 7] {
        let hub = hub();
        let client = client(&hub);
        let blobs = client.options.cache_dir.join("models--org--name/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let shard = &sound()[SHARD_1];
        std::fs::write(blobs.join(format!("{}.part", sha256(shard))), vec![0; shard.len() + extra]).unwrap();
        Checkpoint::open(&client.get(MODEL).unwrap()).unwrap();
    }
}

#[test]
fn a_pinned_revision_is_asked_for_by_its_commit() {
    let hub = hub();
    hub.edit(|state| {
        let mut old = state.commits[COMMIT_B].clone();
        old.insert("tokenizer.json".to_owned(), b"{\"old\": 1}".to_vec());
        state.commits.insert(COMMIT_A.to_owned(), old);
        state.revisions.insert("v1".to_owned(), COMMIT_A.to_owned());
    });
    let client = client(&hub);
    for model in ["org/name@v1".to_owned(), format!("org/name@{COMMIT_A}")] {
        let dir = client.get(&model).unwrap();
        assert_eq!(std::fs::read(dir.join("tokenizer.json")).unwrap(), b"{\"old\": 1}");
    }
    let log = hub.log();
    assert!(log.iter().any(|line| line.starts_with(&format!("/org/name/resolve/{COMMIT_A}/{SHARD_2} "))));
    assert!(!log.iter().any(|line| line.contains("resolve/v1") || line.contains(COMMIT_B)), "{log:?}");
    // Both commits share the blobs that did not change.
    client.get(MODEL).unwrap();
    client.refused("org/name@v9", &["org/name@v9", "404 Not Found"]);
}

#[test]
fn a_bad_checksum_is_refused_and_fetched_again() {
    let hub = hub();
    hub.edit(|state| state.damage = true);
    let client = client(&hub);
    client.refused(MODEL, &[SHARD_1, &sha256(&sound()[SHARD_1]), "the file was removed"]);
    hub.edit(|state| state.damage = false);
    Checkpoint::open(&client.get(MODEL).unwrap()).unwrap();
}

/// A process that dies between download and check leaves a marker; the next one compares the checksum.
#[test]
fn an_unchecked_file_is_checked_before_use() {
    let hub = hub();
    let client = client(&hub);
    let dir = client.get(MODEL).unwrap();
    let mut bytes = sound()[SHARD_1].clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(dir.join(SHARD_1), &bytes).unwrap();
    let marker = client.options.cache_dir.join("models--org--name/unverified").join(SHARD_1);
    std::fs::write(&marker, "").unwrap();
    let offline = HubOptions { offline: true, ..client.options.clone() };
    let message = resolve(MODEL, &offline, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains(SHARD_1) && message.contains("cut off before its check"), "{message}");
    client.refused(MODEL, &[SHARD_1, "SHA-256"]);
    client.get(MODEL).unwrap();
    assert!(!marker.exists());
}

#[test]
fn a_link_without_its_blob_is_fetched_again() {
    let hub = hub();
    let client = client(&hub);
    let dir = client.get(MODEL).unwrap();
    std::fs::remove_file(dir.join(SHARD_1).canonicalize().unwrap()).unwrap();
    Checkpoint::open(&client.get(MODEL).unwrap()).unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let hub = hub();
    hub.edit(|state| state.token = Some("secret".to_owned()));
    let mut client = client(&hub);
    client.refused(MODEL, &["org/name@main", "HF_TOKEN", "401 Unauthorized without a token"]);
    client.options.token = Some("wrong".to_owned());
    client.refused(MODEL, &["401 Unauthorized with the given token"]);
    assert!(!format!("{:?}", client.options).contains("wrong"));
    client.options.token = Some("secret".to_owned());
    client.get(MODEL).unwrap();
    hub.edit(|state| state.status = Some(403));
    client.refused(MODEL, &["terms", "403 Forbidden with the given token"]);
    hub.edit(|state| state.status = None);
    client.refused(
        "org/other",
        &["org/other@main", "a model, revision and file of this name", "404 Not Found"],
    );
    client.options.endpoint = "http://127.0.0.1:9".to_owned();
    client.refused(MODEL, &["an answer", "http://127.0.0.1:9"]);
}

#[test]
fn offline_uses_the_cache_and_names_what_is_missing() {
    let hub = hub();
    let mut client = client(&hub);
    let dir = client.get(MODEL).unwrap();
    hub.log();
    client.options.offline = true;
    for model in [MODEL.to_owned(), format!("{MODEL}@{COMMIT_B}")] {
        assert_eq!(client.get(&model).unwrap(), dir);
    }
    client.refused("org/other", &["org/other@main: offline", "the model in the cache", "no snapshot"]);
    client.refused("org/name@v1", &["org/name@v1: offline", "no snapshot"]);
    std::fs::remove_file(dir.join(SHARD_2)).unwrap();
    client.refused(MODEL, &["offline", SHARD_2, "forbids downloads"]);
    std::fs::remove_file(dir.join("config.json")).unwrap();
    client.refused(MODEL, &["offline", "config.json in the cache"]);
    assert_eq!(hub.log(), Vec::<String>::new(), "offline means no request");
}

#[test]
fn a_repository_of_pickles_is_refused_before_anything_is_fetched() {
    let hub = hub();
    hub.edit(|state| {
        state.commits.get_mut(COMMIT_B).unwrap().retain(|name, _| !name.contains("safetensors"));
    });
    client(&hub)
        .refused(MODEL, &["weights", ".safetensors", "only 1 pickle files such as pytorch_model.bin"]);
    assert_eq!(hub.log().len(), 1);
    hub.edit(|state| state.commits.get_mut(COMMIT_B).unwrap().retain(|name, _| name == "config.json"));
    client(&hub).refused(MODEL, &["weights", "none among 1 files"]);
}

const PARTS: [&str; 2] = ["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf"];

/// A hub with three quantisations, one of them in two parts, and what a repository of GGUF files has besides.
fn gguf_hub() -> HubServer {
    let hub = hub();
    hub.edit(|state| {
        let files = state.commits.get_mut(COMMIT_B).unwrap();
        files.retain(|name, _| !name.contains("safetensors"));
        for name in ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "mmproj-m.gguf", PARTS[0], PARTS[1]] {
            files.insert(name.to_owned(), name.repeat(30).into_bytes());
        }
    });
    hub
}

#[test]
fn one_of_several_gguf_models_is_fetched_alone() {
    let hub = gguf_hub();
    let client = client(&hub);
    hub.edit(|state| state.cuts = 1);
    let file = client.get("org/name:q4_k_m").unwrap();
    assert!(file.ends_with(format!("snapshots/{COMMIT_B}/m-Q4_K_M.gguf")), "{}", file.display());
    assert_eq!(std::fs::read(&file).unwrap(), "m-Q4_K_M.gguf".repeat(30).into_bytes());
    let log = hub.log();
    assert_eq!(transfers(&log, "m-Q4_K_M.gguf"), ["bytes=0-", "bytes=100-"]);
    assert!(log[1..].iter().all(|line| line.contains("/m-Q4_K_M.gguf ")), "nothing else: {log:?}");
    assert_eq!(client.get("org/name@main:m-Q4_K_M.gguf").unwrap(), file);
    assert_eq!(hub.log().len(), 1, "it is there already");
}

#[test]
fn all_parts_of_a_gguf_model_are_fetched() {
    let hub = gguf_hub();
    let client = client(&hub);
    let first = client.get("org/name:Q8_0").unwrap();
    assert!(first.ends_with(PARTS[0]), "{}", first.display());
    assert!(first.with_file_name("m-Q8_0-00002-of-00002.gguf").is_file());
    hub.edit(|state| drop(state.commits.get_mut(COMMIT_B).unwrap().remove(PARTS[1])));
    self::client(&hub)
        .refused("org/name:Q8_0", &["the part Q8_0/m-Q8_0-00002-of-00002.gguf", "no such file"]);
}

#[test]
fn the_choice_among_gguf_models_is_the_users() {
    let hub = gguf_hub();
    let client = client(&hub);
    client.refused(MODEL, &["org/name:Q4_K_M", "3 of them: Q8_0/m-Q8_0, m-Q4_K_M, m-Q4_K_S"]);
    client.refused("org/name:Q2_K", &["ends in Q2_K", "m-Q4_K_S"]);
    assert_eq!(hub.log().len(), 2, "nothing is fetched");
    // The only one needs no choice, and weights as safetensors are not given up for it.
    hub.edit(|state| {
        state
            .commits
            .get_mut(COMMIT_B)
            .unwrap()
            .retain(|name, _| name == "m-Q4_K_S.gguf" || name == "config.json");
    });
    assert!(client.get(MODEL).unwrap().ends_with("m-Q4_K_S.gguf"));
    let both = self::hub();
    both.edit(|state| drop(state.commits.get_mut(COMMIT_B).unwrap().insert("m.gguf".to_owned(), vec![1])));
    let client = self::client(&both);
    Checkpoint::open(&client.get(MODEL).unwrap()).unwrap();
    assert!(!both.log().iter().any(|line| line.contains("m.gguf")));
    client.refused("org/name:Q4_0", &["GGUF models", "1 of them: m"]);
}

#[test]
fn a_damaged_gguf_file_is_refused() {
    let hub = gguf_hub();
    hub.edit(|state| state.damage = true);
    client(&hub).refused("org/name:Q4_K_S", &["m-Q4_K_S.gguf", "SHA-256", "the file was removed"]);
}

#[test]
fn offline_has_the_gguf_models_that_were_fetched() {
    let hub = gguf_hub();
    hub.edit(|state| {
        let files = state.commits.get_mut(COMMIT_B).unwrap();
        files.insert("deep/er/m-Q6_K.gguf".to_owned(), files["m-Q4_K_M.gguf"].clone());
    });
    let mut client = client(&hub);
    let deep = client.get("org/name:Q6_K").unwrap();
    let file = client.get("org/name:Q4_K_M").unwrap();
    let parts = client.get("org/name:Q8_0").unwrap();
    hub.log();
    client.options.offline = true;
    assert_eq!(client.get("org/name:Q4_K_M").unwrap(), file);
    assert_eq!(client.get("org/name:Q8_0").unwrap(), parts);
    assert_eq!(client.get("org/name:Q6_K").unwrap(), deep);
    client.refused(MODEL, &["org/name:Q4_K_M", "3 of them: Q8_0/m-Q8_0, deep/er/m-Q6_K, m-Q4_K_M"]);
    client.refused("org/name:Q4_K_S", &["ends in Q4_K_S", "in the cache", "3 of them"]);
    std::fs::write(client.options.cache_dir.join("models--org--name/unverified/m-Q4_K_M.gguf"), "").unwrap();
    client.refused("org/name:Q4_K_M", &["m-Q4_K_M.gguf", "cut off before its check"]);
    std::fs::remove_file(parts.with_file_name("m-Q8_0-00002-of-00002.gguf")).unwrap();
    client.refused("org/name:Q8_0", &["m-Q8_0-00002-of-00002.gguf", "only other parts"]);
    std::fs::remove_file(file).unwrap();
    assert_eq!(hub.log(), Vec::<String>::new(), "offline means no request");
}

#[test]
fn an_index_naming_an_absent_shard_is_refused() {
    let hub = hub();
    hub.edit(|state| drop(state.commits.get_mut(COMMIT_B).unwrap().remove(SHARD_2)));
    client(&hub).refused(MODEL, &["model.safetensors.index.json", SHARD_2, "no such file"]);
}

#[test]
fn a_directory_is_itself_and_nonsense_is_refused() {
    let hub = hub();
    let client = client(&hub);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(client.get(dir.path().to_str().unwrap()).unwrap(), dir.path());
    for nonsense in [
        "",
        "name",
        "../name",
        "org/..",
        "a/b/c",
        "org/name@../x",
        "org/na me",
        "/no/such/dir",
        "org/name@",
        "org/name:",
        "org/name:../x",
        "org/name:a b",
    ] {
        client.refused(nonsense, &["an existing directory, or a hub id", "neither"]);
    }
    assert!(hub.log().is_empty());
}

#[test]
fn options_follow_the_variables_of_other_tools() {
    let home = tempfile::tempdir().unwrap();
    let hf_home = home.path().join("hf");
    std::fs::create_dir(&hf_home).unwrap();
    std::fs::write(hf_home.join("token"), "from-login\n").unwrap();
    let options = |vars: &[(&str, &str)]| {
        let vars: BTreeMap<_, _> = vars.iter().copied().collect();
        HubOptions::from_env_vars(|name| vars.get(name).map(|value| (*value).to_owned()))
    };
    let hf = hf_home.to_str().unwrap();
    let plain = options(&[("HOME", "/h")]);
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert_eq!(plain.cache_dir, PathBuf::from("/h/.cache/huggingface/hub"));
    assert!(!plain.offline && plain.token.is_none());
    let set = options(&[("HF_HOME", hf), ("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "1")]);
    assert_eq!(
        (set.endpoint.as_str(), set.token.as_deref(), set.offline),
        ("http://mirror", Some("from-login"), true)
    );
    assert_eq!(set.cache_dir, hf_home.join("hub"));
    let explicit =
        options(&[("HF_HOME", hf), ("HF_TOKEN", "t"), ("HF_HUB_CACHE", "/c"), ("HF_HUB_OFFLINE", "0")]);
    assert_eq!((explicit.token.as_deref(), explicit.offline), (Some("t"), false));
    assert_eq!(explicit.cache_dir, PathBuf::from("/c"));
}
