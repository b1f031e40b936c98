//! Promises of [`Outbox`](torpor_core::webhook::Outbox).

use std::time::Duration;

use serde_json::Value;
use torpor_core::RunId;
use torpor_core::envelope::Spec;
use torpor_core::outcome::{FailReason, Outcome};
use torpor_core::queue::{Backlog, Lease, NewRun};
use torpor_core::webhook::{Channel, Claimed, Destination, Failure, Id, Kind, Noted, Standing, State, Target};

use super::{Fixture, soon};
use crate::sample::{claimed, created, done, ended, first, first_claimed, further, gate, note, write};

/// How long the claims here last.
const CLAIM: Duration = Duration::from_secs(30);

fn target() -> Target {
    Target { url: "https://hooks.example/x".into(), secret_ref: Some("billing".into()) }
}

/// The run, with somebody to tell.
fn telling(new: NewRun) -> NewRun {
    NewRun { spec: Spec { webhook: Some(target()), ..new.spec }, ..new }
}

/// A run of this session that is being worked on.
async fn running(f: &Fixture, session: &str) -> Lease {
    claimed(f.enqueue(telling(first_claimed(session))).await)
}

/// A run of this session that has ended.
async fn over(f: &Fixture, session: &str) -> RunId {
    let lease = running(f, session).await;
    f.finish(&lease, 0).await;
    lease.record.run_id
}

async fn take(f: &Fixture, max: usize) -> Vec<Claimed> {
    f.outbox.claim(Channel::Webhook, max, CLAIM, Duration::ZERO).await.unwrap()
}

async fn take_one(f: &Fixture) -> Claimed {
    let mut found = take(f, 10).await;
    assert_eq!(found.len(), 1, "one message should be due");
    found.remove(0)
}

async fn standing(f: &Fixture, run: &RunId) -> Option<Standing> {
    f.record(run).await.webhook
}

async fn noted(f: &Fixture, id: &Id, attempt: u32, what: Noted) -> bool {
    f.outbox.note(id, attempt, what).await.unwrap()
}

const SENT: Noted = Noted::Sent { status: Some(204) };

fn failed(after: Duration) -> Noted {
    Noted::Failed { why: Failure::Status, status: Some(503), after }
}

/// Who names no target is not told of.
pub async fn a_run_without_a_target_posts_nothing(f: Fixture) {
    let lease = f.running("s").await;
    f.finish(&lease, 0).await;
    assert!(take(&f, 10).await.is_empty());
    assert_eq!(standing(&f, &lease.record.run_id).await, None);
}

/// The step that ends a run posts a thin message about it, whatever the outcome.
pub async fn the_end_of_a_run_is_posted_with_it(f: Fixture) {
    for (session, outcome, status) in [
        ("a", done("secret words"), "done"),
        ("b", Outcome::failed(FailReason::Budget, "secret words"), "failed"),
        ("c", Outcome::Cancelled {}, "cancelled"),
    ] {
        let lease = running(&f, session).await;
        let run = &lease.record.run_id;
        assert!(take(&f, 10).await.is_empty());
        f.append(&lease, 0, vec![note(&lease), ended(&lease, outcome)]).await.unwrap();
        let pending =
            Standing { event: Kind::Ended, state: State::Pending, attempts: 0, last_status: None, last_error: None };
        assert_eq!(standing(&f, run).await, Some(pending));
        let Claimed { message, attempt } = take_one(&f).await;
        let to = Destination::Webhook(target());
        assert_eq!((&message.run, &*message.tenant, &message.to, attempt), (run, "acme", &to, 1));
        let body: Value = serde_json::from_str(&message.body).unwrap();
        assert_eq!(body["id"], message.id.as_str());
        assert_eq!(body["type"], "run.ended");
        assert_eq!(body["createdAt"], f.time.now().rfc3339());
        let data = &body["data"];
        assert_eq!((&data["runId"], &data["sessionId"]), (&Value::from(run.as_str()), &Value::from(session)));
        assert_eq!((&data["tenant"], &data["status"]), (&Value::from("acme"), &Value::from(status)));
        assert!(!message.body.contains("secret words"), "{}", message.body);
    }
}

/// The step that parks a run posts that it waits, once, and names the first gate.
pub async fn a_gate_is_posted_with_it(f: Fixture) {
    let lease = running(&f, "s").await;
    f.append(&lease, 0, vec![gate(&lease, 0, None), gate(&lease, 1, None)]).await.unwrap();
    let body: Value = serde_json::from_str(&take_one(&f).await.message.body).unwrap();
    assert_eq!((&body["type"], &body["data"]["status"]), (&Value::from("run.paused"), &Value::from("paused")));
    assert_eq!(body["data"]["gateId"], 0);
    assert_eq!(standing(&f, &lease.record.run_id).await.map(|s| s.event), Some(Kind::Paused));
}

/// A run that is cancelled before anybody worked on it has ended like any other.
pub async fn a_cancel_before_the_start_is_posted(f: Fixture) {
    let run = created(f.enqueue(telling(first("s"))).await).run_id;
    f.queue.cancel(&run).await.unwrap();
    f.queue.cancel(&run).await.unwrap();
    let message = take_one(&f).await.message;
    assert!(message.body.contains("\"cancelled\""), "{}", message.body);
    assert_eq!(message.run, run);
}

/// What is not stored is not told; what is stored once is told once.
pub async fn a_refused_or_repeated_end_posts_nothing_more(f: Fixture) {
    let lease = running(&f, "s").await;
    let end = write(&lease, 0, vec![ended(&lease, done("x"))]);
    assert!(f.append(&lease, 7, end.bodies.clone()).await.is_err());
    assert!(take(&f, 10).await.is_empty());
    for _ in 0..2 {
        f.log.append(end.clone()).await.unwrap();
    }
    assert_eq!(take(&f, 10).await.len(), 1);
}

/// A session's further runs are told of as its first one is.
pub async fn further_runs_keep_the_target(f: Fixture) {
    let first = over(&f, "s").await;
    let second = created(f.enqueue(further("s")).await).run_id;
    let lease = f.claim_one("w").await;
    f.finish(&lease, 1).await;
    let runs: Vec<RunId> = take(&f, 10).await.into_iter().map(|c| c.message.run).collect();
    assert_eq!(runs, [first, second]);
}

/// Nobody else gets a message while its claim lives; then it is the next attempt at the same message.
pub async fn a_claim_keeps_others_off_until_it_lapses(f: Fixture) {
    let run = over(&f, "s").await;
    let first = take_one(&f).await;
    f.pass(CLAIM - Duration::from_millis(1)).await;
    assert!(take(&f, 10).await.is_empty());
    f.pass(Duration::from_millis(1)).await;
    let second = take_one(&f).await;
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_eq!(first.message, second.message, "the id and every byte are the same");
    assert_eq!(standing(&f, &run).await.map(|s| s.attempts), Some(2));
}

/// However many ask at once, each message is handed out once.
pub async fn racing_claims_never_share_a_message(f: Fixture) {
    for n in 0..20 {
        over(&f, &format!("s{n}")).await;
    }
    let all = futures::future::join_all((0..8).map(|_| take(&f, 3))).await;
    let mut ids: Vec<String> = all.into_iter().flatten().map(|c| c.message.id.to_string()).collect();
    let found = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), found), (20, 20));
}

/// A message that failed is due again when its wait is over, and its record says how it went.
pub async fn a_failed_message_waits_for_its_time(f: Fixture) {
    let run = over(&f, "s").await;
    let seen = f.record(&run).await.version;
    let first = take_one(&f).await;
    let wait = Duration::from_secs(3_600);
    assert!(noted(&f, &first.message.id, 1, failed(wait)).await);
    f.pass(wait - Duration::from_millis(1)).await;
    assert!(take(&f, 10).await.is_empty());
    let record = f.record(&run).await;
    let want = Standing {
        event: Kind::Ended,
        state: State::Pending,
        attempts: 1,
        last_status: Some(503),
        last_error: Some(Failure::Status),
    };
    assert_eq!(record.webhook, Some(want));
    assert!(record.version > seen, "whoever waits for a change of the record hears of it");
    f.pass(Duration::from_millis(1)).await;
    assert_eq!(take_one(&f).await.attempt, 2);
}

/// A message that was received or given up is over.
pub async fn what_is_over_is_never_claimed_again(f: Fixture) {
    let given_up = Noted::GivenUp { why: Failure::Timeout, status: None };
    for (session, what, state, status, error) in
        [("a", SENT, State::Sent, Some(204), None), ("b", given_up, State::GivenUp, None, Some(Failure::Timeout))]
    {
        let run = over(&f, session).await;
        let id = take_one(&f).await.message.id;
        assert!(noted(&f, &id, 1, what).await);
        assert!(!noted(&f, &id, 1, failed(Duration::ZERO)).await, "it is over");
        f.pass(CLAIM * 2).await;
        assert!(take(&f, 10).await.is_empty());
        let it = standing(&f, &run).await.unwrap();
        assert_eq!((it.state, it.attempts, it.last_status, it.last_error), (state, 1, status, error));
    }
    assert!(!noted(&f, &Id::generate(), 1, SENT).await, "nobody knows it");
}

/// Who was too slow cannot put a message off that somebody else is sending. That it was received is true in any case.
pub async fn a_late_note_counts_only_if_it_was_received(f: Fixture) {
    let run = over(&f, "s").await;
    let id = take_one(&f).await.message.id;
    f.pass(CLAIM).await;
    assert_eq!(take_one(&f).await.attempt, 2);
    assert!(!noted(&f, &id, 1, failed(Duration::ZERO)).await);
    assert!(!noted(&f, &id, 1, Noted::GivenUp { why: Failure::Timeout, status: None }).await);
    assert!(take(&f, 10).await.is_empty(), "the second attempt is under way");
    assert!(noted(&f, &id, 1, SENT).await);
    assert!(!noted(&f, &id, 2, failed(Duration::ZERO)).await);
    assert_eq!(standing(&f, &run).await.map(|s| s.state), Some(State::Sent));
}

/// Whoever waits for messages hears of a new one at once.
pub async fn a_waiting_claim_is_woken_by_a_post(f: Fixture) {
    let lease = running(&f, "s").await;
    let (found, ()) = soon(async {
        tokio::join!(f.outbox.claim(Channel::Webhook, 1, CLAIM, Duration::from_secs(3_600)), f.finish(&lease, 0))
    })
    .await;
    assert_eq!(found.unwrap().len(), 1);
}

/// Whoever waits gets what becomes due by time: a message that failed, or one whose claim lapsed.
pub async fn a_waiting_claim_is_woken_by_time(f: Fixture) {
    over(&f, "s").await;
    let id = take_one(&f).await.message.id;
    noted(&f, &id, 1, failed(Duration::from_secs(60))).await;
    for attempt in [2, 3] {
        let waiting = f.outbox.claim(Channel::Webhook, 1, CLAIM, Duration::from_secs(3_600));
        assert_eq!(f.while_time_passes(waiting).await.unwrap()[0].attempt, attempt);
    }
    let lapsed = f.while_time_passes(f.outbox.claim(Channel::Webhook, 1, CLAIM, Duration::from_secs(1))).await;
    assert!(lapsed.unwrap().is_empty(), "a wait that is over is over");
}

/// A receiver that keeps failing does not hold up those whose turn it is.
pub async fn the_longest_due_goes_first(f: Fixture) {
    let first = over(&f, "a").await;
    let claimed = take_one(&f).await;
    noted(&f, &claimed.message.id, 1, failed(Duration::from_secs(10))).await;
    let second = over(&f, "b").await;
    f.pass(Duration::from_secs(10)).await;
    let third = over(&f, "c").await;
    let mut order = Vec::new();
    for _ in 0..3 {
        order.extend(take(&f, 1).await.into_iter().map(|c| c.message.run));
    }
    assert_eq!(order[0], second);
    let mut rest = [&order[1], &order[2]];
    rest.sort();
    let mut want = [&first, &third];
    want.sort();
    assert_eq!(rest, want);
}

/// A record that expires takes nothing with it that is still to be said.
pub async fn a_pending_message_outlives_its_record(f: Fixture) {
    let run = over(&f, "s").await;
    let told = over(&f, "t").await;
    for claimed in take(&f, 10).await {
        let what = if claimed.message.run == told { SENT } else { failed(f.result_ttl * 2) };
        noted(&f, &claimed.message.id, 1, what).await;
    }
    f.pass(f.result_ttl * 2).await;
    assert_eq!(f.runs.sweep().await.unwrap(), 2);
    assert!(f.runs.get(&run).await.unwrap().is_none());
    let claimed = take_one(&f).await;
    assert_eq!((&claimed.message.run, claimed.attempt), (&run, 2));
    assert!(noted(&f, &claimed.message.id, 2, SENT).await);
    assert!(!noted(&f, &claimed.message.id, 2, SENT).await, "nothing is left of it");
}

/// Messages that are due or under way are work that somebody has to be awake for; those that wait are not.
pub async fn messages_are_work_to_wake_for(f: Fixture) {
    let counted = async || f.queue.backlog().await.unwrap();
    over(&f, "s").await;
    assert_eq!(counted().await, Backlog { webhooks: 1, ..Backlog::default() });
    let id = take_one(&f).await.message.id;
    assert_eq!(counted().await.webhooks, 1, "it is being sent");
    noted(&f, &id, 1, failed(Duration::from_secs(60))).await;
    assert_eq!(counted().await.webhooks, 0, "nothing to do for a minute");
    f.pass(Duration::from_secs(60)).await;
    assert_eq!(counted().await.webhooks, 1);
    take_one(&f).await;
    f.pass(CLAIM).await;
    assert_eq!(counted().await.webhooks, 1, "its claim has lapsed");
    take_one(&f).await;
    noted(&f, &id, 3, SENT).await;
    assert_eq!(counted().await, Backlog::default());
}
