//! Calls: their results, their identity, their end.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;
use torpor_core::message::Content;
use torpor_core::sandbox::{self, Sandbox};
use torpor_exec_channel::message::{Code, Exit};
use torpor_exec_channel::{Client, Dial, Error, Session, Stream};

use crate::support::{Daemon, SESSION, bash, call, id, ok, open, options, text, until};

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
async fn whoever_opens_a_session_hears_of_its_last_call() {
    let mut daemon = Daemon::start();
    let session = daemon.open(1).await;
    assert_eq!(session.last_call(), None);
    ok(&session, 4, "echo x > a").await;
    ok(&session, 2, "true").await;
    call(&session, 9, "read", json!({ "path": "a" })).await; // reading changes nothing, and is not remembered
    let last = |session: &Session| session.last_call().cloned().unwrap();
    let again = last(&daemon.open(1).await);
    assert_eq!(again.position.0, 4);
    assert!(again.is("bash", &json!({ "command": "echo x > a" })) && !again.is("bash", &json!({ "command": "true" })));
    session.cancel(id(&session, 5)).await.unwrap();
    daemon.restart();
    let cancelled = last(&daemon.open(2).await);
    assert_eq!(cancelled.position.0, 5);
    assert!(cancelled.is("bash", &json!({ "command": "whatever it was" })));
}

#[tokio::test]
async fn the_largest_picture_travels() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    // 3.75 MiB: a header, one chunk of nothing, an end.
    let make = r"
        { printf '\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89'
          printf '\0\x3b\xff\xc7teXt'; head -c 3932103 /dev/zero; printf '\0\0\0\0\0\0\0\0IEND\xaeB`\x82'
        } > p.txt; wc -c < p.txt";
    assert_eq!(ok(&session, 1, make).await, "3932160");
    let read = call(&session, 2, "read", json!({ "path": "p.txt" })).await;
    assert_eq!(text(&read), "[p.txt is an image (image/png, 3.8MB, 1 x 1 pixels), shown here.]");
    let content = read.result.unwrap().content;
    assert!(matches!(&content[1], Content::Image { data, .. } if data.len() == 5 * 1024 * 1024));
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

/// Reaches the daemon through `torpor-hands attach`, as a remote transport does.
struct Attach(std::path::PathBuf);

#[async_trait::async_trait]
impl Dial for Attach {
    async fn dial(&self) -> Result<Box<dyn Stream>, Error> {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_torpor-hands"));
        command.arg("attach").arg("--state").arg(&self.0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Ok(Box::new(tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap())))
    }
}

#[tokio::test]
async fn attach_joins_standard_streams_to_the_daemon() {
    let daemon = Daemon::start();
    let client = Client::new(Attach(daemon.state().to_owned()), options());
    let session = open(&client, SESSION, 1).await.unwrap();
    assert_eq!(ok(&session, 1, "echo through the pipe").await, "through the pipe");
    let content = "x".repeat(3_000_000);
    let written = call(&session, 2, "write", json!({ "path": "big", "content": content })).await;
    assert_eq!(written.exit, Exit::Answered, "{}", text(&written));
    assert_eq!(ok(&session, 3, "wc -c < big").await, "3000000");
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_by_name() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    for (position, (tool, input, want)) in [
        ("bash", json!({}), "bash needs `command`"),
        ("bash", json!({ "command": "true", "timeout": 0 }), "`timeout` must be above 0"),
        ("bash", json!({ "command": "true", "timeout": 90_000 }), "at most 86400"),
        ("bash", json!({ "command": "a\0b" }), "NUL"),
        ("fly", json!({}), "Unknown tool: fly"),
        ("read", json!({ "path": "missing" }), "missing"),
    ]
    .into_iter()
    .enumerate()
    {
        let ended = call(&session, position as u64 + 1, tool, input).await;
        assert!(text(&ended).contains(want), "{}", text(&ended));
        assert!(ended.result.is_some_and(|r| r.is_error));
    }
    for bad in ["", "../../etc", "0123456789ABCDEF0123456789ABCDEF"] {
        let refused = open(&daemon.client(), bad, 1).await.unwrap_err().to_string();
        assert!(refused.contains("32 hexadecimal digits"), "{refused}");
    }
}

#[tokio::test]
async fn an_id_that_was_used_for_another_command_is_refused_and_nothing_runs() {
    let mut daemon = Daemon::start();
    let session = daemon.open(1).await;
    let begun =
        json!({ "command": "touch begun; while [ ! -e go ]; do sleep 0.01; done", "timeout": 60.608_024_753_191_43 });
    let exec = session.exec_stream(id(&session, 1), "bash", begun.clone(), 0).await.unwrap();
    assert_eq!(ok(&session, 2, "while [ ! -e begun ]; do sleep 0.01; done; echo two").await, "two");
    let refused = async |session: &Session, position, tool: &str, input: serde_json::Value| {
        let incarnation = session.identity().incarnation.clone();
        match session.call(id(session, position), incarnation, tool.into(), input).await {
            Err(Error::Refused(r)) if r.code == Code::Conflict => r.message,
            other => panic!("expected a conflict, got {other:?}"),
        }
    };
    // While it runs, once it is over, and when only the journal knows it.
    let why = refused(&session, 1, "bash", json!({ "command": "touch other" })).await;
    assert!(why.contains(&format!("{SESSION}/1 was used before")), "{why}");
    ok(&session, 3, "touch go").await;
    drop(exec);
    assert_eq!(call(&session, 1, "bash", begun.clone()).await.exit, Exit::Code(0));
    refused(&session, 2, "bash", json!({ "command": "touch other" })).await;
    refused(&session, 2, "write", json!({ "path": "other", "content": "x" })).await;
    daemon.restart();
    let session = daemon.open(2).await;
    refused(&session, 2, "bash", json!({ "command": "touch other" })).await;
    assert_eq!(ok(&session, 4, "ls").await, "begun\ngo");
    // Neither the order of the arguments nor a number's way through several texts makes them other ones.
    let swapped = format!(r#"{{"timeout":{},"command":{}}}"#, begun["timeout"], begun["command"]);
    let swapped = serde_json::from_str(&swapped).unwrap();
    assert_eq!(call(&session, 1, "bash", swapped).await.exit, Exit::Code(0));
    let incarnation = session.identity().incarnation.clone();
    let seam = sandbox::Call {
        id: id(&session, 2),
        incarnation,
        tool: "bash".into(),
        input: json!({}),
        run: None,
        trace: None,
    };
    let refused = Sandbox::call(&session, seam).await;
    assert!(matches!(&refused, Err(sandbox::Error::Refused(why)) if why.contains("used before")), "{refused:?}");
}

#[tokio::test]
async fn no_session_takes_all_turns() {
    const OF_ONE_SESSION: usize = 64;
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    ok(&session, 1, "mkfifo gate").await;
    let waiting = "echo >> started; read line < gate";
    let calls: Vec<_> = (2..OF_ONE_SESSION as u64 + 10)
        .map(|position| {
            let session = session.clone();
            tokio::spawn(async move { ok(&session, position, waiting).await })
        })
        .collect();
    let started = daemon.state().join("sessions").join(SESSION).join("leaf/workspace/started");
    let running = || std::fs::metadata(&started).map_or(0, |m| m.len() as usize);
    until("as many as may run", || running() == OF_ONE_SESSION).await;
    let other = open(&daemon.client(), &SESSION.replace('0', "f"), 1).await.unwrap();
    assert_eq!(ok(&other, 1, "echo served").await, "served");
    assert_eq!(running(), OF_ONE_SESSION);
    // A line for each, kept by this end of the pipe for those that start later.
    let mut gate = std::fs::File::options().read(true).write(true).open(started.with_file_name("gate")).unwrap();
    gate.write_all("\n".repeat(calls.len()).as_bytes()).unwrap();
    for call in calls {
        call.await.unwrap();
    }
}
