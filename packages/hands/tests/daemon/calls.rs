//! Calls: their results, their identity, their end.

use serde_json::json;
use torpor_exec_channel::message::Exit;

use crate::support::{Daemon, bash, call, ok, text};

#[tokio::test]
async fn commands_and_tools_share_a_workspace() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    assert_eq!(ok(&session, 1, "pwd; echo hello > a.txt").await, "/workspace");
    let read = call(&session, 2, "read", json!({ "path": "a.txt" })).await;
    assert_eq!((text(&read).trim(), read.exit), ("hello", Exit::Answered));
    let written = call(&session, 3, "write", json!({ "path": "b/c.txt", "content": "x" })).await;
    assert_eq!(written.exit, Exit::Answered, "{}", text(&written));
    assert_eq!(ok(&session, 4, "cat b/c.txt").await, "x");
}

#[tokio::test]
async fn endings_are_told_apart() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    for (position, (command, exit, want)) in [
        ("true", Exit::Code(0), "(no output)"),
        ("echo out; echo err >&2; exit 3", Exit::Code(3), "out\nerr\n\nCommand exited with code 3"),
        ("kill -9 $$", Exit::Signal(9), "killed by signal 9"),
        ("no-such-program", Exit::Code(127), "not found"),
        ("cat; echo -n end of input", Exit::Code(0), "end of input"),
    ]
    .into_iter()
    .enumerate()
    {
        let ended = call(&session, position as u64 + 1, "bash", json!({ "command": command })).await;
        assert_eq!(ended.exit, exit, "{command}");
        assert!(text(&ended).contains(want), "{command}: {}", text(&ended));
    }
    let long = "x".repeat(200_000);
    assert!(bash(&session, 90, &format!("echo {long}")).await.contains("at most"));
}
