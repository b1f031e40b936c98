//! A primary with a replica, and three sentinels that watch over them.

use std::ffi::OsString;
use std::sync::{Arc, OnceLock};

use super::{Server, program, until, watch};

/// What the sentinels call the primary.
const NAME: &str = "torpor";

/// A primary, its replica and their sentinels. Dropping it ends them.
#[derive(Debug)]
pub struct Sentinels {
    stores: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Sentinels {
    /// Starts everything, and waits until a failover would succeed. `settings` are those of primary and replica. `None`
    /// where no server is installed.
    #[must_use]
    pub fn with(settings: &[&str]) -> Option<Self> {
        let program = program()?;
        let primary = Server::of(program.clone(), settings);
        let port = primary.port().to_string();
        let mut of_replica = settings.to_vec();
        of_replica.extend(["--replicaof", "127.0.0.1", &port]);
        let replica = Server::of(program.clone(), &of_replica);
        let link = || replica.ask(&["INFO", "replication"]).unwrap_or_default();
        until("the replica follows", || link().contains("master_link_status:up"));
        let sentinel = |_| {
            Server::at_some_port(program.clone(), |dir, own| {
                let file = dir.join("sentinel.conf"); // it writes down there what it learns
                let text = format!(
                    "bind 127.0.0.1\nport {own}\nsentinel monitor {NAME} 127.0.0.1 {port} 2\n\
                     sentinel down-after-milliseconds {NAME} 700\nsentinel failover-timeout {NAME} 4000\n\
                     loglevel warning\n"
                );
                std::fs::write(&file, text).expect("a sentinel's settings");
                vec![file.into_os_string(), OsString::from("--sentinel")]
            })
        };
        let all = Self { stores: vec![primary, replica], sentinels: (0..3).map(sentinel).collect() };
        until("the sentinels know each other and the replica", || all.sentinels.iter().all(sees_everybody));
        Some(all)
    }

    /// One for all tests of a binary, as [`Server::shared`].
    #[must_use]
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: OnceLock<Option<Arc<Sentinels>>> = OnceLock::new();
        let start = || {
            let all = Self::with(&[])?;
            watch::until_exit(&all.stores.iter().chain(&all.sentinels).collect::<Vec<_>>());
            Some(Arc::new(all))
        };
        SHARED.get_or_init(start).clone()
    }

    /// `redis-sentinel://…` with all sentinels.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|s| format!("127.0.0.1:{}", s.port())).collect();
        format!("redis-sentinel://{}/?master={NAME}", hosts.join(","))
    }

    /// The first primary, and its replica.
    #[must_use]
    pub fn stores(&self) -> &[Server] {
        &self.stores
    }

    /// One of them, to be ended or started.
    pub fn store(&mut self, n: usize) -> &mut Server {
        &mut self.stores[n]
    }

    /// Lets the sentinels make the replica the primary, and the primary its replica, while both live.
    pub fn fail_over(&self) {
        // The one before may be too short ago.
        until("the sentinels agree to a failover", || self.sentinels[0].ask(&["SENTINEL", "FAILOVER", NAME]).is_ok());
    }

    /// Where the primary is, as the first sentinel says.
    #[must_use]
    pub fn primary_port(&self) -> u16 {
        let answer = self.sentinels[0].ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
        answer.ok().and_then(|a| a.lines().last()?.parse().ok()).expect("a sentinel knows a primary")
    }
}

fn sees_everybody(sentinel: &Server) -> bool {
    let about = sentinel.ask(&["SENTINEL", "MASTER", NAME]).unwrap_or_default();
    let lines: Vec<&str> = about.lines().collect();
    let of = |name| lines.iter().position(|line| *line == name).and_then(|at| lines.get(at + 1)).copied();
    (of("num-slaves"), of("num-other-sentinels")) == (Some("1"), Some("2"))
}
