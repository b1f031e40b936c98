//! A real `redis-server` for tests: started on a free loopback port, with its data in a folder of its own, gone when dropped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // the code of tests

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server.
#[derive(Debug)]
pub struct Server {
    program: OsString,
    dir: TempDir,
    port: u16,
    settings: Vec<String>,
    child: Option<Child>,
}

/// The server's program: `TORPOR_TEST_REDIS_SERVER`, or `redis-server` on the path; `None` where there is none, which is said
/// on stderr so that nobody takes a skipped test for a passed one.
#[must_use]
pub fn program() -> Option<OsString> {
    let program = std::env::var_os("TORPOR_TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    let found = Command::new(&program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Some(program);
    }
    eprintln!("SKIPPED: {} is not installed; this test needs it", program.to_string_lossy());
    None
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
        let program = program()?;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let settings = settings.iter().map(|s| (*s).to_owned()).collect();
        let mut server = Self { program, dir, port: free_port(), settings, child: None };
        server.launch();
        Some(server)
    }

    /// One server for all tests of a binary that run at the same time, each of which takes key names of its own; gone with
    /// the last of them.
    #[must_use]
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&server);
        Some(server)
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

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, at the same port and with the same data, and waits until it answers.
    pub fn launch(&mut self) {
        self.kill();
        let child = Command::new(&self.program)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"])
            .args(["--loglevel", "warning", "--port", &self.port.to_string()])
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(Instant::now() < deadline, "redis-server does not answer at port {}", self.port);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it answers a `PING`; that it wants a password is an answer.
    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
            let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket.write_all(b"PING\r\n")?;
            let mut answer = [0; 7];
            let n = socket.read(&mut answer)?;
            Ok(answer[..n].starts_with(b"+PONG") || answer[..n].starts_with(b"-NOAUTH"))
        };
        ask().unwrap_or(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens at now.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it has an address").port()
}
