//! API keys in Redis: the promises of their seam, and what is particular to this store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::sync::Arc;

use torpor_core::Timestamp;
use torpor_core::key::{Inserted, KeyStore, MAX_KEYS_PER_TENANT, Record, Scope, Scopes, Wish};
use torpor_core::store::Error;
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::conformance::keys::Keys;
use torpor_testkit::redis::Server;

async fn connect(server: &Server, prefix: &str) -> Store {
    let options = Options { prefix: prefix.to_owned(), ..Options::default() };
    Store::connect(&Address::parse(&server.url()).unwrap(), options).await.unwrap()
}

async fn fresh() -> Option<Keys> {
    let server = Server::shared()?;
    let store = connect(&server, &uuid::Uuid::new_v4().to_string()).await;
    Some(Keys { store: Arc::new(store), keep: Box::new(server) })
}

torpor_testkit::key_conformance!(fresh);

fn key() -> Record {
    let scopes = Scopes::of([Scope::RunsRead]);
    let wish = Wish { tenant: Some("t".into()), name: "n".into(), scopes, rate: None, expires_at: None };
    Record::issue(wish, Timestamp(1)).1
}

/// However many make keys at the same time: each is kept, and the bound holds.
#[tokio::test]
async fn racing_inserts_lose_nothing_and_keep_the_bound() {
    let Some(server) = Server::shared() else { return };
    let stores = [(); 2].map(|()| connect(&server, "racing"));
    let stores: Vec<Arc<Store>> = futures::future::join_all(stores).await.into_iter().map(Arc::new).collect();
    let racers = 16;
    for _ in racers / 2..MAX_KEYS_PER_TENANT {
        assert_eq!(stores[0].insert(key()).await.unwrap(), Inserted::Created);
    }
    let racing = (0..racers).map(|n| {
        let store = Arc::clone(&stores[n % 2]);
        tokio::spawn(async move {
            loop {
                match store.insert(key()).await {
                    Err(e) if e.is_retryable() => {} // the others went first, again and again
                    answer => break answer.unwrap(),
                }
            }
        })
    });
    let answers = futures::future::join_all(racing).await;
    let created = answers.into_iter().filter(|answer| *answer.as_ref().unwrap() == Inserted::Created).count();
    let kept = stores[0].keys(None).await.unwrap().unwrap().keys.len();
    assert_eq!((created, kept), (racers / 2, MAX_KEYS_PER_TENANT));
}

/// A key that a newer build restricted in a way that this one does not know is no key without that restriction, and none
/// that is missing either: an empty list would let everybody in.
#[tokio::test]
async fn a_key_that_cannot_be_read_fails_the_whole_list() {
    let Some(server) = Server::shared() else { return };
    let store = connect(&server, "unreadable").await;
    let kept = key();
    store.insert(kept.clone()).await.unwrap();
    let client = redis::Client::open(server.url()).unwrap();
    let mut conn = client.get_multiplexed_async_connection().await.unwrap();
    let stored: String =
        redis::cmd("HGET").arg("unreadable:{0}:keys").arg(kept.id.as_str()).query_async(&mut conn).await.unwrap();
    for newer in [stored.replacen('{', r#"{"onlyFrom":"10.0.0.0/8","#, 1), stored.replace("runs:read", "runs:some")] {
        assert_ne!(newer, stored);
        let set = redis::cmd("HSET").arg("unreadable:{0}:keys").arg(kept.id.as_str()).arg(newer).to_owned();
        let _: u64 = set.query_async(&mut conn).await.unwrap();
        let refused = store.keys(None).await.unwrap_err();
        assert!(matches!(&refused, Error::Unreadable(why) if !why.contains("some")), "{refused}");
    }
}
