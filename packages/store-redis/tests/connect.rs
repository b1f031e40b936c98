//! Coming to a server, and what is said when that fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::time::Duration;

use torpor_core::key::KeyStore as _;
use torpor_core::queue::WorkQueue as _;
use torpor_core::store::Error;
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::redis::{Server, free_port};

#[tokio::test]
async fn a_store_is_made_once_and_found_again() {
    let Some(server) = Server::start() else { return };
    let address = Address::parse(&server.url()).unwrap();
    let first = Store::connect(&address, Options::default()).await.unwrap();
    let again = Store::connect(&address, Options::default()).await.unwrap();
    assert_eq!(first.id(), again.id());
    let other = Options { prefix: "other".to_owned(), shards: 3, ..Options::default() };
    let other = Store::connect(&address, other).await.unwrap();
    assert_ne!(first.id(), other.id(), "another prefix is another store");

    let more = Options { shards: 2, ..Options::default() };
    let refused = Store::connect(&address, more).await.unwrap_err();
    assert!(matches!(&refused, Error::Failed(why) if why.contains("1 shards, and 2")), "{refused}");
}

#[tokio::test]
async fn who_cannot_come_in_is_told_why_without_the_secret() {
    let nobody = Address::parse(&format!("redis://:hunter2@127.0.0.1:{}", free_port())).unwrap();
    let away = Store::connect(&nobody, Options::default()).await.unwrap_err();
    assert!(away.is_retryable() && !away.to_string().contains("hunter2"), "{away}");

    let Some(server) = Server::with(&["--requirepass", "right"]) else { return };
    for url in [server.url(), server.url().replace("//", "//:hunter2@")] {
        let refused = Store::connect(&Address::parse(&url).unwrap(), Options::default()).await.unwrap_err();
        assert!(matches!(&refused, Error::Failed(why) if why.contains("password")), "{refused}");
    }
    let url = server.url().replace("//", "//:right@");
    Store::connect(&Address::parse(&url).unwrap(), Options::default()).await.unwrap();
}

/// Nobody asks anything while a server is started again; whoever asks first afterwards gets an answer.
#[tokio::test]
async fn an_idle_store_finds_its_server_again() {
    let Some(mut server) = Server::start() else { return };
    let store = Store::connect(&Address::parse(&server.url()).unwrap(), Options::default()).await.unwrap();
    assert!(store.keys(None).await.unwrap().is_some());
    assert!(store.claim(&"w".into(), 1, Duration::ZERO).await.unwrap().is_empty());
    server.kill();
    server.launch();
    let back = async {
        // Both connections, and the one that asks.
        while server.ask(&["CLIENT", "LIST"]).unwrap().lines().filter(|line| !line.is_empty()).count() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("idle connections are looked after");
    assert!(store.claim(&"w".into(), 1, Duration::ZERO).await.unwrap().is_empty());
    assert!(store.keys(None).await.unwrap().is_some());
}
