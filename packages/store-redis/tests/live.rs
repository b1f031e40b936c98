//! Pieces of answers between processes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::sync::Arc;
use std::time::Duration;

use torpor_core::live::{Piece, Relay};
use torpor_core::model::Delta;
use torpor_core::{Position, RunId};
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::conformance::relay::check_relay;
use torpor_testkit::redis::Server;

async fn store(server: &Server, prefix: &str) -> Store {
    let options = Options { prefix: prefix.to_owned(), ..Options::default() };
    Store::connect(&Address::parse(&server.url()).unwrap(), options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_come_where_they_are_followed() {
    let Some(server) = Server::shared() else { return };
    let stores = [store(&server, "live").await, store(&server, "live").await, store(&server, "live").await];
    check_relay(stores.each_ref().map(Store::relay)).await;
}

/// Says the same over and over until it is heard.
async fn heard(from: &Arc<dyn Relay>, to: &Arc<dyn Relay>, run: &RunId) {
    let piece = Piece { request: Position(1), attempt: 1, delta: Delta::Text("x".into()) };
    let heard = async {
        loop {
            from.offer(run, &piece);
            if tokio::time::timeout(Duration::from_millis(50), to.arrived()).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), heard).await.expect("it is carried");
}

/// A server that restarts has forgotten who listens; a process that comes later has not heard who follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_a_late_process_cost_a_moment() {
    let Some(mut server) = Server::start() else { return };
    let (a, b) = (store(&server, "live").await, store(&server, "live").await);
    let (works, follows, run) = (a.relay(), b.relay(), RunId::generate());
    follows.follow(&run, true);
    heard(&works, &follows, &run).await;
    server.launch();
    while tokio::time::timeout(Duration::from_millis(1), follows.arrived()).await.is_ok() {}
    heard(&works, &follows, &run).await;
    let late = store(&server, "live").await;
    heard(&late.relay(), &follows, &run).await;
}
