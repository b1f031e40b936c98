//! A place to break out of.
//!
//! Every attempt is made at each level that this kernel can do, as root and as an ordinary user; what it cannot do is said.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use torpor_exec_channel::Session;
use torpor_exec_channel::message::Exit;
use torpor_hands::{Level, Settings};

use crate::support::{Daemon, bash, call, text};

/// A daemon at a level, with a session, and things outside that are worth reaching.
pub(crate) struct Cell {
    pub(crate) daemon: Daemon,
    pub(crate) level: Level,
    pub(crate) session: Session,
    pub(crate) secret: PathBuf,
    position: std::sync::atomic::AtomicU64,
    pub(crate) outside: TcpListener,
}

impl Cell {
    /// One a level that works here; at `full` one of an ordinary user, too.
    pub(crate) async fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        let root = rustix::process::geteuid().is_root();
        for (level, ordinary) in [(Level::Full, false), (Level::Full, true), (Level::Reduced, true)] {
            if ordinary && level == Level::Full && !root {
                continue; // the first one is
            }
            let at = |s: &mut Settings| (s.allow, s.prefer) = (level, level);
            let started = if ordinary { Daemon::ordinary(at) } else { Daemon::with(at) };
            let Some(daemon) = started else { continue };
            let session = daemon.open(1).await;
            let secret = daemon.dir.path().join("secret");
            fs::write(&secret, "the-secret").unwrap();
            fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
            daemon.give(&secret);
            let outside = TcpListener::bind("127.0.0.1:0").unwrap();
            cells.push(Self { daemon, level, session, secret, position: 1.into(), outside });
        }
        assert!(!cells.is_empty(), "no level of confinement works here");
        cells
    }

    pub(crate) fn next(&self) -> u64 {
        self.position.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) async fn bash(&self, command: &str) -> String {
        bash(&self.session, self.next(), command).await
    }

    /// The command must fail, and print nothing of what it was after.
    pub(crate) async fn refused(&self, command: &str) {
        let ended = call(&self.session, self.next(), "bash", json!({ "command": command })).await;
        let told = text(&ended);
        assert_ne!(ended.exit, Exit::Code(0), "{}: `{command}` succeeded: {told}", self.level);
        for secret in ["the-secret", "do-not-leak", "root:$"] {
            assert!(!told.contains(secret), "{}: `{command}`: {told}", self.level);
        }
    }
}

/// Whether the attempts of a test cannot be made because a program that makes them is not on this machine. Said loudly:
/// what was not tried is not shown.
pub(crate) fn lacks(programs: &[&str]) -> bool {
    let missing =
        programs.iter().find(|name| !["/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(name).exists()));
    if let Some(name) = missing {
        eprintln!("SKIPPED: there is no {name} in /usr/bin");
    }
    missing.is_some()
}

/// Makes a call of the C library, and says what it returned and the error number.
pub(crate) fn c_call(call: &str) -> String {
    format!("python3 -c 'import ctypes, os; c = ctypes.CDLL(None, use_errno=True); print({call}, ctypes.get_errno())'")
}
