//! A primary with a replica, and three sentinels that watch over them.

use std::ffi::OsString;
use std::sync::{Arc, OnceLock};

use super::{Certificates, Server, program, until, watch};

/// What the sentinels call the primary.
const NAME: &str = "torpor";

/// A primary, its replica and their sentinels. Dropping it ends them.
#[derive(Debug)]
pub struct Sentinels {
    stores: Vec<Server>,
    sentinels: Vec<Server>,
    url: String,
}

impl Sentinels {
    /// One for all tests of a binary, as [`Server::shared`].
    #[must_use]
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: OnceLock<Option<Arc<Sentinels>>> = OnceLock::new();
        let start = || {
            let all = Self::start()?;
            watch::until_exit(&all.stores.iter().chain(&all.sentinels).collect::<Vec<_>>());
            Some(Arc::new(all))
        };
        SHARED.get_or_init(start).clone()
    }

    /// Starts everything, and waits until a failover would succeed. `None` where no server is installed.
    #[must_use]
    pub fn start() -> Option<Self> {
        let program = program()?;
        let primary = Server::of(program.clone(), &[]);
        let port = primary.port().to_string();
        let replica = Server::of(program.clone(), &["--replicaof", "127.0.0.1", &port]);
        let link = || replica.ask(&["INFO", "replication"]).unwrap_or_default();
        until("the replica follows", || link().contains("master_link_status:up"));
        let sentinels: Vec<Server> = (0..3).map(|_| sentinel(program.clone(), &port, "")).collect();
        until("the sentinels know each other and the replica", || sentinels.iter().all(sees_everybody));
        let hosts: Vec<String> = sentinels.iter().map(|s| format!("127.0.0.1:{}", s.port())).collect();
        let url = format!("redis-sentinel://{}/?master={NAME}", hosts.join(","));
        Some(Self { stores: vec![primary, replica], sentinels, url })
    }

    /// A primary without a replica and one sentinel, which speak TLS and want passwords: `of_store` the one, `of_sentinel` the
    /// other. They can be found; there is nobody who could take over.
    #[must_use]
    pub fn with_tls(certificates: &Certificates, of_store: &str, of_sentinel: &str) -> Option<Self> {
        let (port, primary) = certificates.server(&["--tls-auth-clients", "no", "--requirepass", of_store])?;
        let (at, settings) = certificates.settings();
        let mut more: String =
            settings.chunks(2).map(|pair| format!("{} {}\n", pair[0].trim_start_matches('-'), pair[1])).collect();
        more += &format!(
            "tls-auth-clients no\ntls-replication yes\nrequirepass {of_sentinel}\nsentinel auth-pass {NAME} {of_store}\n"
        );
        let sentinel = sentinel(program()?, &port.to_string(), &more);
        let url =
            format!("rediss-sentinel://:{of_store}@127.0.0.1:{at}/?master={NAME}&sentinel-password={of_sentinel}");
        Some(Self { stores: vec![primary], sentinels: vec![sentinel], url })
    }

    /// `redis-sentinel://…` with all sentinels.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
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

/// A sentinel of the primary at this port, with more lines of settings.
fn sentinel(program: OsString, primary: &str, more: &str) -> Server {
    Server::at_some_port(program, |dir, own| {
        let file = dir.join("sentinel.conf"); // it writes down there what it learns
        let text = format!(
            "bind 127.0.0.1\nport {own}\nsentinel monitor {NAME} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {NAME} 700\nsentinel failover-timeout {NAME} 4000\n\
             loglevel warning\n{more}"
        );
        std::fs::write(&file, text).expect("a sentinel's settings");
        vec![file.into_os_string(), OsString::from("--sentinel")]
    })
}

fn sees_everybody(sentinel: &Server) -> bool {
    let about = sentinel.ask(&["SENTINEL", "MASTER", NAME]).unwrap_or_default();
    let lines: Vec<&str> = about.lines().collect();
    let of = |name| lines.iter().position(|line| *line == name).and_then(|at| lines.get(at + 1)).copied();
    (of("num-slaves"), of("num-other-sentinels")) == (Some("1"), Some("2"))
}
