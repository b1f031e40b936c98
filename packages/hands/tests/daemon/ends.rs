//! How calls end before their time: limits, cancellation, death.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use torpor_exec_channel::message::{Exit, State};

use crate::support::{Daemon, call, id, ok, text, until};

/// Longest time until everything of a command that is to end is gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// A command that resists: it ignores SIGTERM, and so do a grandchild, one in a session of its own and one that was
/// orphaned. Each writes its process id as this machine sees it... which it cannot know: each beats in a file instead.
const STUBBORN: &str = r#"
    trap '' TERM
    beat() { trap '' TERM; while :; do echo x >> "$1"; sleep 0.02; done; }
    export -f beat
    ( beat grandchild & beat child ) &
    setsid bash -c 'beat session' &
    ( setsid bash -c 'beat orphan & disown; exit' & )
    beat main"#;
const BEATS: [&str; 5] = ["main", "child", "grandchild", "session", "orphan"];

fn beats(workspace: &Path) -> Vec<u64> {
    BEATS.iter().map(|b| std::fs::metadata(workspace.join(b)).map_or(0, |m| m.len())).collect()
}

async fn assert_dead(workspace: &Path) {
    let before = beats(workspace);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(beats(workspace), before, "something of the command still runs");
}

fn workspace(daemon: &Daemon, digest: &str) -> std::path::PathBuf {
    daemon.state().join("sessions").join(digest).join("leaf/workspace")
}

#[tokio::test]
async fn a_time_limit_ends_everything_the_command_started() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    ok(&session, 1, "true").await;
    let begun = Instant::now();
    let ended = call(&session, 2, "bash", json!({ "command": STUBBORN, "timeout": 0.5 })).await;
    assert!(begun.elapsed() < GONE_WITHIN + Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(ended.exit, Exit::Timeout(1));
    assert!(text(&ended).contains("Command timed out after 1 second"), "{}", text(&ended));
    let dir = workspace(&daemon, session.digest());
    assert!(beats(&dir).iter().all(|n| *n > 0), "{:?}", beats(&dir));
    assert_dead(&dir).await;
}

#[tokio::test]
async fn cancelling_ends_everything_the_command_started() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    let other = session.clone();
    let running = tokio::spawn(async move { call(&other, 1, "bash", json!({ "command": STUBBORN })).await });
    let dir = workspace(&daemon, session.digest());
    until("all beats", || beats(&dir).iter().all(|n| *n > 0)).await;
    assert_eq!(session.status(id(&session, 1)).await.unwrap(), State::Running);
    let begun = Instant::now();
    session.cancel(id(&session, 1)).await.unwrap();
    assert!(begun.elapsed() < GONE_WITHIN, "{:?}", begun.elapsed());
    assert_dead(&dir).await;
    let ended = running.await.unwrap();
    assert_eq!((ended.exit, ended.result.map(|r| r.is_error)), (Exit::Cancelled, Some(true)));
    // What is over can be cancelled too, and stays what it was.
    session.cancel(id(&session, 1)).await.unwrap();
    assert_eq!(session.status(id(&session, 1)).await.unwrap(), State::Ended);
}

#[tokio::test]
async fn a_cancel_that_overtakes_its_call_keeps_it_from_ever_running() {
    let mut daemon = Daemon::start();
    let session = daemon.open(1).await;
    session.cancel(id(&session, 1)).await.unwrap();
    let dir = workspace(&daemon, session.digest());
    let never = json!({ "command": "touch never" });
    for (tool, input) in [("bash", never.clone()), ("ls", json!({}))] {
        let ended = call(&session, 1, tool, input).await;
        assert_eq!((ended.exit, ended.result.map(|r| r.is_error)), (Exit::Cancelled, Some(true)));
    }
    assert_eq!(session.status(id(&session, 1)).await.unwrap(), State::Ended);
    // Nor after a crash, for a brain that asks the hands that are there now.
    daemon.restart();
    let session = daemon.open(2).await;
    assert_eq!(call(&session, 1, "bash", never).await.exit, Exit::Cancelled);
    assert_eq!(text(&call(&session, 2, "ls", json!({})).await).trim(), "(empty directory)");
    assert!(!dir.join("never").exists());
}

#[tokio::test]
async fn hands_that_lost_their_state_are_told_the_session_again() {
    let mut daemon = Daemon::start();
    let session = daemon.open(1).await;
    ok(&session, 1, "touch here").await;
    daemon.kill();
    std::fs::remove_dir_all(daemon.state().join("sessions")).unwrap();
    daemon.restart();
    // What has no effects is simply done; what has, and was asked of those that are gone, is lost.
    assert_eq!(text(&call(&session, 2, "ls", json!({})).await).trim(), "(empty directory)");
    let ended = call(&session, 3, "bash", json!({ "command": "touch never" })).await;
    assert!(matches!(ended.exit, Exit::Lost(_)), "{:?}", ended.exit);
    let fresh = daemon.open(1).await;
    assert_eq!(ok(&fresh, 4, "ls").await, "(no output)");
}

#[tokio::test]
async fn a_search_can_be_cancelled() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    ok(&session, 1, "mkfifo pipe").await;
    let other = session.clone();
    // Long work: a million files would do, but so does any tool that is still at it.
    let command = "for i in $(seq 300); do mkdir -p d$i; for j in $(seq 30); do echo x > d$i/$j; done; done";
    ok(&session, 2, command).await;
    let running = tokio::spawn(async move { call(&other, 3, "grep", json!({ "pattern": "(x+x+)+y" })).await });
    session.cancel(id(&session, 3)).await.unwrap();
    let ended = running.await.unwrap();
    assert!(matches!(ended.exit, Exit::Cancelled | Exit::Answered), "{:?}", ended.exit);
}

#[tokio::test]
async fn a_background_process_outlives_its_call_and_not_its_pipes() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    let begun = Instant::now();
    let ended = call(
        &session,
        1,
        "bash",
        json!({ "command": "(while :; do echo noise; echo x >> beat; sleep 0.02; done) & echo started" }),
    )
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed()); // its output never ends
    assert_eq!(ended.exit, Exit::Code(0));
    assert!(text(&ended).contains("started"), "{}", text(&ended)); // either may come first
    let beat = workspace(&daemon, session.digest()).join("beat");
    let size = || std::fs::metadata(&beat).map_or(0, |m| m.len());
    let then = size();
    until("a beat after the end of the call", || size() > then + 10).await;
    assert_eq!(ok(&session, 2, "pkill -f '[n]oise'; echo gone").await, "gone");
}

#[tokio::test]
async fn hands_that_die_take_their_commands_along_and_say_so_later() {
    let mut daemon = Daemon::start();
    let session = daemon.open(1).await;
    ok(&session, 1, "echo first").await;
    let other = session.clone();
    let running = tokio::spawn(async move { call(&other, 2, "bash", json!({ "command": STUBBORN })).await });
    let dir = workspace(&daemon, session.digest());
    until("all beats", || beats(&dir).iter().all(|n| *n > 0)).await;
    daemon.restart();
    // The call attaches by itself to whoever answers now.
    let ended = running.await.unwrap();
    assert!(matches!(ended.exit, Exit::Lost(_)), "{:?}", ended.exit);
    assert_dead(&dir).await;
    // What had ended is known still, and what was never asked for is not begun for another incarnation's intent.
    assert_eq!(text(&call(&session, 1, "bash", json!({ "command": "echo first" })).await), "first");
    let never = call(&session, 3, "bash", json!({ "command": "touch never" })).await;
    assert!(matches!(never.exit, Exit::Lost(_)), "{:?}", never.exit);
    assert!(!dir.join("never").exists());
    // A fresh open names the new incarnation and goes on in the same workspace.
    let fresh = daemon.open(2).await;
    assert_ne!(fresh.identity().incarnation, session.identity().incarnation);
    assert!(ok(&fresh, 4, "ls").await.contains("orphan"));
}

#[tokio::test]
async fn a_torn_journal_tells_what_it_still_knows() {
    let mut daemon = Daemon::start();
    let session = daemon.open(1).await;
    ok(&session, 1, "echo one").await;
    ok(&session, 2, "echo two").await;
    daemon.kill();
    let journal = daemon.state().join("sessions").join(session.digest()).join("journal");
    let bytes = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, &bytes[..bytes.len() - 10]).unwrap();
    daemon.restart();
    assert_eq!(text(&call(&session, 1, "bash", json!({ "command": "echo one" })).await), "one");
    let torn = call(&session, 2, "bash", json!({ "command": "echo two" })).await;
    assert!(matches!(torn.exit, Exit::Lost(_)), "{:?}", torn.exit);
}

#[tokio::test]
async fn a_command_without_a_brain_is_ended_after_a_while() {
    let daemon = Daemon::with(|s| s.orphan = Duration::from_millis(300)).unwrap();
    let session = daemon.open(1).await;
    let running = session.exec_stream(id(&session, 1), "bash", json!({ "command": STUBBORN }), 0).await.unwrap();
    let dir = workspace(&daemon, session.digest());
    until("all beats", || beats(&dir).iter().all(|n| *n > 0)).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(session.status(id(&session, 1)).await.unwrap(), State::Running, "somebody waits for it");
    drop(running);
    let mut state = State::Running;
    for _ in 0..300 {
        state = session.status(id(&session, 1)).await.unwrap();
        if state == State::Ended {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(state, State::Ended);
    assert_dead(&dir).await;
}

#[tokio::test]
async fn an_idle_daemon_leaves_where_it_is_told_to() {
    let mut daemon = Daemon::with(|s| {
        s.orphan = Duration::from_millis(200);
        s.exit_when_idle = true;
    })
    .unwrap();
    let session = daemon.open(1).await;
    ok(&session, 1, "true").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!daemon.has_ended(), "a brain is attached");
    drop(session);
    until("the end of the daemon", || daemon.has_ended()).await;
    assert!(!daemon.state().join("sock").exists());
}

#[tokio::test]
async fn a_tool_that_waits_for_ever_is_ended() {
    let daemon = Daemon::with(|s| s.tool_limit = Duration::from_millis(300)).unwrap();
    let session = daemon.open(1).await;
    ok(&session, 1, "mkfifo .gitignore; echo found > file").await;
    let ended = call(&session, 2, "grep", json!({ "pattern": "found" })).await;
    assert_eq!(ended.exit, Exit::Timeout(1), "{}", text(&ended));
    assert!(text(&ended).contains("no answer after 1 s."), "{}", text(&ended));
    ok(&session, 3, "rm .gitignore").await;
    assert!(text(&call(&session, 4, "grep", json!({ "pattern": "found" })).await).contains("file:1"));
}
