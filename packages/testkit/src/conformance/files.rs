//! Promises of [`Outbox`](torpor_core::webhook::Outbox) about runs whose outcome is written to files.

use std::time::Duration;

use serde_json::Value;
use torpor_core::dead_letter::{Redrive, Redriven};
use torpor_core::envelope::Spec;
use torpor_core::gate::{Action, Decide, Decision};
use torpor_core::outcome::{FailReason, Outcome};
use torpor_core::queue::{Backlog, Lease, NewRun};
use torpor_core::volume::{self, Place, Task};
use torpor_core::webhook::{Channel, Claimed, Destination, Kind, Message, Noted, State, Target};
use torpor_core::{Position, RunId};

use super::{Fixture, soon};
use crate::sample::{claimed, created, done, ended, first, first_claimed, further, gate, note};

const CLAIM: Duration = Duration::from_secs(30);
const SENT: Noted = Noted::Sent { status: None };

fn files() -> volume::Target {
    let place = |path: &str| Place::new(Some("acme"), path);
    let task = Task { inbox: place("inbox"), name: "a".into(), claim: "c".into() };
    volume::Target { result: Some(place("out/\"a\".json")), task: Some(task) }
}

/// The run, with files to write.
fn writing(new: NewRun) -> NewRun {
    let volume::Target { result, task } = files();
    NewRun { spec: Spec { result_ref: result, task, ..new.spec }, ..new }
}

async fn running(f: &Fixture, session: &str) -> Lease {
    claimed(f.enqueue(writing(first_claimed(session))).await)
}

async fn take(f: &Fixture, channel: Channel) -> Vec<Claimed> {
    f.outbox.claim(channel, 10, CLAIM, Duration::ZERO).await.unwrap()
}

/// The one message that is due; it is over with this.
async fn take_one(f: &Fixture) -> Message {
    let mut found = take(f, Channel::Files).await;
    assert_eq!(found.len(), 1, "one message should be due");
    let Claimed { message, attempt } = found.remove(0);
    assert!(f.outbox.note(&message.id, attempt, SENT).await.unwrap());
    message
}

fn told(message: &Message) -> (String, String, Option<u64>) {
    let body: Value = serde_json::from_str(&message.body).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&body["type"]), text(&body["data"]["status"]), body["data"]["gateId"].as_u64())
}

async fn decide(f: &Fixture, run: &RunId, gate: u64, action: Action) {
    f.gates.decide(Decide { run: run.clone(), gate: Some(gate), decision: Decision::new(action) }).await.unwrap();
}

/// The step that ends a run posts that its files are due, and where in the log the end stands.
pub async fn an_end_says_where_it_stands(f: Fixture) {
    let lease = running(&f, "s").await;
    f.append(&lease, 0, vec![note(&lease), note(&lease), ended(&lease, done("x"))]).await.unwrap();
    let message = take_one(&f).await;
    assert_eq!((message.to.clone(), message.ended_at), (Destination::Files(files()), Some(Position(3))));
    assert_eq!(told(&message), ("run.ended".into(), "done".into(), None));
    assert_eq!((&message.run, &*message.tenant), (&lease.record.run_id, "acme"));
    let entries = f.log.read(lease.session(), Position(3), 1).await.unwrap();
    assert_eq!(entries[0].body, ended(&lease, done("x")));
}

/// A run that ends without an entry is written like any other.
pub async fn an_end_without_an_entry_is_posted_too(f: Fixture) {
    let run = created(f.enqueue(writing(first("a"))).await).run_id;
    f.queue.cancel(&run).await.unwrap();
    let message = take_one(&f).await;
    assert_eq!((told(&message).1, message.ended_at), ("cancelled".into(), None));

    let run = created(f.enqueue(writing(first("b"))).await).run_id;
    (f.spoil)(&run).await;
    assert!(f.queue.claim(&"w".into(), 1, Duration::ZERO).await.unwrap().is_empty());
    let message = take_one(&f).await;
    assert_eq!((told(&message).1, message.ended_at, message.run), ("failed".into(), None, run));
}

/// What waits is told, and so is every verdict: whoever is no longer asked must not read that they are.
pub async fn gates_are_posted_as_they_come_and_go(f: Fixture) {
    let lease = running(&f, "s").await;
    let run = &lease.record.run_id;
    f.append(&lease, 0, vec![gate(&lease, 0, None), gate(&lease, 1, None)]).await.unwrap();
    assert_eq!(told(&take_one(&f).await), ("run.paused".into(), "paused".into(), Some(0)));
    for (n, status) in [(1, "paused"), (0, "queued")] {
        for _ in 0..2 {
            decide(&f, run, n, Action::Approve).await; // the same verdict again is no news
        }
        assert_eq!(told(&take_one(&f).await), ("gate.decided".into(), status.into(), Some(n)));
    }
}

/// A verdict that falls because nobody decided is one.
pub async fn an_expired_gate_is_posted(f: Fixture) {
    let lease = running(&f, "s").await;
    let end = f.time.now().after(Duration::from_secs(60));
    f.append(&lease, 0, vec![gate(&lease, 0, Some(end))]).await.unwrap();
    take_one(&f).await;
    f.pass(Duration::from_secs(61)).await;
    f.claim_one("w").await;
    assert_eq!(told(&take_one(&f).await).0, Kind::Decided.as_str());
}

/// Webhooks and files are told apart: neither way waits for the other, and each has its standing.
pub async fn each_channel_is_claimed_for_itself(f: Fixture) {
    let new = writing(first_claimed("s"));
    let webhook = Some(Target { url: "https://hooks.example/".into(), secret_ref: None });
    let lease = claimed(f.enqueue(NewRun { spec: Spec { webhook, ..new.spec }, ..new }).await);
    let run = &lease.record.run_id;
    f.append(&lease, 0, vec![gate(&lease, 0, None)]).await.unwrap();
    decide(&f, run, 0, Action::Reject).await;
    let kinds = |claimed: &[Claimed]| claimed.iter().map(|c| told(&c.message).0).collect::<Vec<_>>();
    assert_eq!(kinds(&take(&f, Channel::Webhook).await), ["run.paused"], "verdicts are no news for receivers");
    let mine = take(&f, Channel::Files).await;
    assert_eq!(kinds(&mine), ["run.paused", "gate.decided"]);
    let counts = f.queue.backlog().await.unwrap();
    assert_eq!((counts.webhooks, counts.files), (1, 2));
    for Claimed { message, attempt } in &mine {
        assert!(f.outbox.note(&message.id, *attempt, SENT).await.unwrap());
    }
    assert_eq!(f.queue.backlog().await.unwrap(), Backlog { files: 0, ..counts });
    let record = f.record(run).await;
    let stands = |it: Option<torpor_core::webhook::Standing>| it.map(|s| (s.event, s.state, s.last_status));
    assert_eq!(stands(record.webhook), Some((Kind::Paused, State::Pending, None)));
    assert_eq!(stands(record.files), Some((Kind::Decided, State::Sent, None)));
}

/// Whoever waits for files hears of them at once.
pub async fn a_waiting_claim_hears_of_its_channel(f: Fixture) {
    let lease = running(&f, "s").await;
    let waiting = f.outbox.claim(Channel::Files, 1, CLAIM, Duration::from_secs(3_600));
    let (found, ()) = soon(async { tokio::join!(waiting, f.finish(&lease, 0)) }).await;
    assert_eq!(found.unwrap().len(), 1);
}

/// The files of a run are its own: the next turn of the session writes none.
pub async fn further_runs_write_no_files(f: Fixture) {
    let lease = running(&f, "s").await;
    f.finish(&lease, 0).await;
    take_one(&f).await;
    created(f.enqueue(further("s")).await);
    let lease = f.claim_one("w").await;
    f.finish(&lease, 1).await;
    assert!(take(&f, Channel::Files).await.is_empty());
    assert_eq!(f.record(&lease.record.run_id).await.files, None);
}

/// The work of a dead letter that is driven again is the same work: it writes where the first one did.
pub async fn what_is_driven_again_writes_its_files(f: Fixture) {
    let lease = running(&f, "s").await;
    let run = lease.record.run_id.clone();
    let end = ended(&lease, Outcome::failed(FailReason::DeadLetter, "given up"));
    f.append(&lease, 0, vec![end]).await.unwrap();
    f.queue.dead_letter(&run, "given up").await.unwrap();
    assert_eq!(take_one(&f).await.run, run);
    let redrive = Redrive { run, tenant: None, new_run: RunId::generate(), trace: None };
    assert!(matches!(f.letters.redrive(&redrive).await.unwrap(), Redriven::Queued(_)));
    let again = f.claim_one("w").await;
    f.finish(&again, 1).await;
    let message = take_one(&f).await;
    assert_eq!((message.run, message.to), (redrive.new_run, Destination::Files(files())));
}
