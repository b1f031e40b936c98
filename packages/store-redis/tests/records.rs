//! Lists, waits and sweeps of records, as far as they are Redis' own matter.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::{Plain, append, running, store};
use torpor_core::envelope::Spec;
use torpor_core::gate::{Action, Decide, Decision, GateStore as _};
use torpor_core::log::SessionLog as _;
use torpor_core::observe::{Event, Observer};
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::queue::{NewRun, WorkQueue};
use torpor_core::run::{Filter, RunStore as _};
use torpor_core::webhook::{Channel, Noted, Outbox, Target};
use torpor_core::{Position, RunId};
use torpor_store_redis::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::redis::Server;
use torpor_testkit::sample::{claimed, done, ended, first, gate, keyed, note};

/// Longer than what is waited for may take, and shorter than waiting without news would.
const SOON: Duration = Duration::from_millis(4_500);

#[tokio::test]
async fn a_list_that_finds_little_looks_so_far_and_says_where_to_go_on() {
    const ENDED: usize = 60_000;
    let Some(server) = Server::start() else { return };
    let store = store(&server, Options::default()).await;
    let lease = running(&store, "oldest").await;
    append(&store, &lease, 0, vec![ended(&lease, Outcome::failed(FailReason::Error, "gone"))]).await;
    let waiting = running(&store, "waiting").await.record.run_id;
    // Many more that ended well, as they are stored.
    let mut plain = Plain::to(&server).await;
    let script = "for n = 1, ARGV[1] do
        local R = 'run_' .. n
        redis.call('HSET', KEYS[1] .. 'run:' .. R, 'tenant', 'acme', 'session', 's', 'status', 'done', 'created', '1', 'row', '1')
        redis.call('ZADD', KEYS[1] .. 'runs', 0, string.format('7%015x', n) .. ':' .. R)
        end";
    let () = plain.ask(&["EVAL", script, "1", "torpor:{0}:", &ENDED.to_string()]).await;

    let mut filter = Filter { status: Some(Status::Failed), limit: 10, ..Filter::default() };
    let () = plain.ask(&["CONFIG", "RESETSTAT"]).await;
    let first = store.list(&filter).await.unwrap();
    let looked_at = plain.calls("hmget").await;
    assert!(first.runs.is_empty() && first.next.is_some(), "{first:?}");
    assert!((40_000..=50_000).contains(&looked_at), "{looked_at} runs in one call");
    assert!(plain.calls("evalsha").await >= 25, "of at most 2,000 in a step");
    filter.cursor = first.next;
    let second = store.list(&filter).await.unwrap();
    assert_eq!(second.runs.iter().map(|record| &record.run_id).collect::<Vec<_>>(), [&lease.record.run_id]);
    assert_eq!(second.next, None);

    let () = plain.ask(&["CONFIG", "RESETSTAT"]).await;
    let running = Filter { status: Some(Status::Running), limit: 10, ..Filter::default() };
    let running = store.list(&running).await.unwrap();
    assert_eq!((running.runs.len(), &running.runs[0].run_id, running.next), (1, &waiting, None));
    assert!(plain.calls("hmget").await < 5, "runs that have not ended are found without the others");
}

#[tokio::test]
async fn those_who_wait_hear_of_what_other_processes_do() {
    let Some(server) = Server::start() else { return };
    let options = || Options { shards: 2, ..Options::default() };
    let (here, there) = (store(&server, options()).await, Arc::new(store(&server, options()).await));
    let lease = running(&here, "s").await;
    let (run, version) = (lease.record.run_id.clone(), lease.record.version);
    let hour = Duration::from_secs(3_600);
    let (reader, follower) = (Arc::clone(&there), Arc::clone(&there));
    let session = lease.session().clone();
    let grown = tokio::spawn(async move { reader.wait_beyond(&session, Position(0), hour).await });
    let over = tokio::spawn(async move { follower.wait(&run, version, hour).await });
    // Those who wait have asked the server by then: what happens sooner is found by looking.
    tokio::time::sleep(Duration::from_millis(200)).await;
    append(&here, &lease, 0, vec![note(&lease)]).await;
    assert_eq!(tokio::time::timeout(SOON, grown).await.unwrap().unwrap().unwrap(), Position(1));
    append(&here, &lease, 1, vec![ended(&lease, done("ok"))]).await;
    let record = tokio::time::timeout(SOON, over).await.unwrap().unwrap().unwrap().unwrap();
    assert_eq!(record.status, Status::Done);
}

/// A run that had everything a run can have, and has ended.
async fn eventful(store: &Store, n: usize) -> RunId {
    let mut spec = Spec::prompt("work");
    spec.webhook = Some(Target { url: "https://h/".into(), secret_ref: None });
    let new = NewRun { spec, claim_for: Some("w".into()), ..first(&format!("s{n}")) };
    let lease = claimed(store.enqueue(keyed(new, &format!("k{n}"), "h")).await.unwrap());
    let run = lease.record.run_id.clone();
    append(store, &lease, 0, vec![gate(&lease, 0, None), gate(&lease, 1, None)]).await;
    let decide = |gate, action| Decide { run: run.clone(), gate: Some(gate), decision: Decision::new(action) };
    store.decide(decide(0, Action::Approve)).await.unwrap();
    store.decide(decide(1, Action::Reject)).await.unwrap();
    let lease = WorkQueue::claim(store, &"w".into(), 1, Duration::ZERO).await.unwrap().remove(0);
    append(store, &lease, 4, vec![ended(&lease, done("ok"))]).await;
    run
}

/// What a sender of messages does; answers how many there were.
async fn send_messages(store: &Store) -> usize {
    let claimed = Outbox::claim(store, Channel::Webhook, 256, Duration::from_secs(9), Duration::ZERO).await.unwrap();
    for it in &claimed {
        store.note(&it.message.id, it.attempt, Noted::Sent { status: Some(200) }).await.unwrap();
    }
    claimed.len()
}

#[tokio::test]
async fn a_sweep_leaves_nothing_of_a_record_but_its_log() {
    const RUNS: usize = 450; // more than a step takes
    let Some(server) = Server::start() else { return };
    let clock = Arc::new(ManualClock::default());
    let store = store(&server, Options { clock: Some(clock.clone()), ..Options::default() }).await;
    let mut runs = Vec::new();
    for n in 0..RUNS {
        runs.push(eventful(&store, n).await);
    }
    while send_messages(&store).await > 0 {}
    assert_eq!(store.sweep().await.unwrap(), 0);
    clock.advance(Options::default().result_ttl + Duration::from_millis(1));
    assert_eq!(store.sweep().await.unwrap(), RUNS as u64);

    let mut plain = Plain::to(&server).await;
    let mut keys: Vec<String> = plain.ask(&["KEYS", "*"]).await;
    keys.sort();
    for key in keys {
        let rest = key.strip_prefix("torpor:{0}:").unwrap_or(&key);
        let kept = ["meta", "sessions", "log:", "s:", "life:", "marks:", "q"].iter().any(|kept| rest.starts_with(kept));
        assert!(kept, "{key} is left");
        assert!(!runs.iter().any(|run| key.contains(run.as_str())), "{key} is left");
    }
}

/// Counts commits.
#[derive(Default)]
struct Commits(AtomicU64);

impl Observer for Commits {
    fn observe(&self, event: &Event<'_>) {
        if let Event::Commit { commands: 1, stored: true, .. } = event {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test]
async fn steps_that_may_change_something_are_counted_and_reads_are_not() {
    let Some(server) = Server::start() else { return };
    let commits = Arc::new(Commits::default());
    let store = store(&server, Options { observer: commits.clone(), ..Options::default() }).await;
    let lease = running(&store, "s").await;
    append(&store, &lease, 0, vec![note(&lease)]).await;
    store.open(lease.session()).await.unwrap();
    store.get(&lease.record.run_id).await.unwrap();
    assert_eq!(commits.0.load(Ordering::SeqCst), 2);
}
