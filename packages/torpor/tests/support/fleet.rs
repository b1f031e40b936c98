//! Servers and workers that share one Redis, each behind a line of its own that can be spoiled.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use torpor_testkit::fault_proxy::{FaultProxy, Rates};
use torpor_testkit::redis;

use super::probe::Process;
use super::{LIMIT, World};

/// What a member of the fleet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Serve,
    Worker,
}

/// One process, which comes back when it is killed.
pub struct Member {
    pub role: Role,
    pub line: FaultProxy,
    child: Option<Child>,
    /// Where it listens, for a server that runs.
    pub url: Option<String>,
}

/// All of them.
pub struct Fleet {
    pub members: Vec<Member>,
    pub redis: redis::Server,
}

impl Fleet {
    /// `None` where no Redis is installed.
    pub async fn start(world: &World, servers: usize, workers: usize, seed: u64, rates: Rates) -> Option<Self> {
        let redis = redis::Server::start()?;
        let target = format!("127.0.0.1:{}", redis.port()).parse().unwrap();
        let mut fleet = Self { members: Vec::new(), redis };
        let roles = std::iter::repeat_n(Role::Serve, servers).chain(std::iter::repeat_n(Role::Worker, workers));
        for (n, role) in roles.enumerate() {
            let line = FaultProxy::start(target, seed.wrapping_add(n as u64), rates).await;
            fleet.members.push(Member { role, line, child: None, url: None });
            fleet.launch(world, n).await;
        }
        Some(fleet)
    }

    /// Starts a member, unless it runs.
    pub async fn launch(&mut self, world: &World, n: usize) {
        let member = &mut self.members[n];
        if member.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none())) {
            return;
        }
        let mut command = world.command();
        command.env("REDIS_URL", format!("redis://{}", member.line.address())).env("TORPOR_LOG", "warn");
        command.arg(match member.role {
            Role::Serve => "serve",
            Role::Worker => "worker",
        });
        if member.role == Role::Worker {
            command.arg("--forever");
        }
        let mut child = command.stdout(Stdio::piped()).stderr(world.log_file()).spawn().unwrap();
        if member.role == Role::Serve {
            let out = child.stdout.take().unwrap();
            let line = tokio::time::timeout(LIMIT, BufReader::new(out).lines().next_line()).await.unwrap().unwrap();
            // A server whose Redis was out of reach for too long has said so and gone; it is started again later.
            member.url = line.as_deref().and_then(|l| l.strip_prefix("torpor is listening on ")).map(str::to_owned);
        }
        member.child = Some(child);
    }

    /// Those who run.
    pub fn process(&self, n: usize) -> Option<Process> {
        self.members[n].child.as_ref().and_then(Child::id).map(Process)
    }

    /// `kill -9`.
    pub async fn kill(&mut self, n: usize) {
        self.members[n].url = None;
        if let Some(mut child) = self.members[n].child.take() {
            child.kill().await.unwrap();
        }
    }

    /// SIGTERM; whoever does not go in time is killed.
    pub async fn terminate(&mut self, n: usize, patience: Duration) -> Option<i32> {
        self.members[n].url = None;
        let mut child = self.members[n].child.take()?;
        if let Some(pid) = child.id() {
            Process(pid).signal(Signal::TERM);
        }
        match tokio::time::timeout(patience, child.wait()).await {
            Ok(status) => status.unwrap().code(),
            Err(_) => {
                child.kill().await.unwrap();
                None
            }
        }
    }

    /// Lets things go wrong on all lines, or nothing any more.
    pub fn arm(&self, armed: bool) {
        self.members.iter().for_each(|m| m.line.arm(armed));
    }

    /// Faults on all lines so far.
    pub fn faults(&self) -> u64 {
        self.members.iter().map(|m| m.line.faults()).sum()
    }
}

impl World {
    /// Where the processes write what they log.
    pub fn log_file(&self) -> std::fs::File {
        std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap()
    }

    pub fn log_path(&self) -> PathBuf {
        self.data().with_file_name("log")
    }
}
