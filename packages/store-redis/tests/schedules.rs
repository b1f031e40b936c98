//! What is kept of schedules in Redis: the promises of their seam.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::sync::Arc;

use torpor_core::schedule::{Begin, Begun, FireId, KEEP_FIRES, Report, ScheduleStore};
use torpor_core::{Clock, Timestamp, store};
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::conformance::schedules::Schedules;
use torpor_testkit::redis::Server;

async fn connect(server: &Server, prefix: &str, clock: Arc<dyn Clock>) -> Store {
    let options = Options { prefix: prefix.to_owned(), clock: Some(clock), ..Options::default() };
    Store::connect(&Address::parse(&server.url()).unwrap(), options).await.unwrap()
}

async fn fresh() -> Option<Schedules> {
    let server = Server::shared()?;
    let clock = Arc::new(ManualClock::default());
    let store = connect(&server, &uuid::Uuid::new_v4().to_string(), clock.clone()).await;
    Some(Schedules { store: Arc::new(store), time: clock, keep: Box::new(server) })
}

torpor_testkit::schedule_conformance!(fresh);

/// Two servers fire one schedule at every minute: each fire is one's, and none is lost.
#[tokio::test]
async fn two_servers_share_the_fires_of_a_schedule() {
    let Some(server) = Server::shared() else { return };
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
    let prefix = uuid::Uuid::new_v4().to_string();
    let fire_all = async |by: &'static str| {
        let store = connect(&server, &prefix, clock.clone()).await;
        store.watch("s", "* * * * * UTC", Timestamp(0)).await.unwrap();
        let mut mine = 0;
        for minute in 1..=KEEP_FIRES as u64 {
            let due = Timestamp(minute * 60_000);
            let begin = Begin { fire: FireId::of_minute(due), due: Some(due), by: by.into() };
            if let Begun::Yours(fire) = store.begin("s", &begin).await.unwrap() {
                assert!(store.finish("s", &fire.id, &Report::default()).await.unwrap());
                mine += 1;
            }
        }
        mine
    };
    let (one, two) = tokio::join!(fire_all("one"), fire_all("two"));
    let kept = connect(&server, &prefix, clock).await.state("s").await.unwrap().unwrap();
    // Whoever is behind finds a later fire begun, and leaves the earlier one to whoever began it.
    assert_eq!((one + two, kept.fires.len(), kept.open()), (KEEP_FIRES, KEEP_FIRES, 0));
}

#[tokio::test]
async fn a_state_that_cannot_be_read_stops_nobody_else() {
    let Some(server) = Server::shared() else { return };
    let prefix = uuid::Uuid::new_v4().to_string();
    let store = connect(&server, &prefix, Arc::new(ManualClock::default())).await;
    for name in ["bad", "good"] {
        store.watch(name, "plan", Timestamp(0)).await.unwrap();
    }
    let client = redis::Client::open(server.url()).unwrap();
    let mut conn = client.get_multiplexed_async_connection().await.unwrap();
    let key = format!("{prefix}:{{0}}:schedules");
    let damaged: u64 = redis::cmd("HSET").arg(key).arg("bad").arg("damaged").query_async(&mut conn).await.unwrap();
    assert_eq!(damaged, 0, "it was there");
    assert_eq!(store.states().await.unwrap().iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["good"]);
    assert!(matches!(store.pass("bad", Timestamp(1)).await, Err(store::Error::Unreadable(_))));
}
