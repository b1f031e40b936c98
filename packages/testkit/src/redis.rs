//! Real Redis servers for tests: started on free loopback ports, with their data in folders of their own, gone when dropped.
//!
//! Owns: one server ([`Server`]), and what is made of several ([`Cluster`], [`Sentinels`]). Must not know: what is stored there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // the code of tests

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;

mod certificates;
mod cluster;
mod sentinels;
mod watch;
mod wire;

pub use certificates::Certificates;
pub use cluster::Cluster;
pub use sentinels::Sentinels;
pub use wire::ask;

/// How long a server may take to answer, and several to agree.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a server is started at another port, because somebody took the one that was free.
const PORTS: usize = 5;

/// A running server.
#[derive(Debug)]
pub struct Server {
    program: OsString,
    dir: TempDir,
    port: u16,
    args: Vec<OsString>,
    child: Option<Child>,
}

/// The server's program: `TORPOR_TEST_REDIS_SERVER`, or `redis-server` on the path; `None` where there is none, which is said
/// on stderr so that nobody takes a skipped test for a passed one.
#[must_use]
pub fn program() -> Option<OsString> {
    installed(std::env::var_os("TORPOR_TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into()))
}

/// Valkey's program: `TORPOR_TEST_VALKEY_SERVER`, or `valkey-server` on the path; `None`, said loudly, where there is none.
#[must_use]
pub fn valkey() -> Option<OsString> {
    installed(std::env::var_os("TORPOR_TEST_VALKEY_SERVER").unwrap_or_else(|| "valkey-server".into()))
}

fn installed(program: OsString) -> Option<OsString> {
    let found = Command::new(&program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Some(program);
    }
    eprintln!("SKIPPED: {} is not installed; this test needs it", program.to_string_lossy());
    None
}

/// What the server's program says of itself: name and version.
#[must_use]
pub fn version() -> Option<String> {
    let out = Command::new(program()?).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
    Some(format!("Redis {version}"))
}

impl Server {
    /// Starts a server with an append-only file (synced each second). `None` where none is installed.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::with(&[])
    }

    /// As [`Server::start`], with further settings as on the command line (`["--maxmemory", "50mb"]`).
    #[must_use]
    pub fn with(settings: &[&str]) -> Option<Self> {
        Some(Self::of(program()?, settings))
    }

    /// As [`Server::with`], of a given program.
    #[must_use]
    pub fn of(program: OsString, settings: &[&str]) -> Self {
        Self::at_some_port(program, |_, port| {
            let mut args: Vec<OsString> = Vec::new();
            args.extend(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"].map(OsString::from));
            args.extend(["--appendfsync", "everysec", "--repl-diskless-sync-delay", "0"].map(OsString::from));
            args.extend(["--loglevel", "warning", "--port"].map(OsString::from));
            args.push(port.to_string().into());
            args.extend(settings.iter().map(OsString::from));
            args
        })
    }

    /// One server for all tests of a binary, each of which takes key names of its own; gone with the process.
    #[must_use]
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: OnceLock<Option<Arc<Server>>> = OnceLock::new();
        let start = || {
            let server = Self::start()?;
            watch::until_exit(&[&server]);
            Some(Arc::new(server))
        };
        SHARED.get_or_init(start).clone()
    }

    /// Starts a program with the arguments that `args` makes for a folder and a port.
    fn at_some_port(program: OsString, args: impl Fn(&Path, u16) -> Vec<OsString>) -> Self {
        for _ in 0..PORTS {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let port = free_port();
            let args = args(dir.path(), port);
            let mut server = Self { program: program.clone(), dir, port, args, child: None };
            if server.try_launch() {
                return server;
            }
        }
        panic!("{} could not be started at any port", program.to_string_lossy());
    }

    /// The port it listens at on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its data folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends a command and answers what came back, a line for each value; an error is `Err`.
    ///
    /// # Errors
    /// The server's error, or why it has no answer.
    pub fn ask(&self, command: &[&str]) -> Result<String, String> {
        ask(self.port, command)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, at the same port and with the same data, and waits until it answers.
    pub fn launch(&mut self) {
        assert!(self.try_launch(), "the server at port {} ends by itself", self.port);
    }

    /// Whether it came to run; an end by itself is that somebody else has its port.
    fn try_launch(&mut self) -> bool {
        self.kill();
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .arg("--dir")
            .arg(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the server starts");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if child.try_wait().expect("a child can be waited for").is_some() {
                return false;
            }
            if self.answers() {
                break;
            }
            assert!(Instant::now() < deadline, "no server answers at port {}", self.port);
            std::thread::sleep(Duration::from_millis(20));
        }
        // Whoever answered may be somebody else: then this one is about to find its port taken.
        std::thread::sleep(Duration::from_millis(5));
        let ended = child.try_wait().expect("a child can be waited for").is_some();
        self.child = Some(child);
        !ended
    }

    /// Whether it answers a `PING`; that it wants a password is an answer.
    fn answers(&self) -> bool {
        match self.ask(&["PING"]) {
            Ok(answer) => answer == "PONG",
            Err(e) => e.starts_with("NOAUTH"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "this should have happened long ago: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that nobody listens at now. It lies below those that the system gives away by itself, and each process begins
/// somewhere else, so that it is still free when its server starts.
#[must_use]
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const PLACES: u16 = 20_000;
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let begin = (std::process::id() % u32::from(PLACES)) * 37;
    for _ in 0..PLACES {
        let place = begin + u32::from(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from(place % u32::from(PLACES)).expect("it is less than 20,000");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
