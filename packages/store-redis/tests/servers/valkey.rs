//! Valkey, where it is installed.

use torpor_testkit::conformance::Fixture;
use torpor_testkit::conformance::keys::Keys;
use torpor_testkit::conformance::schedules::Schedules;
use torpor_testkit::redis::{Server, valkey};

use crate::place::Place;

fn place() -> Option<Place> {
    let server = Server::of(valkey()?, &[]);
    Some(Place::new(server.url(), vec![server.port()], server))
}

async fn fresh() -> Option<Fixture> {
    Some(place()?.fixture().await)
}

async fn fresh_keys() -> Option<Keys> {
    Some(place()?.keys().await)
}

async fn fresh_schedules() -> Option<Schedules> {
    Some(place()?.schedules().await)
}

torpor_testkit::conformance!(fresh);
torpor_testkit::key_conformance!(fresh_keys);
torpor_testkit::schedule_conformance!(fresh_schedules);
