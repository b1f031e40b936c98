//! A store of a test's own, and a look at its keys past it.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};
use torpor_core::log::SessionLog as _;
use torpor_core::queue::{Lease, WorkQueue as _};
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::redis::Server;
use torpor_testkit::sample::{claimed, done, ended, first_claimed, write};

pub(crate) struct Kit {
    pub(crate) server: Arc<Server>,
    pub(crate) store: Store,
    /// Its time, where it is not the server's.
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) prefix: String,
    pub(crate) plain: MultiplexedConnection,
}

impl Kit {
    /// A store whose time passes when a test says so.
    pub(crate) async fn manual() -> Option<Self> {
        let clock = Arc::new(ManualClock::default());
        Self::on(Server::shared()?, Options { clock: Some(clock.clone()), ..Options::default() }, clock).await
    }

    /// A store on a server of its own, by the server's time.
    pub(crate) async fn alone(options: Options) -> Option<Self> {
        Self::on(Arc::new(Server::start()?), options, Arc::default()).await
    }

    pub(crate) async fn on(server: Arc<Server>, options: Options, clock: Arc<ManualClock>) -> Option<Self> {
        let prefix = uuid::Uuid::new_v4().simple().to_string();
        let store = connect(&server, Options { prefix: prefix.clone(), ..options }).await;
        let plain = plain(&server).await;
        Some(Self { server, store, clock, prefix, plain })
    }

    /// The full name of a key.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}:{{0}}:{name}", self.prefix)
    }

    /// Sends a command past the store; `@name` stands for a key of it.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        let mut cmd = Cmd::new();
        for word in command.split_whitespace() {
            match word.strip_prefix('@') {
                Some(name) => cmd.arg(self.key(name)),
                None => cmd.arg(word),
            };
        }
        cmd.query_async(&mut self.plain.clone()).await.unwrap_or_else(|e| panic!("{command}: {e}"))
    }

    /// What KEDA looks at: entries that nobody has read, and those that are pending.
    pub(crate) async fn lag_and_pending(&self) -> (Option<u64>, u64) {
        let groups: Vec<redis::Value> = self.ask("XINFO GROUPS @q").await;
        let group: std::collections::HashMap<String, redis::Value> =
            redis::from_redis_value(groups.into_iter().next().unwrap()).unwrap();
        let number = |name: &str| redis::from_redis_value::<Option<u64>>(group[name].clone()).unwrap();
        (number("lag"), number("pending").unwrap())
    }

    pub(crate) async fn claim(&self, worker: &str, max: usize) -> Vec<Lease> {
        self.store.claim(&worker.into(), max, Duration::ZERO).await.unwrap()
    }

    /// Submits the first run of a session and claims it.
    pub(crate) async fn running(&self, session: &str) -> Lease {
        claimed(self.store.enqueue(first_claimed(session)).await.unwrap())
    }

    /// Ends a run whose log is empty.
    pub(crate) async fn finish(&self, lease: &Lease) {
        self.store.append(write(lease, lease.head.position.0, vec![ended(lease, done("ok"))])).await.unwrap();
    }

    /// Lets more than a lease pass.
    pub(crate) fn expire_leases(&self) {
        self.clock.advance(Options::default().lease + Duration::from_millis(1));
    }
}

pub(crate) async fn connect(server: &Server, options: Options) -> Store {
    Store::connect(&Address::parse(&server.url()).unwrap(), options).await.unwrap()
}

pub(crate) async fn plain(server: &Server) -> MultiplexedConnection {
    redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}
