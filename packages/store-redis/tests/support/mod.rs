//! What the tests of this crate share: stores on a server of a test's own, and what that server counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)] // a failed expectation is the result

use std::time::Duration;

use torpor_core::Position;
use torpor_core::entry::Body;
use torpor_core::log::{Append, AppendError, SessionLog as _};
use torpor_core::queue::{Lease, WorkQueue as _};
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::redis::Server;
use torpor_testkit::sample::{claimed, first_claimed, key, write};

/// A store on this server.
pub(crate) async fn store(server: &Server, options: Options) -> Store {
    Store::connect(&Address::parse(&server.url()).unwrap(), options).await.unwrap()
}

/// Submits the first run of a session and claims it.
pub(crate) async fn running(store: &Store, session: &str) -> Lease {
    claimed(store.enqueue(first_claimed(session)).await.unwrap())
}

/// Appends as the owner.
pub(crate) async fn append(store: &Store, lease: &Lease, after: u64, bodies: Vec<Body>) -> Position {
    store.append(write(lease, after, bodies)).await.unwrap()
}

/// How long something may take that is to happen at once, before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Appends as a brain does: what could not be answered is asked again, as the same append. Answers how often it was refused,
/// too.
pub(crate) async fn insist(store: &Store, append: Append) -> (Position, u32) {
    let repeated = async {
        let mut refusals = 0;
        loop {
            match store.append(append.clone()).await {
                Ok(position) => return (position, refusals),
                Err(AppendError::Store(e)) if e.is_retryable() => refusals += 1,
                Err(other) => panic!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, repeated).await.expect("the store comes back")
}

/// A plain connection to the server.
pub(crate) struct Plain(redis::aio::MultiplexedConnection);

impl Plain {
    pub(crate) async fn to(server: &Server) -> Self {
        let client = redis::Client::open(server.url()).unwrap();
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        Self(client.get_multiplexed_async_connection_with_config(&patient).await.unwrap())
    }

    /// Sends a command.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut cmd = redis::Cmd::new();
        words.iter().for_each(|word| {
            cmd.arg(*word);
        });
        cmd.query_async(&mut self.0).await.unwrap()
    }

    /// The key of the stream of a session of the tenant `acme`, in a store of one shard.
    pub(crate) async fn log_of(&mut self, session: &str) -> String {
        let life: String = self.ask(&["HGET", &format!("torpor:{{0}}:s:{}", key(session).digest()), "life"]).await;
        format!("torpor:{{0}}:log:{life}")
    }

    /// How often the server has run a command since it was last told to forget.
    pub(crate) async fn calls(&mut self, command: &str) -> u64 {
        let info: String = self.ask(&["INFO", "commandstats"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.and_then(|rest| rest.split(',').next()).map_or(0, |n| n.parse().unwrap())
    }

    /// A number of a section of `INFO`.
    pub(crate) async fn count(&mut self, section: &str, name: &str) -> u64 {
        let info: String = self.ask(&["INFO", section]).await;
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.expect("a field of INFO").trim().parse().unwrap()
    }
}
