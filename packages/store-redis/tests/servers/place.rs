//! Somewhere a store can be, and the fixtures of the conformance suites there.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use torpor_core::RunId;
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::conformance::keys::Keys;
use torpor_testkit::conformance::schedules::Schedules;
use torpor_testkit::conformance::{Fixture, Spoil};
use torpor_testkit::redis::ask;

/// Servers, and how to come to a store there.
pub(crate) struct Place {
    /// What `REDIS_URL` would say.
    pub(crate) url: String,
    /// Where all that is stored can be reached without TLS and password.
    pub(crate) ports: Vec<u16>,
    pub(crate) options: Options,
    /// The servers.
    pub(crate) keep: Box<dyn Any + Send + Sync>,
}

impl Place {
    pub(crate) fn new(url: String, ports: Vec<u16>, keep: impl Any + Send + Sync) -> Self {
        // Below `torpor:`, because that is what a restricted user may touch.
        let prefix = format!("torpor:{}", uuid::Uuid::new_v4().simple());
        Self { url, ports, options: Options { prefix, ..Options::default() }, keep: Box::new(keep) }
    }

    pub(crate) fn options(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    pub(crate) async fn store(&self) -> Store {
        Store::connect(&Address::parse(&self.url).unwrap(), self.options.clone()).await.unwrap()
    }

    /// A store with a clock of the test's, by all its seams.
    pub(crate) async fn fixture(mut self) -> Fixture {
        let clock = Arc::new(ManualClock::default());
        let (lease, result_ttl) = (Duration::from_secs(3), Duration::from_secs(3600));
        let (dead_letter_ttl, max_dead_letters) = (result_ttl * 2, 50);
        self.options = Options {
            lease,
            result_ttl,
            dead_letter_ttl,
            max_dead_letters: max_dead_letters as u64,
            clock: Some(clock.clone()),
            ..self.options
        };
        let store = Arc::new(self.store().await);
        let kind = |from: &'static str, to: &'static str| -> Spoil {
            let (ports, prefix, shards) = (self.ports.clone(), self.options.prefix.clone(), self.options.shards);
            Box::new(move |run| {
                respell(&ports, (&prefix, shards), run, (from, to));
                Box::pin(std::future::ready(()))
            })
        };
        Fixture {
            spoil: kind(r#""kind":"prompt""#, r#""kind":"of a newer build""#),
            mend: kind(r#""kind":"of a newer build""#, r#""kind":"prompt""#),
            log: store.clone(),
            queue: store.clone(),
            runs: store.clone(),
            gates: store.clone(),
            outbox: store.clone(),
            sessions: store.clone(),
            letters: store,
            lease,
            result_ttl,
            dead_letter_ttl,
            max_dead_letters,
            time: clock,
            keep: self.keep,
        }
    }

    pub(crate) async fn schedules(mut self) -> Schedules {
        let clock = Arc::new(ManualClock::default());
        self.options.clock = Some(clock.clone());
        Schedules { store: Arc::new(self.store().await), time: clock, keep: self.keep }
    }

    pub(crate) async fn keys(self) -> Keys {
        Keys { store: Arc::new(self.store().await), keep: self.keep }
    }
}

/// Writes another word into what is stored of a run, wherever that is.
fn respell(ports: &[u16], (prefix, shards): (&str, u16), run: &RunId, (from, to): (&str, &str)) {
    for (port, shard) in ports.iter().flat_map(|port| (0..shards).map(move |shard| (port, shard))) {
        let key = format!("{prefix}:{{{shard}}}:run:{run}");
        let Ok(spec) = ask(*port, &["HGET", &key, "spec"]) else { continue }; // the key is another node's
        if spec.contains(from) {
            ask(*port, &["HSET", &key, "spec", &spec.replace(from, to)]).unwrap();
            return;
        }
    }
    panic!("nothing is stored of {run} that could be changed");
}
