//! The fakes keep the promises of the seams they stand in for; tests on top of them mean something only then.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use torpor_core::{Clock, SystemClock};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::conformance::keys::Keys;
use torpor_testkit::conformance::sandbox::Hands;
use torpor_testkit::conformance::schedules::Schedules;
use torpor_testkit::conformance::small::check_clock;
use torpor_testkit::fakes::{FakeHands, FakeKeys, FakeSandbox, FakeSchedules};

async fn fake_hands() -> Hands {
    let hands = FakeHands::start();
    let (seen, killed) = (hands.clone(), hands.clone());
    Hands {
        transport: Arc::new(FakeSandbox(hands)),
        mark: ("bash".into(), json!({"command": "mark"})),
        linger: ("bash".into(), json!({"command": "hang"})),
        marks: Box::new(move || seen.ran().len()),
        kill: Box::new(move || {
            killed.lose();
            Box::pin(async {})
        }),
        workspace: None,
        keep: Box::new(()),
    }
}

torpor_testkit::sandbox_conformance!(fake_hands);

async fn fake_keys() -> Keys {
    Keys { store: FakeKeys::new(), keep: Box::new(()) }
}

torpor_testkit::key_conformance!(fake_keys);

async fn fake_schedules() -> Schedules {
    let clock = Arc::new(ManualClock::default());
    Schedules { store: FakeSchedules::new(clock.clone()), time: clock, keep: Box::new(()) }
}

torpor_testkit::schedule_conformance!(fake_schedules);

#[tokio::test]
async fn clocks_keep_time() {
    check_clock(Arc::new(SystemClock), |_| {}).await;
    let manual = Arc::new(ManualClock::default());
    let clock: Arc<dyn Clock> = manual.clone();
    check_clock(clock, move |by: Duration| manual.advance(by)).await;
}
