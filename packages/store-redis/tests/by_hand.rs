//! What others see who follow docs/specs/2026-11-20-redis-store.md: its shell lines, run as they stand there, and another client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

mod support;

use std::collections::HashMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use fred::interfaces::{ClientLike as _, HashesInterface as _, StreamsInterface as _};
use sha2::{Digest as _, Sha256};
use support::store;
use torpor_core::entry::{self, Body, Entry};
use torpor_core::log::SessionLog as _;
use torpor_core::queue::{Lease, NewRun, WorkQueue as _};
use torpor_core::session::{Fork, Forked, Removal, SessionStore as _};
use torpor_core::{Epoch, Position, SessionKey, Timestamp};
use torpor_store_redis::{Options, Store};
use torpor_testkit::redis::Server;
use torpor_testkit::sample::{checkpoint, claimed, done, ended, first, further, note, progress, write};

const DOCUMENT: &str = include_str!("../../../docs/specs/2026-11-20-redis-store.md");

/// Sessions that are easily found wrongly: other scripts than ASCII, quotes, and a length that takes two bytes.
fn sessions() -> [SessionKey; 3] {
    let long = "ü".repeat(256);
    [("default", "s1"), ("Grüne Äpfel", "it's \"mine\" % \\0 $HOME"), ("a/b", &long)]
        .map(|(tenant, session)| SessionKey::new(tenant, session).unwrap())
}

fn options() -> Options {
    Options { prefix: "mine".to_owned(), shards: 3, ..Options::default() }
}

/// A session with a few entries of every shape; answers its owner and them.
async fn written(store: &Store, session: &SessionKey) -> (Lease, Vec<Entry>) {
    let new = NewRun { session: session.clone(), claim_for: Some("w".into()), ..first("s") };
    let lease = claimed(store.enqueue(new).await.unwrap());
    let text = Body::Checkpoint { summary: "two\nlines, \0 and 🦀".into(), keep_from: Position(3), open_run: None };
    store.append(write(&lease, 0, vec![note(&lease), progress(&lease)])).await.unwrap();
    store.append(write(&lease, 2, vec![text, checkpoint(4)])).await.unwrap();
    store.append(write(&lease, 4, vec![ended(&lease, done("ok"))])).await.unwrap();
    let entries = store.read(session, Position(1), 100).await.unwrap();
    assert_eq!(entries.len(), 5);
    (lease, entries)
}

/// An entry as the document describes it.
fn decoded(id: &str, fields: &HashMap<String, String>) -> Entry {
    Entry {
        position: Position(id.strip_suffix("-0").expect("an id <position>-0").parse().unwrap()),
        epoch: Epoch(fields["e"].parse().unwrap()),
        at: Timestamp(fields["t"].parse().unwrap()),
        body: entry::decode(fields["s"].parse().unwrap(), fields["b"].as_bytes()).unwrap(),
    }
}

/// The lines that the document shows.
fn shell_lines() -> &'static str {
    let section = DOCUMENT.split("## Reading a session by hand").nth(1).expect("the section");
    section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("its shell lines")
}

#[tokio::test]
async fn a_session_is_read_with_redis_cli_as_the_document_says() {
    let Some(server) = Server::start() else { return };
    if Command::new("redis-cli").arg("--version").output().is_err() {
        eprintln!("SKIPPED: redis-cli is not installed; this test needs it");
        return;
    }
    let store = store(&server, options()).await;
    // Those lines say `redis-cli`; this one knows the port.
    let found = Command::new("sh").args(["-c", "command -v redis-cli"]).output().unwrap();
    let real = String::from_utf8(found.stdout).unwrap();
    let bin = tempfile::tempdir().unwrap();
    let shim = bin.path().join("redis-cli");
    std::fs::write(&shim, format!("#!/bin/sh\nexec '{}' -p {} \"$@\"\n", real.trim(), server.port())).unwrap();
    std::fs::set_permissions(&shim, Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());

    for session in sessions() {
        let (lease, want) = written(&store, &session).await;
        let run = Command::new("sh")
            .args(["-euc", shell_lines()])
            .env("PATH", &path)
            .envs([("TENANT", session.tenant()), ("SESSION", session.session()), ("PREFIX", "mine"), ("SHARDS", "3")])
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let answer = String::from_utf8(run.stdout).unwrap();
        let mut lines = answer.lines();
        let marks: Vec<&str> = lines.by_ref().take(7).collect();
        let epoch = lease.epoch.to_string();
        assert_eq!((marks[0], marks[1], marks[3]), ("5", "4", &*epoch), "head, resume, epoch");
        assert_eq!(marks[4..], ["", "", ""], "nobody's turn, and no fork");

        // On a line each: an id, then names and values. A body has no line breaks.
        let mut got: Vec<(String, HashMap<String, String>)> = Vec::new();
        while let Some(line) = lines.next() {
            if line.ends_with("-0") {
                got.push((line.to_owned(), HashMap::new()));
            } else {
                let (_, fields) = got.last_mut().expect("an id comes first");
                fields.insert(line.to_owned(), lines.next().expect("a value").to_owned());
            }
        }
        assert!(got.iter().map(|(id, fields)| decoded(id, fields)).eq(want));
        let first_of_appends = got.iter().filter(|(_, fields)| fields.contains_key("w")).map(|(id, _)| &**id);
        assert!(first_of_appends.eq(["1-0", "3-0", "5-0"]));
    }
}

/// The keys of a session, as the document says.
fn keys_of(session: &SessionKey, prefix: &str, shards: u64) -> (String, String) {
    let mut digest = Sha256::new();
    for part in [session.tenant(), session.session()] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let shard = u64::from_be_bytes(Sha256::digest(session.tenant())[..8].try_into().unwrap()) % shards;
    let shard = format!("{prefix}:{{{shard}}}:");
    (format!("{shard}s:{}", hex(&digest.finalize()[..16])), shard)
}

async fn client(server: &Server) -> fred::clients::Client {
    let config = fred::types::config::Config::from_url(&server.url()).unwrap();
    let client = fred::clients::Client::new(config, None, None, None);
    client.init().await.unwrap();
    client
}

#[tokio::test]
async fn a_session_is_read_by_another_client() {
    let Some(server) = Server::start() else { return };
    let store = store(&server, options()).await;
    let client = client(&server).await;
    for session in sessions() {
        let (_, want) = written(&store, &session).await;
        let (key, shard) = keys_of(&session, "mine", 3);
        let marks: Vec<String> = client.hmget(&key, vec!["life", "head", "tenant", "session"]).await.unwrap();
        assert_eq!(marks[1..], ["5", session.tenant(), session.session()]);
        let log = format!("{shard}log:{}", marks[0]);
        let got: Vec<(String, HashMap<String, String>)> =
            client.xrange_values(log, "1-0", format!("{}-0", marks[1]), None).await.unwrap();
        assert!(got.iter().map(|(id, fields)| decoded(id, fields)).eq(want));
    }
}

#[tokio::test]
async fn a_fork_is_read_by_another_client() {
    let Some(server) = Server::start() else { return };
    let store = store(&server, options()).await;
    let client = client(&server).await;
    let [first, second, third] = ["first", "second", "third"].map(|name| SessionKey::new("acme", name).unwrap());
    let (_, shared) = written(&store, &first).await;
    for (from, position, into) in [(&first, 4, &second), (&second, 5, &third)] {
        let fork = Fork { from: from.clone(), position: Position(position), into: into.clone() };
        assert_eq!(store.fork(&fork).await.unwrap(), Forked::Created);
        let new = NewRun { session: into.clone(), claim_for: Some("w".into()), ..further("s") };
        let lease = claimed(store.enqueue(new).await.unwrap());
        store.append(write(&lease, position, vec![note(&lease), ended(&lease, done("ok"))])).await.unwrap();
    }
    assert!(matches!(store.remove(&first).await.unwrap(), Removal::Removed(_)), "what forks share stays");

    let (key, shard) = keys_of(&third, "mine", 3);
    let marks: Vec<String> = client.hmget(&key, vec!["life", "head", "forked_at", "anc"]).await.unwrap();
    let [life, head, forked_at, shares] = &marks[..] else { panic!("{marks:?}") };
    let mut parts: Vec<(u64, u64, u64)> = serde_json::from_str(shares).unwrap();
    parts.push((forked_at.parse().unwrap(), head.parse().unwrap(), life.parse().unwrap()));
    let mut got = Vec::new();
    for (above, upto, life) in parts {
        let (from, to) = (format!("{}-0", above + 1), format!("{upto}-0"));
        let part: Vec<(String, HashMap<String, String>)> =
            client.xrange_values(format!("{shard}log:{life}"), from, to, None).await.unwrap();
        got.extend(part.iter().map(|(id, fields)| decoded(id, fields)));
    }
    assert_eq!(got, store.read(&third, Position(1), 100).await.unwrap());
    assert!(got.iter().map(|entry| entry.position.0).eq(1..=7));
    assert_eq!(got[..4], shared[..4]);
}
