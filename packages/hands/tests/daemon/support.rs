//! A daemon of the test's own, and brains that attach to it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use torpor_core::{CallId, Epoch, Position};
use torpor_exec_channel::message::{Ended, Exit, Open};
use torpor_exec_channel::{Client, Dial, Error, Options, Session, Source, Stream};
use torpor_hands::{Level, Settings, socket};

pub(crate) const SESSION: &str = "0123456789abcdef0123456789abcdef";

/// Runs the daemon where a test that runs as root needs one that does not.
const NOBODY: u32 = 65534;

/// A daemon in a folder that goes with it.
pub(crate) struct Daemon {
    pub(crate) dir: tempfile::TempDir,
    child: Child,
    settings: Settings,
    user: Option<u32>,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::with(|s| s.allow = Level::Full).expect("level `full` does not work here")
    }

    /// `None`, with the reason printed, where the kernel cannot do what is asked for.
    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Option<Self> {
        Self::as_user(change, user)
    }

    /// The same as an ordinary user, also where the test runs as root.
    pub(crate) fn ordinary(change: impl FnOnce(&mut Settings)) -> Option<Self> {
        Self::as_user(change, |_| rustix::process::geteuid().is_root().then_some(NOBODY))
    }

    fn as_user(change: impl FnOnce(&mut Settings), user: impl Fn(&Settings) -> Option<u32>) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(dir.path().join("state"));
        change(&mut settings);
        let user = user(&settings);
        give(dir.path(), user);
        let (child, line) = match spawn(&settings, user) {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && user.is_some() => {
                eprintln!("SKIPPED: user {NOBODY} cannot reach {}: {e}", env!("CARGO_BIN_EXE_torpor-hands"));
                return None;
            }
            spawned => spawned.unwrap(),
        };
        if line != "ready" {
            eprintln!("SKIPPED: {line}");
            assert!(line.contains("cannot be confined"), "{line}");
            return None;
        }
        Some(Self { dir, child, settings, user })
    }

    pub(crate) fn state(&self) -> &Path {
        &self.settings.state
    }

    /// Makes a file the daemon's user's own.
    pub(crate) fn give(&self, path: &Path) {
        give(path, self.user);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9` and a fresh start on the same folder.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let (child, line) = spawn(&self.settings, self.user).unwrap();
        assert_eq!(line, "ready");
        self.child = child;
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// A brain's connection.
    pub(crate) fn client(&self) -> Source {
        Client::new(Socket(self.settings.state.clone()), options())
    }

    pub(crate) async fn open(&self, epoch: u64) -> Session {
        open(&self.client(), SESSION, epoch).await.unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whom the daemon runs as, if not the test's own user: `reduced` is refused to root.
fn user(settings: &Settings) -> Option<u32> {
    let other = settings.prefer == Level::Reduced && rustix::process::geteuid().is_root();
    other.then_some(NOBODY)
}

fn give(path: &Path, user: Option<u32>) {
    if let Some(user) = user {
        std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
    }
}

fn spawn(settings: &Settings, user: Option<u32>) -> std::io::Result<(Child, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torpor-hands"));
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let mut child = command
        .arg("daemon")
        .args(settings.to_args())
        .env("SECRET_OF_THE_DAEMON", "do-not-leak")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Ok((child, line.trim().to_owned()))
}

/// How these brains present themselves.
pub(crate) fn options() -> Options {
    let patience = Duration::from_secs(5);
    Options { program: "test".into(), name: "test".into(), patience, settings: None }
}

struct Socket(PathBuf);

#[async_trait]
impl Dial for Socket {
    async fn dial(&self) -> Result<Box<dyn Stream>, Error> {
        match socket::connect(&self.0).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(e) => Err(Error::Unreachable(e.to_string())),
        }
    }
}

pub(crate) async fn open(client: &Source, session: &str, epoch: u64) -> Result<Session, Error> {
    client.open(Open { session: session.into(), epoch: Epoch(epoch), born: Epoch(0), workspace: None }).await
}

pub(crate) fn id(session: &Session, position: u64) -> CallId {
    CallId { session: session.digest().to_owned(), position: Position(position) }
}

/// Runs a tool and gives its end.
pub(crate) async fn call(session: &Session, position: u64, tool: &str, input: Value) -> Ended {
    let incarnation = session.identity().incarnation.clone();
    session.call(id(session, position), incarnation, tool.into(), input).await.unwrap()
}

pub(crate) fn text(ended: &Ended) -> String {
    ended.result.as_ref().map(torpor_core::message::ToolResult::as_text).unwrap_or_default()
}

/// Runs a command and gives its text.
pub(crate) async fn bash(session: &Session, position: u64, command: &str) -> String {
    text(&call(session, position, "bash", json!({ "command": command })).await)
}

/// The same, for a command that must succeed.
pub(crate) async fn ok(session: &Session, position: u64, command: &str) -> String {
    let ended = call(session, position, "bash", json!({ "command": command })).await;
    assert_eq!(ended.exit, Exit::Code(0), "{}", text(&ended));
    text(&ended)
}

/// Waits for something that another process brings about.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen within 10 s");
}
