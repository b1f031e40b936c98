//! Forgetting a session: what goes, what stays, and dying on the way.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use torpor_core::Epoch;
use torpor_core::sandbox::Forgotten;
use torpor_exec_channel::Error;
use torpor_exec_channel::message::{Exit, Forget, Open, State, Workspace};

use crate::support::{Daemon, SESSION, bash, call, id, ok, open, text, until};

async fn forget(daemon: &Daemon, epoch: u64) -> Result<Forgotten, Error> {
    daemon.client().forget(Forget { session: SESSION.into(), epoch: Epoch(epoch) }).await
}

fn session_folder(daemon: &Daemon) -> PathBuf {
    daemon.state().join("sessions").join(SESSION)
}

/// What is left in the session's folder.
fn left(daemon: &Daemon) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(session_folder(daemon)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn workspace_outputs_and_results_go_and_the_fence_stays() {
    let mut daemon = Daemon::start();
    let old = daemon.open(1).await;
    ok(&old, 1, "mkdir -p a/b; echo x > a/b/c; chmod 0 a/b a; echo home > ~/h; echo tmp > /tmp/t; seq 100000").await;
    assert_eq!(left(&daemon), ["journal", "leaf", "outputs", "segments"]);
    let forgotten = forget(&daemon, 5).await.unwrap();
    assert_eq!((forgotten.calls, forgotten.workspace), (1, true));
    assert!(forgotten.files >= 8, "{forgotten:?}");
    assert_eq!(left(&daemon), ["journal"]);
    daemon.restart();
    let refused = open(&daemon.client(), SESSION, 4).await.map(drop).unwrap_err();
    assert!(matches!(refused, Error::Fenced { current: Epoch(5), .. }), "{refused:?}");
    let later = daemon.open(5).await;
    assert_eq!(later.status(id(&later, 1)).await.unwrap(), State::Unknown);
    // The same position, and another command: no conflict, and nothing of the old workspace.
    assert_eq!(ok(&later, 1, "ls -A /workspace /tmp ~ /outputs | grep -v : | grep . || echo none").await, "none");
}

#[tokio::test]
async fn nothing_of_the_session_runs_on() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    let beat = "while :; do date +%N > beat; sleep 0.01; done";
    ok(&session, 1, &format!("setsid sh -c '{beat}' > /dev/null 2>&1 &")).await;
    let waiting = session.clone();
    let waiting =
        tokio::spawn(async move { call(&waiting, 2, "bash", json!({ "command": "touch began; sleep 1000" })).await });
    ok(&session, 3, "while [ ! -e began ] || [ ! -e beat ]; do sleep 0.01; done").await;
    let marker = format!("{}", daemon.pid());
    let children = || fs::read_to_string(format!("/proc/{marker}/task/{marker}/children")).unwrap_or_default();
    assert!(!children().trim().is_empty());
    forget(&daemon, 2).await.unwrap();
    assert_eq!(children().trim(), "", "the domain is gone when the answer comes");
    let ended = waiting.await.unwrap();
    assert!(ended.result.is_some_and(|r| r.is_error), "{:?}", ended.exit);
    assert_eq!(left(&daemon), ["journal"]);
}

#[tokio::test]
async fn a_folder_of_the_users_keeps_everything() {
    let daemon = Daemon::start();
    let given = daemon.dir.path().join("project");
    fs::create_dir(&given).unwrap();
    let path = given.canonicalize().unwrap().display().to_string();
    let workspace = Some(Workspace { path: path.clone(), roots: vec![path] });
    let open = Open { session: SESSION.into(), epoch: Epoch(1), born: Epoch(0), workspace };
    let session = daemon.client().open(open).await.unwrap();
    ok(&session, 1, "echo kept > file").await;
    let forgotten = forget(&daemon, 2).await.unwrap();
    assert_eq!((forgotten.calls, forgotten.workspace), (1, false));
    assert_eq!(fs::read_to_string(given.join("file")).unwrap(), "kept\n");
    // It is bound to nothing any more.
    let later = daemon.open(2).await;
    assert_eq!(bash(&later, 1, "ls").await, "(no output)");
}

#[tokio::test]
async fn hands_that_die_in_the_middle_leave_what_the_next_ones_remove() {
    let mut daemon = Daemon::start();
    for round in 0..6u64 {
        let epoch = 2 * round + 1;
        let session = daemon.open(epoch).await;
        let many = "mkdir -p d{1..40}/e/f; touch d{1..40}/{1..40}; seq 10000";
        ok(&session, 1, many).await;
        let client = daemon.client();
        let asked = Forget { session: SESSION.into(), epoch: Epoch(epoch + 1) };
        let request = asked.clone();
        let dying = tokio::spawn(async move { client.forget(request).await });
        // Dies when the fence is up, when the first folder is moved away, and at moments after that.
        let (journal, leaf) = (session_folder(&daemon).join("journal"), session_folder(&daemon).join("leaf"));
        let fence = format!("{{\"fence\":{{\"epoch\":{}}}}}", epoch + 1);
        until("the fence", || fs::read_to_string(&journal).unwrap_or_default().contains(&fence)).await;
        if round > 0 {
            until("the first step", || !leaf.exists()).await;
        }
        let moment = Duration::from_millis(round.saturating_sub(1) * 3);
        tokio::time::sleep(moment).await; // whatever it is doing by then
        daemon.restart();
        dying.abort();

        let refused = open(&daemon.client(), SESSION, epoch).await.map(drop).unwrap_err();
        assert!(matches!(refused, Error::Fenced { .. }), "{refused:?}");
        daemon.client().forget(asked).await.unwrap();
        assert_eq!(left(&daemon), ["journal"]);
        let later = daemon.open(epoch + 1).await;
        let again = call(&later, 1, "bash", json!({ "command": "ls; ls /outputs" })).await;
        assert_eq!((again.exit.clone(), text(&again).as_str()), (Exit::Code(0), "(no output)"), "round {round}");
        forget(&daemon, epoch + 1).await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_the_journal_has_left_out_is_lost_and_not_run() {
    let mut daemon = Daemon::start();
    let session = daemon.open(1).await;
    ok(&session, 12, "echo twelve").await;
    daemon.kill();
    // As a compaction would leave it.
    let record = r#"{"floor":{"position":9}}"#;
    let sum = torpor_core::id::hex(&Sha256::digest(record)[..4]);
    let path = session_folder(&daemon).join("journal");
    let mut journal = fs::File::options().append(true).open(path).unwrap();
    writeln!(journal, "{sum} {record}").unwrap();
    daemon.restart();
    let session = daemon.open(1).await;
    for position in [1, 9] {
        let old = call(&session, position, "bash", json!({ "command": "touch ran" })).await;
        assert!(matches!(&old.exit, Exit::Lost(why) if why.contains("only the newest calls")), "{:?}", old.exit);
        assert_eq!(session.status(id(&session, position)).await.unwrap(), State::Lost);
    }
    assert_eq!(text(&call(&session, 2, "ls", json!({})).await), "(empty directory)");
    assert_eq!(ok(&session, 12, "echo twelve").await, "twelve");
    assert_eq!(ok(&session, 10, "echo ten").await, "ten");
    // A session that is forgotten begins anew.
    forget(&daemon, 2).await.unwrap();
    assert_eq!(ok(&daemon.open(2).await, 1, "echo one").await, "one");
}
