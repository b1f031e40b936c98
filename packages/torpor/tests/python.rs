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
