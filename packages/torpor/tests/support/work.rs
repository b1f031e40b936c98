//! `torpor worker` as a real process.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Child;

use super::probe::Process;
use super::{LIMIT, World, until};

pub struct Worker {
    child: Child,
    log: std::path::PathBuf,
}

impl World {
    /// A worker with these arguments, and a log of its own.
    pub fn worker(&self, args: &[&str]) -> Worker {
        let log = (1..).map(|n| self.dir.path().join(format!("worker-{n}.log"))).find(|path| !path.exists()).unwrap();
        let stderr = std::fs::File::create(&log).unwrap();
        let child = self.command().arg("worker").args(args).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        Worker { child, log }
    }
}

impl Worker {
    pub fn process(&self) -> Process {
        Process(self.child.id().unwrap())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log says this; the line.
    pub async fn says(&self, what: &str) -> String {
        until(what, async || self.log().lines().find(|line| line.contains(what)).map(str::to_owned)).await
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end of the process; its exit code and how long it took.
    pub async fn exit(&mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await.unwrap().unwrap();
        (status.code(), begun.elapsed())
    }

    /// SIGTERM; the exit code and how long it took.
    pub async fn terminate(&mut self) -> (Option<i32>, Duration) {
        self.process().signal(rustix::process::Signal::TERM);
        self.exit().await
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
