//! The local sandbox from start to end, with this program as daemon, domain and brain.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::UnixListener;
use torpor_core::message::ToolResult;
use torpor_core::sandbox::{Call, Ended, Error, Identity, Open, Sandbox, SandboxTransport};
use torpor_core::{CallId, Epoch, Position, SessionKey};
use torpor_exec_channel::frame::Kind;
use torpor_exec_channel::message::{Code, Hello, PROTOCOL, Refused, from_frame, to_frame};
use torpor_exec_channel::wire::{Reader, Writer};
use torpor_hands::Level;
use torpor_sandbox_local::{Config, Local};

/// A command that takes until it is told to go on.
const SLOW: &str = "touch begun; while [ ! -e go ]; do sleep 0.01; done; echo x >> runs; cat runs";
/// First argument that makes this program a brain which waits to be killed.
const BRAIN: &str = "a-brain";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.first() {
        Some(first) if torpor_hands::is_ours(first) => return torpor_hands::main_entry(args.into_iter()),
        Some(first) if first == BRAIN => brain(Path::new(&args[1])),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        one_daemon_serves_all().await;
        the_seam_keeps_its_promises().await;
        killing_the_brain_harms_nothing().await;
        what_is_not_allowed_is_refused().await;
        other_workspaces_share_the_hands().await;
        other_settings_get_other_hands().await;
        another_version_gets_other_hands().await;
        a_run_waits_for_hands_of_another_version().await;
    });
    println!("test result: ok. 8 passed");
    ExitCode::SUCCESS
}

fn config(dir: &Path) -> Config {
    let program = std::env::current_exe().unwrap();
    // Deep enough that the socket's path does not fit an address.
    let state = dir.join("a-folder-with-a-long-name".repeat(5)).join("state");
    Config { orphan: Duration::from_millis(500), allow: Level::Reduced, ..Config::new(state, program) }
}

/// The workspace of the session, as this machine sees it.
fn own(dir: &Path) -> PathBuf {
    config(dir).state_dir.join("sessions").join(key().digest()).join("leaf/workspace")
}

fn key() -> SessionKey {
    SessionKey::new("tenant", "session").unwrap()
}

async fn open(local: &Local, epoch: u64) -> std::sync::Arc<dyn Sandbox> {
    local.open(Open { session: key(), epoch: Epoch(epoch), born: Epoch(0), workspace: None }).await.unwrap()
}

async fn bash(sandbox: &dyn Sandbox, position: u64, asked: &Identity, command: &str) -> Ended {
    let id = CallId { session: key().digest(), position: Position(position) };
    let (incarnation, input) = (asked.incarnation.clone(), json!({ "command": command }));
    sandbox.call(Call { id, incarnation, tool: "bash".into(), input, run: None, trace: None }).await.unwrap()
}

fn finished(text: &str) -> Ended {
    Ended::Finished(ToolResult::text(text))
}

async fn one_daemon_serves_all() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Local::new(config(dir.path())).unwrap(), Local::new(config(dir.path())).unwrap());
    let (a, b) = tokio::join!(open(&first, 1), open(&second, 1));
    assert_eq!(a.identity(), b.identity());
    assert_eq!(a.identity().name, "local");
    let line = first.probe().await.unwrap();
    assert!(line.contains(&a.identity().incarnation) && line.contains(first.level().as_str()), "{line}");
}

async fn the_seam_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let local = Local::new(config(dir.path())).unwrap();
    let sandbox = open(&local, 3).await;
    let us = sandbox.identity().clone();
    let workdir = local.workdir(&key(), None).unwrap();
    assert_eq!(bash(&*sandbox, 1, &us, "pwd; echo x >> runs").await, finished(&workdir));
    assert_eq!(bash(&*sandbox, 1, &us, "pwd; echo x >> runs").await, finished(&workdir));
    assert_eq!(bash(&*sandbox, 2, &us, "cat runs").await, finished("x"));
    let others = Identity { incarnation: "another".into(), ..us.clone() };
    assert!(matches!(bash(&*sandbox, 3, &others, "echo x >> runs").await, Ended::Lost(_)));
    let newer = open(&local, 4).await;
    let id = CallId { session: key().digest(), position: Position(5) };
    let call = Call {
        id: id.clone(),
        incarnation: us.incarnation.clone(),
        tool: "ls".into(),
        input: json!({}),
        run: None,
        trace: None,
    };
    match sandbox.call(call).await {
        Err(Error::Fenced { mine: Epoch(3), current: Epoch(4) }) => {}
        other => panic!("expected Fenced, got {other:?}"),
    }
    newer.cancel(&id).await.unwrap();
}

/// Opens a session, starts a command that takes its time, and waits to be killed, with a lock that a careless child
/// would inherit.
fn brain(dir: &Path) {
    let lock = File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    // A copy without close-on-exec, as a library that knows no better would make.
    let _careless = rustix::io::dup(&lock).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let local = Local::new(config(dir)).unwrap();
        let sandbox = open(&local, 1).await;
        let us = sandbox.identity().clone();
        let slow = bash(&*sandbox, 1, &us, SLOW);
        let begun = async {
            let mut position = 10;
            loop {
                position += 1;
                if bash(&*sandbox, position, &us, "ls").await == finished("begun") {
                    break;
                }
            }
            println!("{}", us.incarnation);
            std::future::pending::<()>().await;
        };
        tokio::join!(slow, begun)
    });
}

async fn killing_the_brain_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let program: PathBuf = std::env::current_exe().unwrap();
    let mut brain = Command::new(program).arg(BRAIN).arg(dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(brain.stdout.take().unwrap()), &mut line).unwrap();
    brain.kill().unwrap();
    brain.wait().unwrap();
    let lock = File::open(dir.path().join("lock")).unwrap();
    lock.try_lock().expect("the brain's lock ends with it");
    let local = Local::new(config(dir.path())).unwrap();
    let next = open(&local, 2).await;
    let us = next.identity().clone();
    assert_eq!(us.incarnation, line.trim());
    assert_eq!(bash(&*next, 100, &us, "touch go").await, finished("(no output)"));
    assert_eq!(bash(&*next, 1, &us, SLOW).await, finished("x"));
}

async fn what_is_not_allowed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let local = Local::new(config(dir.path())).unwrap();
    for workspace in ["/etc", "relative", "/"] {
        assert!(matches!(local.workdir(&key(), Some(workspace)), Err(Error::Refused(_))), "{workspace}");
    }
    let nowhere = Config { program: "/no/such/program".into(), ..config(&dir.path().join("other")) };
    assert!(matches!(Local::new(nowhere), Err(Error::None(_))));
}

async fn other_workspaces_share_the_hands() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let root = dir.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(&root).unwrap();
        let local = Local::new(Config { workspace_roots: vec![root.clone()], ..config(dir.path()) }).unwrap();
        let path = root.to_str().unwrap().to_owned();
        (local, root, move |session: &str| Open {
            session: SessionKey::new("tenant", session).unwrap(),
            epoch: Epoch(1),
            born: Epoch(0),
            workspace: Some(path.clone()),
        })
    };
    let ((first, root, in_first), (second, other_root, in_second)) = (at("first"), at("second"));
    let (a, id) = (first.open(in_first("a")).await.unwrap(), |session: &str| CallId {
        session: SessionKey::new("tenant", session).unwrap().digest(),
        position: Position(1),
    });
    let us = a.identity().incarnation.clone();
    let run = |session: &str, command: &str| Call {
        id: id(session),
        incarnation: us.clone(),
        tool: "bash".into(),
        input: json!({ "command": command }),
        run: None,
        trace: None,
    };
    let meanwhile = async {
        let b = second.open(in_second("b")).await.unwrap();
        assert_eq!(b.identity(), a.identity());
        assert_eq!(b.call(run("b", "touch made; ls")).await.unwrap(), finished("made"));
        std::fs::write(root.join("go"), "").unwrap();
    };
    let slow = a.call(run("a", "while [ ! -e go ]; do sleep 0.01; done; ls"));
    assert_eq!(tokio::join!(slow, meanwhile).0.unwrap(), finished("go"));
    assert!(other_root.join("made").exists());
    // What one brain may open, another may not: the roots come with the request.
    assert!(matches!(second.open(in_first("c")).await, Err(Error::Refused(_))));
    std::os::unix::fs::symlink(&root, other_root.join("link")).unwrap();
    let around = Open { workspace: Some(other_root.join("link").to_str().unwrap().to_owned()), ..in_second("d") };
    assert!(matches!(second.open(around).await, Err(Error::Refused(_))));
}

async fn other_settings_get_other_hands() {
    let dir = tempfile::tempdir().unwrap();
    let first = Local::new(config(dir.path())).unwrap();
    let before = open(&first, 1).await;
    let us = before.identity().clone();
    let other = || Local::new(Config { path: Some("/usr/bin:/bin".into()), ..config(dir.path()) }).unwrap();
    // While they run a command, or a brain is attached, hands stay, and say so long before patience ends; once they are
    // idle they make room.
    let other = other();
    let request = || Open { session: key(), epoch: Epoch(2), born: Epoch(0), workspace: None };
    let asked = async {
        let begun = Instant::now();
        let busy = other.open(request()).await;
        assert!(matches!(&busy, Err(Error::Busy(why)) if why.contains("other settings")), "{:?}", busy.err());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        std::fs::write(own(dir.path()).join("go"), "").unwrap();
    };
    let slow = bash(&*before, 1, &us, "while [ ! -e go ]; do sleep 0.01; done; echo undisturbed");
    assert_eq!(tokio::join!(slow, asked).0, finished("undisturbed"));
    drop((before, first));
    let next = loop {
        match other.open(request()).await {
            Ok(next) => break next,
            Err(Error::Busy(_)) => {}
            Err(e) => panic!("{e}"),
        }
    };
    assert_ne!(next.identity().incarnation, us.incarnation);
}

/// Says hello as a brain of another build would; what it is refused with.
async fn hello_of_another_version(dir: &Path) -> Refused {
    let mut stream = torpor_hands::socket::connect(&config(dir).state_dir).await.unwrap();
    let hello = Hello { protocol: PROTOCOL + 1, program: "torpor 99".into(), settings: None, hands: None };
    let (read, write) = stream.split();
    let (mut reader, mut writer) = (Reader::new(read), Writer::new(write));
    writer.push(&to_frame(Kind::Hello, 0, &hello)).await.unwrap();
    writer.flush().await.unwrap();
    from_frame(&reader.next().await.unwrap().unwrap()).unwrap()
}

/// After an upgrade the hands of the build before are still there: they stay while they are of use, and then go.
async fn another_version_gets_other_hands() {
    let dir = tempfile::tempdir().unwrap();
    // Not to be gone by themselves before they are asked.
    let local = Local::new(Config { orphan: Duration::from_secs(60), ..config(dir.path()) }).unwrap();
    let before = open(&local, 1).await;
    let us = before.identity().clone();
    let refused = hello_of_another_version(dir.path()).await;
    assert!(refused.code == Code::Busy && refused.message.contains("are in use"), "{refused:?}");
    assert_eq!(bash(&*before, 1, &us, "echo undisturbed").await, finished("undisturbed"));
    drop((before, local));
    while !hello_of_another_version(dir.path()).await.message.contains("make room") {}
    let next = Local::new(config(dir.path())).unwrap();
    assert_ne!(open(&next, 2).await.identity().incarnation, us.incarnation);
}

/// Hands that know no better refuse; that is no reason to fail a run.
async fn a_run_waits_for_hands_of_another_version() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let program = std::env::current_exe().unwrap();
    let local = Local::new(Config { allow: Level::Reduced, ..Config::new(state.clone(), program) }).unwrap();
    let listener = UnixListener::bind(state.join(torpor_hands::socket::NAME)).unwrap();
    let old = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (read, write) = stream.split();
        let (mut reader, mut writer) = (Reader::new(read), Writer::new(write));
        reader.next().await.unwrap().unwrap();
        let refused = Refused { code: Code::Version, message: "another channel".into(), current: None };
        writer.push(&to_frame(Kind::Refused, 0, &refused)).await.unwrap();
        writer.flush().await.unwrap();
    };
    let request = Open { session: key(), epoch: Epoch(1), born: Epoch(0), workspace: None };
    let (opened, ()) = tokio::join!(local.open(request), old);
    assert!(matches!(&opened, Err(Error::Busy(why)) if why.contains("another version")), "{:?}", opened.err());
}
