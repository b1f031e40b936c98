//! A cluster of three primaries, and of one replica of each if wanted.

use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use super::{Certificates, Server, free_port, program, until, watch};

/// How long a node may be silent before the others take it for dead, in milliseconds.
const NODE_TIMEOUT: &str = "1500";

/// Which slots a primary has in the beginning.
const SLOTS: [RangeInclusive<u16>; 3] = [0..=5_460, 5_461..=10_922, 10_923..=16_383];

/// Servers that share the keys. Dropping it ends them.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
    /// Where they speak TLS, if they do.
    tls: Vec<u16>,
}

impl Cluster {
    /// Three primaries. `None` where no server is installed.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::with(0, &[])
    }

    /// As [`Server::shared`].
    #[must_use]
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: OnceLock<Option<Arc<Cluster>>> = OnceLock::new();
        let start = || {
            let cluster = Self::start()?;
            watch::until_exit(&cluster.nodes.iter().collect::<Vec<_>>());
            Some(Arc::new(cluster))
        };
        SHARED.get_or_init(start).clone()
    }

    /// Three primaries with so many replicas each, and further settings for all of them.
    #[must_use]
    pub fn with(replicas: usize, settings: &[&str]) -> Option<Self> {
        Self::of(replicas, |_| settings.iter().map(|s| (*s).to_owned()).collect())
    }

    /// Three primaries that speak TLS to clients and to each other; at other ports they can be asked without.
    #[must_use]
    pub fn with_tls(certificates: &Certificates) -> Option<Self> {
        let mut tls = Vec::new();
        let mut cluster = Self::of(0, |_| {
            let (port, mut settings) = certificates.settings();
            tls.push(port);
            settings.extend(["--tls-cluster", "yes", "--tls-auth-clients", "no"].map(str::to_owned));
            settings
        })?;
        cluster.tls = tls;
        Some(cluster)
    }

    /// With the settings of each node.
    fn of(replicas: usize, mut settings: impl FnMut(usize) -> Vec<String>) -> Option<Self> {
        let program = program()?;
        let node = |n| {
            let bus = free_port().to_string();
            let own = settings(n);
            let mut all = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT];
            all.extend(["--cluster-port", &bus]);
            all.extend(own.iter().map(String::as_str));
            (Server::of(program.clone(), &all), bus)
        };
        let (nodes, buses): (Vec<Server>, Vec<String>) = (0..SLOTS.len() * (1 + replicas)).map(node).unzip();
        for (n, (node, slots)) in nodes.iter().zip(SLOTS).enumerate() {
            let range = [slots.start().to_string(), slots.end().to_string()];
            tell(node, &["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]);
            tell(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
        }
        for node in &nodes[1..] {
            tell(node, &["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port().to_string(), &buses[0]]);
        }
        let cluster = Self { nodes, tls: Vec::new() };
        let known = format!("cluster_known_nodes:{}", cluster.nodes.len());
        until("all nodes know each other", || cluster.nodes.iter().all(|node| info(node).contains(&known)));
        for (n, replica) in cluster.nodes.iter().enumerate().skip(SLOTS.len()) {
            let primary = cluster.nodes[n % SLOTS.len()].ask(&["CLUSTER", "MYID"]).expect("a node has a name");
            // It may not know yet which of the others are primaries.
            until("a replica follows", || replica.ask(&["CLUSTER", "REPLICATE", &primary]).is_ok());
        }
        let linked = |node: &Server| node.ask(&["INFO", "replication"]).is_ok_and(|i| i.contains("link_status:up"));
        until("all slots are served", || cluster.nodes.iter().all(|node| info(node).contains("cluster_state:ok")));
        until("all replicas follow", || cluster.nodes[SLOTS.len()..].iter().all(linked));
        Some(cluster)
    }

    /// All nodes, as an address: `redis://127.0.0.1:a,127.0.0.1:b,…`.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis://{}", hosts.join(","))
    }

    /// Where they speak TLS, as an address: `rediss://…`.
    #[must_use]
    pub fn tls_url(&self) -> String {
        let hosts: Vec<String> = self.tls.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("rediss://{}", hosts.join(","))
    }

    /// The nodes: primaries in the order of their slots, then their replicas.
    #[must_use]
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// One of them, to be ended or started.
    pub fn node(&mut self, n: usize) -> &mut Server {
        &mut self.nodes[n]
    }

    /// Begins to move a slot from one node to another. Whatever keys it has stay where they are until
    /// [`Cluster::finish_move`].
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let [source, target] = [from, to].map(|n| self.nodes[n].ask(&["CLUSTER", "MYID"]).expect("a node has a name"));
        let slot = slot.to_string();
        tell(&self.nodes[to], &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
        tell(&self.nodes[from], &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
    }

    /// Moves up to so many keys of a slot; answers whether there were any.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize, most: usize) -> bool {
        let keys = ["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &most.to_string()];
        let keys = self.nodes[from].ask(&keys).expect("a node names its keys");
        let port = self.nodes[to].port().to_string();
        let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        command.extend(keys.lines());
        if keys.is_empty() {
            return false;
        }
        tell(&self.nodes[from], &command);
        true
    }

    /// Moves the rest of a slot's keys, and gives the slot to its new node.
    pub fn finish_move(&self, slot: u16, from: usize, to: usize) {
        while self.move_keys(slot, from, to, 100) {}
        let target = self.nodes[to].ask(&["CLUSTER", "MYID"]).expect("a node has a name");
        for node in [&self.nodes[to], &self.nodes[from]] {
            tell(node, &["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &target]);
        }
    }
}

fn tell(node: &Server, command: &[&str]) {
    let answer = node.ask(command);
    assert!(answer.is_ok(), "{command:?}: {answer:?}");
}

fn info(node: &Server) -> String {
    node.ask(&["CLUSTER", "INFO"]).unwrap_or_default()
}
