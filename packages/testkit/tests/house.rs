//! House rules as tests: which crate may know which, one crypto provider, permissive licences, and how files look.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crate, and the crates of this workspace that it may depend on. Arrows point down, never up. Dev-dependencies are
/// free: tests may stand anywhere.
const LAYERS: &[(&str, &[&str])] = &[
    ("torpor-core", &[]),
    ("torpor-tools", &[]),
    ("torpor-exec-channel", &["torpor-core"]),
    ("torpor-hands", &["torpor-core", "torpor-exec-channel", "torpor-tools"]),
    ("torpor-store-embedded", &["torpor-core"]),
    ("torpor-store-redis", &["torpor-core"]),
    ("torpor-metrics", &["torpor-core"]),
    ("torpor-model", &["torpor-core"]),
    ("torpor-otlp", &["torpor-core"]),
    ("torpor-sandbox-local", &["torpor-core", "torpor-exec-channel", "torpor-hands"]),
    ("torpor-files", &["torpor-core"]),
    ("torpor-harness", &["torpor-core"]),
    ("torpor-schedule", &["torpor-core"]),
    ("torpor-volume", &["torpor-core"]),
    ("torpor-webhook", &["torpor-core"]),
    ("torpor-server", &["torpor-core", "torpor-files", "torpor-harness", "torpor-schedule"]),
    ("torpor-worker", &["torpor-core", "torpor-harness"]),
    (
        "torpor",
        &[
            "torpor-core",
            "torpor-files",
            "torpor-harness",
            "torpor-hands",
            "torpor-metrics",
            "torpor-model",
            "torpor-otlp",
            "torpor-sandbox-local",
            "torpor-schedule",
            "torpor-server",
            "torpor-store-embedded",
            "torpor-store-redis",
            "torpor-volume",
            "torpor-webhook",
            "torpor-worker",
        ],
    ),
    ("torpor-testkit", &["torpor-core"]),
    ("torpor-models", &[]),
];

/// Outside crates that only these may use.
const WRAPPED: &[(&str, &[&str])] = &[
    ("rusqlite", &["torpor-store-embedded"]),
    ("redis", &["torpor-store-redis"]),
    ("axum", &["torpor-server"]),
    ("reqwest", &["torpor-model", "torpor-otlp", "torpor-webhook", "torpor"]),
    ("croner", &["torpor-schedule"]),
    ("landlock", &["torpor-hands"]),
    ("seccompiler", &["torpor-hands"]),
    ("grep-searcher", &["torpor-tools"]),
    ("clap", &["torpor", "torpor-experiments"]),
    ("stateright", &["torpor-models"]),
];

/// Never in what we ship: a second crypto provider, a second TLS stack.
const BANNED: &[&str] = &["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls"];

/// Licences that a dependency may have; one arm of an `OR` is enough.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Zlib",
    "Unlicense",
    "0BSD",
    "CC0-1.0",
    "Unicode-3.0",
    "CDLA-Permissive-2.0",
    "MPL-2.0",
];

/// Longest file of Rust code, tests included.
const MAX_LINES: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn metadata() -> Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap_or_default()
}

/// Workspace crates with the names of their non-dev dependencies.
fn workspace(meta: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let members: BTreeSet<&str> =
        meta["workspace_members"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let packages = meta["packages"].as_array().unwrap().iter().filter(|p| members.contains(text(p, "id")));
    packages
        .map(|p| {
            let deps = p["dependencies"].as_array().unwrap().iter().filter(|d| text(d, "kind") != "dev");
            (text(p, "name").to_owned(), deps.map(|d| text(d, "name").to_owned()).collect())
        })
        .collect()
}

#[test]
fn crates_know_only_what_lies_below_them() {
    let meta = metadata();
    let workspace = workspace(&meta);
    let layers: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    for (name, deps) in &workspace {
        if name == "torpor-experiments" {
            continue; // nothing depends on it (checked below); it may measure anything
        }
        let allowed = layers.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no place in LAYERS"));
        for dep in deps.iter().filter(|d| workspace.contains_key(*d)) {
            assert!(allowed.contains(&dep.as_str()), "{name} must not know {dep}");
        }
        assert!(!deps.contains("torpor-experiments"), "{name} depends on experiments");
    }
    for (outside, owners) in WRAPPED {
        for (name, deps) in &workspace {
            let ours = owners.contains(&name.as_str()) || name == "torpor-experiments";
            assert!(ours || !deps.contains(*outside), "{name} uses {outside}, which belongs to {owners:?}");
        }
    }
}

#[test]
fn one_crypto_provider_and_permissive_licences() {
    let meta = metadata();
    for package in meta["packages"].as_array().unwrap() {
        let name = text(package, "name");
        assert!(!BANNED.contains(&name), "{name} is banned: ring is the one crypto provider");
        let licence = text(package, "license").replace('/', " OR ");
        let free = licence.split(" OR ").any(|arm| {
            let mut parts = arm.trim_matches(['(', ')', ' ']).split(" AND ");
            parts
                .all(|l| LICENCES.contains(&l.trim_matches(['(', ')', ' ']).split(" WITH ").next().unwrap_or_default()))
        });
        assert!(free, "{name}: licence {licence:?}");
    }
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_say_what_they_own_and_stay_small() {
    let mut files = Vec::new();
    rust_files(&root(), &mut files);
    assert!(files.len() > 50, "the walk found {} files", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        let code = fs::read_to_string(&path).unwrap();
        let lines = code.lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{shown}: {lines} lines; split it (at most {MAX_LINES})"));
        }
        let in_tests = shown.contains("/tests/");
        if shown.ends_with("/mod.rs") && !in_tests {
            wrong.push(format!("{shown}: use foo.rs and foo/, not mod.rs"));
        }
        // Parts of a test are introduced by the file that includes them.
        let part_of_a_test =
            shown.ends_with("tests.rs") || shown.split("/tests/").nth(1).is_some_and(|p| p.contains('/'));
        if !code.trim_start().starts_with("//!") && !part_of_a_test {
            wrong.push(format!("{shown}: begins without a module doc"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
