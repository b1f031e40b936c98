//! The connections: made when they are needed, made anew when they broke.
//!
//! Owns: sockets, timeouts, and what a failure of the server means to a caller. Must not know: what any command does.
//!
//! Nothing is sent twice by itself: whether a command whose connection broke was carried out is not known, and only the caller
//! knows whether it may be repeated.

use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, RedisError, TlsMode, Value,
};
use tokio::sync::Mutex;
use tokio::time::Instant;
use torpor_core::store;

use crate::address::{Address, Kind};
use crate::tls::{self, Tls};

/// How long the attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(2);

/// After a connection could not be made, everybody is told so for this long before the next attempt: a flood of callers
/// must not queue up for attempts that take seconds each.
const COOL_DOWN: Duration = Duration::from_millis(100);

/// Bytes that must come through in a second: a command that carries more may take longer than others.
const SLOWEST: usize = 8 << 20;

/// How often an idle connection is asked whether it still is one. What broke unnoticed (a server that was started again, a
/// firewall that forgot) would cost the next caller an error, though the server is long there.
const LOOK: Duration = Duration::from_secs(1);

/// Redirections that one command follows in a cluster whose shape has changed. They are followed here and not by the client,
/// which would also send again what may have been carried out. Only `MOVED` is followed, to a node that has all of a shard. While
/// a shard is being moved (`ASK`) its keys are on two nodes and no script sees all of them: until it has arrived the store is away.
const REDIRECTIONS: u32 = 4;

/// Which connection a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// For what may be large: entries, records, lists.
    Data,
    /// For small things that must not wait behind large ones: claims, heartbeats, cancels.
    Control,
}

/// The connections of one process.
#[derive(Debug)]
pub(crate) struct Link {
    address: Address,
    tls: Tls,
    timeout: Duration,
    data: Slot,
    control: Slot,
}

/// One connection, or why there is none.
#[derive(Debug, Default)]
struct Slot {
    now: Mutex<Held>,
    /// Names each connection, so that a caller who saw one break does not close the next.
    made: AtomicU64,
    /// How many answers came, so that only an idle connection is asked.
    answers: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    conn: Option<(u64, Conn)>,
    failed: Option<(Instant, store::Error)>,
}

/// A connection to one server, or to a cluster of them. Cheap to clone; clones send through the same socket.
#[derive(Clone)]
pub(crate) enum Conn {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Single(_) => "Single",
            Self::Cluster(_) => "Cluster",
        })
    }
}

impl Conn {
    /// Sends one command and waits for its answer.
    pub(crate) async fn send(&mut self, cmd: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::Single(conn) => conn.req_packed_command(cmd).await?.extract_error(),
            Self::Cluster(conn) => {
                let mut left = REDIRECTIONS;
                loop {
                    let answer = conn.req_packed_command(cmd).await.and_then(Value::extract_error);
                    match answer {
                        // It was not carried out; by now the client has asked where everything is.
                        Err(e) if e.code() == Some("MOVED") && left > 0 => left -= 1,
                        answer => return answer,
                    }
                }
            }
        }
    }

    /// Sends several commands in one piece to the node that has this key. An error of the server is the answer of its command.
    pub(crate) async fn send_all(&mut self, key: &str, commands: Pipeline) -> Result<Vec<Value>, RedisError> {
        let count = commands.len();
        match self {
            Self::Single(conn) => conn.req_packed_commands(&commands, 0, count).await,
            Self::Cluster(conn) => {
                let node = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                conn.route_pipeline(commands, 0, count, node).await
            }
        }
    }
}

impl Slot {
    /// This connection is of no use any more; perhaps there is another one already.
    async fn drop_made(&self, made: u64) {
        let mut held = self.now.lock().await;
        if held.conn.as_ref().is_some_and(|(at, _)| *at == made) {
            held.conn = None;
        }
    }
}

impl Link {
    pub(crate) fn new(address: Address, tls: Tls, timeout: Duration) -> Self {
        Self { address, tls, timeout, data: Slot::default(), control: Slot::default() }
    }

    /// How much longer a command may take that carries so many bytes.
    pub(crate) fn extra(bytes: usize) -> Duration {
        Duration::from_secs((bytes / SLOWEST) as u64)
    }

    /// Sends one command.
    ///
    /// # Errors
    /// The server's error, for whoever looks at its code; [`fault`] makes of it what callers of the store are told.
    pub(crate) async fn send(&self, lane: Lane, cmd: &Cmd) -> Result<Value, Failure> {
        self.send_large(lane, cmd, 0, None).await
    }

    /// Sends one command that carries so many bytes, and may wait at most so long for its answer if others may wait longer.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub(crate) async fn send_large(
        &self,
        lane: Lane,
        cmd: &Cmd,
        bytes: usize,
        at_most: Option<Duration>,
    ) -> Result<Value, Failure> {
        let slot = match lane {
            Lane::Data => &self.data,
            Lane::Control => &self.control,
        };
        let (made, mut conn) = self.connection(slot).await.map_err(Failure::Away)?;
        let patience = at_most.map_or(self.timeout, |most| most.min(self.timeout)) + Self::extra(bytes);
        let answer = match &mut conn {
            Conn::Single(conn) => {
                conn.set_response_timeout(patience);
                conn.req_packed_command(cmd).await.and_then(Value::extract_error)
            }
            // One node that is late says nothing about the others: the connection to all of them stays.
            Conn::Cluster(_) if at_most.is_some() => match tokio::time::timeout(patience, conn.send(cmd)).await {
                Ok(answer) => answer,
                Err(_) => return Err(Failure::Server(timed_out())),
            },
            Conn::Cluster(_) => conn.send(cmd).await,
        };
        match answer {
            Ok(value) => {
                slot.answers.fetch_add(1, Ordering::Relaxed);
                Ok(value)
            }
            Err(e) => {
                if breaks(&e) {
                    slot.drop_made(made).await;
                }
                Err(Failure::Server(e))
            }
        }
    }

    /// Looks after the connections while they are idle, as long as there is somebody who may use them.
    pub(crate) async fn look_after(link: Weak<Self>) {
        let mut before = [0, 0];
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(link) = link.upgrade() else { return };
            for (slot, before) in [&link.data, &link.control].into_iter().zip(&mut before) {
                let answers = slot.answers.load(Ordering::Relaxed);
                if std::mem::replace(before, answers) == answers {
                    link.look(slot).await;
                }
            }
        }
    }

    /// Makes an idle connection anew if it broke. That of a cluster sees to each of its nodes by itself.
    async fn look(&self, slot: &Slot) {
        let held = slot.now.lock().await.conn.clone();
        if let Some((made, Conn::Single(mut conn))) = held
            && let Err(e) = conn.req_packed_command(&Cmd::ping()).await
            && breaks(&e)
        {
            slot.drop_made(made).await;
            let _ = self.connection(slot).await; // whoever needs it tries again, and is told
        }
    }

    async fn connection(&self, slot: &Slot) -> Result<(u64, Conn), store::Error> {
        let mut held = slot.now.lock().await;
        if let Some((made, conn)) = &held.conn {
            return Ok((*made, conn.clone()));
        }
        if let Some((at, why)) = &held.failed
            && at.elapsed() < COOL_DOWN
        {
            return Err(why.clone());
        }
        match self.connect(Some(self.timeout)).await {
            Ok(conn) => {
                let made = slot.made.fetch_add(1, Ordering::Relaxed);
                *held = Held { conn: Some((made, conn.clone())), failed: None };
                Ok((made, conn))
            }
            Err(e) => {
                let why = fault(&e);
                held.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    /// Refuses a node of a cluster that was named as if it were a single server: it has a part of the keys, and another part
    /// after every move.
    ///
    /// # Errors
    /// [`store::Error::Failed`] says how a cluster is named. [`store::Error::Unavailable`] when the server is away.
    pub(crate) async fn is_single(&self) -> Result<(), store::Error> {
        if !matches!(self.address.0, Kind::Single(_)) {
            return Ok(());
        }
        let mut ask = Cmd::new();
        ask.arg("INFO").arg("cluster");
        let about = match self.send(Lane::Control, &ask).await.map_err(Failure::fault) {
            Ok(Value::BulkString(about)) => about,
            Err(away @ store::Error::Unavailable(_)) => return Err(away),
            _ => return Ok(()), // a user who may not ask is believed
        };
        if String::from_utf8_lossy(&about).contains("cluster_enabled:1") {
            return Err(store::Error::Failed(
                "this Redis is part of a cluster; name it as one: several of its hosts, separated by commas".to_owned(),
            ));
        }
        Ok(())
    }

    /// A connection of its own. Without a `response` timeout it is for commands that block: closing it is how those are cancelled.
    pub(crate) async fn connect(&self, response: Option<Duration>) -> Result<Conn, RedisError> {
        let config =
            || AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(response);
        match &self.address.0 {
            Kind::Single(info) => {
                let client = self.tls.client(info.clone())?;
                Ok(Conn::Single(client.get_multiplexed_async_connection_with_config(&config()).await?))
            }
            Kind::Cluster(nodes) => {
                let mut builder = ClusterClient::builder(nodes.iter().cloned())
                    .retries(0)
                    .connection_timeout(CONNECT)
                    .response_timeout(response.unwrap_or(BLOCKING));
                if nodes.iter().any(|node| matches!(node.addr(), ConnectionAddr::TcpTls { .. })) {
                    tls::provide();
                    builder = builder.certs(self.tls.certificates());
                }
                let client = builder.build()?;
                let made = tokio::time::timeout(CONNECT * 2, client.get_async_connection()).await;
                Ok(Conn::Cluster(made.map_err(|_| timed_out())??))
            }
            Kind::Sentinel { .. } => {
                let client = self.primary().await?;
                Ok(Conn::Single(client.get_multiplexed_async_connection_with_config(&config()).await?))
            }
        }
    }

    /// A connection to hear what is published. In a cluster any node hears everything.
    pub(crate) async fn listen(&self) -> Result<PubSub, RedisError> {
        let client = match &self.address.0 {
            Kind::Single(info) => self.tls.client(info.clone())?,
            Kind::Sentinel { .. } => self.primary().await?,
            Kind::Cluster(nodes) => return self.listen_to_any(nodes).await,
        };
        tokio::time::timeout(CONNECT, client.get_async_pubsub()).await.map_err(|_| timed_out())?
    }

    /// Asks the sentinels who the primary is now.
    async fn primary(&self) -> Result<Client, RedisError> {
        let Kind::Sentinel { sentinels, master, tls, settings } = &self.address.0 else {
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, "there are no sentinels")));
        };
        let addresses = sentinels.iter().map(|sentinel| sentinel.addr().clone());
        let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
            .set_client_to_redis_db(settings.db());
        if *tls {
            tls::provide();
            let certificates = self.tls.certificates();
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_certificates(certificates);
        }
        if let Some(user) = settings.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        // The same for all of them.
        if let Some(credentials) = sentinels.first().map(ConnectionInfo::redis_settings) {
            if let Some(user) = credentials.username() {
                builder = builder.set_client_to_sentinel_username(user);
            }
            if let Some(password) = credentials.password() {
                builder = builder.set_client_to_sentinel_password(password);
            }
        }
        let mut client = builder.build()?;
        tokio::time::timeout(CONNECT * 2, client.async_get_client()).await.map_err(|_| timed_out())?
    }

    async fn listen_to_any(&self, nodes: &[ConnectionInfo]) -> Result<PubSub, RedisError> {
        let mut last = timed_out();
        for node in nodes {
            let client = self.tls.client(node.clone())?;
            match tokio::time::timeout(CONNECT, client.get_async_pubsub()).await {
                Ok(Ok(pubsub)) => return Ok(pubsub),
                Ok(Err(e)) => last = e,
                Err(_) => {}
            }
        }
        Err(last)
    }
}

/// What a blocking command of a cluster connection may take at most: its own bound is the command's.
const BLOCKING: Duration = Duration::from_secs(60);

fn timed_out() -> RedisError {
    RedisError::from((ErrorKind::Io, "the connection was not made in time"))
}

/// Why a command has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no connection.
    Away(store::Error),
    /// It was sent, and this came of it.
    Server(RedisError),
}

impl Failure {
    /// What callers of the store are told.
    pub(crate) fn fault(self) -> store::Error {
        match self {
            Self::Away(e) => e,
            Self::Server(e) => fault(&e),
        }
    }

    /// Whether the server does not know the script.
    pub(crate) fn is_no_script(&self) -> bool {
        matches!(self, Self::Server(e) if e.code() == Some("NOSCRIPT"))
    }
}

/// Whether the connection is of no use any more: it broke, its server answers late, or it is not the primary any more.
pub(crate) fn breaks(e: &RedisError) -> bool {
    e.is_io_error()
        || e.is_timeout()
        || e.is_connection_dropped()
        || e.is_unrecoverable_error()
        // Another server is the primary now, or has the shard.
        || matches!(e.code(), Some("READONLY" | "MASTERDOWN" | "NOREPLICAS" | "MOVED"))
}

/// What an error of the server means. Never carries an address or a credential.
pub(crate) fn fault(e: &RedisError) -> store::Error {
    let detail = || e.detail().unwrap_or_default().chars().take(200).collect::<String>();
    match e.code() {
        Some("OOM") => store::Error::Unavailable("Redis is out of memory (maxmemory)".to_owned()),
        Some("READONLY") => store::Error::Unavailable("this Redis is a replica: it takes no writes".to_owned()),
        Some("LOADING") => store::Error::Unavailable("Redis is loading its data".to_owned()),
        Some("BUSY") => store::Error::Unavailable("Redis is busy with a script".to_owned()),
        Some("MISCONF") => store::Error::Unavailable("Redis cannot persist (MISCONF)".to_owned()),
        Some("NOREPLICAS") => store::Error::Unavailable("Redis has too few replicas".to_owned()),
        Some("CLUSTERDOWN" | "TRYAGAIN" | "MASTERDOWN" | "UNBLOCKED" | "MOVED" | "ASK") => {
            store::Error::Unavailable("the Redis cluster is being reorganised".to_owned())
        }
        Some("NOAUTH" | "WRONGPASS") => store::Error::Failed("Redis refused the user or the password".to_owned()),
        Some("NOPERM") => store::Error::Failed(format!("Redis: this user may not do that: {}", detail())),
        Some("ERR") if detail().contains("max number of clients") => {
            store::Error::Unavailable("Redis takes no more connections (maxclients)".to_owned())
        }
        _ if e.kind() == ErrorKind::AuthenticationFailed => {
            store::Error::Failed("Redis refused the user or the password".to_owned())
        }
        _ if let Some(why) = tls::refusal(e) => store::Error::Failed(why),
        _ if e.is_io_error() || e.is_timeout() || e.is_connection_dropped() || e.is_cluster_error() => {
            tracing::debug!(error = %e, "redis");
            store::Error::Unavailable("Redis cannot be reached".to_owned())
        }
        _ if matches!(
            e.kind(),
            ErrorKind::ClusterConnectionNotFound
                | ErrorKind::MasterNameNotFoundBySentinel
                | ErrorKind::NoValidReplicasFoundBySentinel
        ) =>
        {
            store::Error::Unavailable("no primary of Redis is known now".to_owned())
        }
        code => store::Error::Failed(format!("Redis: {} {}", code.unwrap_or("error"), detail())),
    }
}
