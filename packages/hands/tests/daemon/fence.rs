//! Epochs: who may speak for a session.

use serde_json::json;
use torpor_exec_channel::Error;
use torpor_exec_channel::message::Exit;

use crate::support::{Daemon, SESSION, bash, call, id, ok, open, text};

fn fenced<T: std::fmt::Debug>(result: Result<T, Error>) -> (u64, u64) {
    match result {
        Err(Error::Fenced { mine, current }) => (mine.0, current.0),
        other => panic!("expected Fenced, got {other:?}"),
    }
}

#[tokio::test]
async fn a_slow_brain_is_refused_whatever_it_asks() {
    let daemon = Daemon::start();
    let old = daemon.open(3).await;
    ok(&old, 1, "true").await;
    let new = daemon.open(4).await;
    let incarnation = old.identity().incarnation.clone();
    let command = json!({ "command": "touch ran" });
    assert_eq!(fenced(old.call(id(&old, 2), incarnation.clone(), "bash".into(), command).await), (3, 4));
    assert_eq!(fenced(old.call(id(&old, 1), incarnation.clone(), "bash".into(), json!({})).await), (3, 4));
    assert_eq!(fenced(old.call(id(&old, 3), incarnation, "ls".into(), json!({})).await), (3, 4));
    assert_eq!(fenced(old.cancel(id(&old, 1)).await), (3, 4));
    assert_eq!(fenced(old.status(id(&old, 1)).await), (3, 4));
    let mut attached = old.attach(id(&old, 1), 0).await.unwrap();
    assert_eq!(fenced(attached.next().await), (3, 4));
    assert_eq!(fenced(open(&daemon.client(), SESSION, 3).await), (3, 4));
    assert_eq!(bash(&new, 2, "ls").await, "(no output)");
}

#[tokio::test]
async fn the_fence_outlives_the_daemon() {
    let mut daemon = Daemon::start();
    drop(daemon.open(7).await);
    daemon.restart();
    assert_eq!(fenced(open(&daemon.client(), SESSION, 6).await), (6, 7));
    let session = open(&daemon.client(), SESSION, 7).await.unwrap();
    // Any frame raises it, not only an open.
    let status = session.status(id(&session, 1)).await;
    assert!(status.is_ok(), "{status:?}");
    let other = open(&daemon.client(), &SESSION.replace('0', "f"), 1).await;
    assert!(other.is_ok(), "a fence is one session's: {other:?}");
}

#[tokio::test]
async fn a_running_call_passes_to_the_next_owner() {
    let daemon = Daemon::start();
    let old = daemon.open(1).await;
    let command = json!({ "command": "echo x >> runs; while [ ! -e go ]; do sleep 0.01; done; cat runs" });
    let mut first = old.exec_stream(id(&old, 1), "bash", command.clone(), 0).await.unwrap();
    let new = daemon.open(2).await;
    let second = new.clone();
    let second = tokio::spawn(async move { call(&second, 1, "bash", command).await });
    assert_eq!(ok(&new, 2, "while [ ! -s runs ]; do sleep 0.01; done; touch go").await, "(no output)");
    let ended = second.await.unwrap();
    assert_eq!((text(&ended).as_str(), &ended.exit), ("x", &Exit::Code(0)));
    // The old one still hears how it ended: that harms nobody.
    while !matches!(first.next().await.unwrap(), torpor_exec_channel::Chunk::Ended(_)) {}
}
