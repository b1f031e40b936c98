//! A pseudo-terminal with the binary on it, as a person would sit at it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::process::Child;

use super::World;

/// Longest that a person waits for something to appear.
const LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);

pub struct Terminal {
    ours: File,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Terminal {
    /// Starts the binary with all three streams on a new terminal, `stdout` elsewhere if it is given.
    pub fn new(world: &World, args: &[&str], stdout: Option<File>) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let open = || -> OwnedFd {
            rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let out = stdout.map_or_else(|| Stdio::from(open()), Stdio::from);
        let mut command = world.command();
        command.args(args).env("TERM", "xterm").env("USER", "ann").stdin(open()).stdout(out).stderr(open());
        let child = command.spawn().unwrap();
        let ours = File::from(ours);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, into) = (ours.try_clone().unwrap(), Arc::clone(&seen));
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // The end of a terminal is an error (EIO) once nobody has it open any more.
            while let Ok(n @ 1..) = reader.read(&mut piece) {
                into.lock().unwrap().extend_from_slice(&piece[..n]);
            }
        });
        Self { ours, child, seen, reader }
    }

    /// Everything that appeared so far, colours and all.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Waits until `text` has appeared for the `times`th time.
    pub async fn until(&self, text: &str, times: usize) {
        let begun = Instant::now();
        while self.seen().matches(text).count() < times {
            assert!(begun.elapsed() < LIMIT, "{text:?} did not appear {times}×:\n{}", self.seen());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).unwrap();
    }

    /// Presses Ctrl-C, as far as the program can tell.
    pub fn interrupt(&self) {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).unwrap())).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    /// Waits for the end, and until everything has appeared; the exit code.
    pub async fn exit(&mut self) -> Option<i32> {
        let code = tokio::time::timeout(LIMIT, self.child.wait()).await.unwrap().unwrap().code();
        super::until("the terminal to fall silent", async || self.reader.is_finished().then_some(())).await;
        code
    }
}
