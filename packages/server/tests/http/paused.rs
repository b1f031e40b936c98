//! Following a run that waits for a person, over the real store.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use torpor_core::gate::{Action, Decide, Decision, GateStore as _};
use torpor_core::log::SessionLog as _;
use torpor_core::queue::WorkQueue as _;
use torpor_server::{App, Config, router};
use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::sample::{claimed, first_claimed, gate, note, write};
use tower::ServiceExt as _;

use crate::client::PATIENCE;
use crate::fake::Fake;

/// A watcher must not hold a server up that could sleep: half a minute after the gate its stream ends, and it comes
/// back with the last id it has seen.
#[tokio::test]
async fn a_follower_of_a_paused_run_is_sent_away_and_comes_back() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::default()));
    let store = Arc::new(Store::open(dir.path(), Options { clock: clock.clone(), ..Options::default() }).unwrap());
    let app = App {
        queue: store.clone(),
        log: store.clone(),
        runs: store.clone(),
        gates: store.clone(),
        clock: clock.clone(),
        ..Fake::new().app()
    };
    let app = router(app, Config::default());
    let lease = claimed(store.enqueue(first_claimed("s")).await.unwrap());
    store.append(write(&lease, 0, vec![note(&lease), gate(&lease, 0, None)])).await.unwrap();
    let run = lease.record.run_id.clone();
    let follow = async |after: u64| {
        let request = Request::get(format!("/runs/{run}/events?after={after}")).body(Body::empty()).unwrap();
        app.clone().oneshot(request).await.unwrap().into_body()
    };

    let whole = tokio::spawn(follow(0).await.collect());
    let passing = async {
        while !whole.is_finished() {
            clock.advance(Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(5)).await; // lets the stream see the time
        }
    };
    let began = torpor_core::Clock::now(&*clock);
    tokio::time::timeout(PATIENCE, passing).await.expect("the stream ends by itself");
    let took = torpor_core::Clock::now(&*clock).since(began);
    assert!(took >= Duration::from_secs(30), "{took:?}");
    let text = String::from_utf8(whole.await.unwrap().unwrap().to_bytes().to_vec()).unwrap();
    assert!(text.contains("id: 2\nevent: gate_requested"), "{text}");

    let decide = Decide { run: run.clone(), gate: None, decision: Decision::new(Action::Approve) };
    store.decide(decide).await.unwrap();
    let mut again = follow(2).await;
    let frame = tokio::time::timeout(PATIENCE, again.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
    let text = String::from_utf8_lossy(&frame).into_owned();
    assert!(text.starts_with("id: 3\nevent: gate_decided"), "{text}");
}
