//! Clients written in Python, with the libraries that their users have. They read as guides.
//!
//! They need the packages of `tests/python/requirements.txt`: `.ci/python` makes an environment with them under
//! `target/python`. Without it these tests say SKIPPED and pass.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::World;
use tokio::process::Command;

/// The interpreter of the environment, if it was made.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join("target/python/bin/python");
    if python.exists() {
        return Some(python);
    }
    eprintln!("SKIPPED: there is no {}; `.ci/python` makes it", python.display());
    None
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_story_holds() {
    let Some(python) = python() else { return };
    let mut world = World::new().await;
    world.env("TORPOR_MODEL", &format!("scripted:{}", script("gate_story.json").display()));
    let server = world.serve().await;
    let story = Command::new(python).arg(script("gate_story.py")).arg(&server.url).arg(world.project()).output();
    let told = tokio::time::timeout(Duration::from_secs(60), story).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{out}{err}\n{}", world.log());
    assert!(out.contains("Published: publish"), "{out}");
}

/// What the server says of itself holds: a fuzzer reads the description, sends what it allows and what it forbids, and
/// holds every answer against it.
#[tokio::test(flavor = "multi_thread")]
async fn the_description_holds_against_a_fuzzer() {
    let Some(python) = python() else { return };
    let mut world = World::new().await;
    let model = world.file("model.json");
    std::fs::write(&model, r#"{"scripts": [{"turns": [{"text": "done"}]}]}"#).unwrap();
    world.env("TORPOR_MODEL", &format!("scripted:{}", model.display()));
    world.env("TORPOR_SANDBOX", "none");
    let volume = world.file("volume");
    std::fs::create_dir(&volume).unwrap(); // without one, whatever needs it is a 503
    world.env("TORPOR_WORK_ROOT", volume.to_str().unwrap());
    let made = world.run(&["keys", "create", "fuzzer", "--every-tenant", "--scope", "admin", "--json"]).await;
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let server = world.serve().await;
    let fuzzer = Command::new(python)
        .args(["-m", "schemathesis.cli", "run"])
        .arg(format!("{}/openapi.json", server.url))
        .args(["--header", &format!("Authorization: Bearer {}", made["secret"].as_str().unwrap())])
        .args(["--phases", "coverage,fuzzing", "--max-examples", "10", "--workers", "1", "--seed", "1"])
        // What a schema cannot say (a model that is not configured, a folder that is not shared) is refused all the same.
        .args(["--exclude-checks", "positive_data_acceptance"])
        // Other names of routes that are here already, and a body that is lines of JSON, which it cannot write.
        .args(["--exclude-deprecated", "--exclude-operation-id", "importSession"])
        // It must not end the key that it uses.
        .args(["--exclude-operation-id", "revokeKey", "--exclude-operation-id", "rotateKey"])
        .args(["--request-timeout", "20", "--suppress-health-check", "all", "--continue-on-failure", "--no-color"])
        .current_dir(world.data())
        .output();
    let told = tokio::time::timeout(Duration::from_secs(300), fuzzer).await.unwrap().unwrap();
    let out = String::from_utf8_lossy(&told.stdout);
    let failures: String = out.split("= FAILURES =").skip(1).collect();
    // Some versions of Python cannot compile some of the fuzzer's own lambdas; that says nothing about the server.
    let own_fault = out.contains("AST constructor recursion depth mismatch") && !out.contains("Network Error");
    let held = told.status.success() || (own_fault && failures.is_empty() && out.contains("passed"));
    assert!(held, "{}", if failures.is_empty() { &out } else { failures.as_str() });
}
