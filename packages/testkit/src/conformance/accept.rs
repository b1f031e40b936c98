//! Promises of [`WorkQueue::enqueue`](torpor_core::queue::WorkQueue::enqueue): which posts make a run, and what is in it.

use std::collections::HashSet;

use futures::future::join_all;
use torpor_core::envelope::Spec;
use torpor_core::outcome::Status;
use torpor_core::queue::{Enqueued, NewRun};
use torpor_core::{SessionKey, trace};

use super::Fixture;
use crate::sample::{claimed, created, first, first_claimed, further, key, keyed};

/// Any number of parallel posts of one key make one run, and all are told of it.
pub async fn parallel_posts_of_one_key_make_one_run(f: Fixture) {
    let posts = (0..20).map(|_| f.enqueue(keyed(first("s"), "k", "h")));
    let mut runs = HashSet::new();
    let mut made = 0;
    for answer in join_all(posts).await {
        match answer {
            Enqueued::Created(record) => {
                made += 1;
                runs.insert(record.run_id);
            }
            Enqueued::Existing(record) => {
                runs.insert(record.run_id);
            }
            other => panic!("expected one run, got {other:?}"),
        }
    }
    assert_eq!((made, runs.len()), (1, 1));
    assert_eq!(f.claim("w", 100).await.len(), 1);
}

/// A key keeps its run through its whole life; with another body it is a conflict.
pub async fn a_key_names_one_run_and_one_body(f: Fixture) {
    let run = created(f.enqueue(keyed(first("s"), "k", "h")).await).run_id;
    let lease = f.claim_one("w").await;
    for _ in 0..2 {
        match f.enqueue(keyed(first("s"), "k", "h")).await {
            Enqueued::Existing(record) => assert_eq!(record.run_id, run),
            other => panic!("expected the first run, got {other:?}"),
        }
        for (session, hash) in [("s", "other"), ("elsewhere", "other")] {
            assert!(matches!(f.enqueue(keyed(first(session), "k", hash)).await, Enqueued::Conflict));
        }
        if f.record(&run).await.status == Status::Running {
            f.finish(&lease, 0).await; // and once more when it has ended
        }
    }
    assert!(f.log.open(&key("elsewhere")).await.unwrap().is_none(), "a conflict leaves nothing behind");
}

/// A run belongs to the trace of the post that made it, whoever claims it, and whoever posts it again.
pub async fn a_run_keeps_the_trace_of_its_first_post(f: Fixture) {
    let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let trace = trace::Context::parse(header, Some("vendor=1"));
    let run = created(f.enqueue(NewRun { trace: trace.clone(), ..keyed(first("s"), "k", "h") }).await);
    assert_eq!(run.trace, trace);
    f.enqueue(NewRun { trace: Some(trace::Context::fresh()), ..keyed(first("s"), "k", "h") }).await;
    assert_eq!(f.record(&run.run_id).await.trace, trace);
    assert_eq!(f.claim_one("w").await.record.trace, trace);
    assert_eq!(f.submit("untraced").await.trace, None);
}

/// Keys belong to their tenant.
pub async fn keys_of_tenants_do_not_collide(f: Fixture) {
    created(f.enqueue(keyed(first("s"), "k", "h")).await);
    let mut other = keyed(first("s"), "k", "another");
    other.session = SessionKey::new("rival", "s").unwrap();
    created(f.enqueue(other).await);
}

/// A first run needs a new session, a further one an existing session.
pub async fn a_run_says_what_its_session_must_be(f: Fixture) {
    assert!(matches!(f.enqueue(further("s")).await, Enqueued::NoSession));
    assert!(f.log.open(&key("s")).await.unwrap().is_none());
    f.submit("s").await;
    assert!(matches!(f.enqueue(first("s")).await, Enqueued::Conflict));
    created(f.enqueue(further("s")).await);
    assert_eq!(f.queue.backlog().await.unwrap().waiting, 1);
}

/// The post that made a session is recognised by its body, whatever key it carries and whether its run has ended or
/// not; any other first run of the session is a conflict.
pub async fn the_post_that_made_a_session_is_recognised(f: Fixture) {
    let new = NewRun { claim_for: Some("w".into()), ..keyed(first("s"), "k", "h") };
    let lease = claimed(f.enqueue(new).await);
    let run = &lease.record.run_id;
    for round in ["running", "ended"] {
        for again in ["k", "another key"] {
            match f.enqueue(keyed(first("s"), again, "h")).await {
                Enqueued::Existing(record) => assert_eq!(*record, f.record(run).await, "{round}, {again}"),
                other => panic!("{round}, {again}: expected the first run, got {other:?}"),
            }
        }
        for (name, other) in [("body", keyed(first("s"), "new key", "other")), ("no key", first("s"))] {
            assert!(matches!(f.enqueue(other).await, Enqueued::Conflict), "{round}, {name}");
        }
        if round == "running" {
            f.finish(&lease, 0).await;
        }
    }
    // A further run's body is not the session's.
    let further = created(f.enqueue(keyed(further("s"), "turn", "turn")).await);
    assert!(matches!(f.enqueue(keyed(first("s"), "new key", "turn")).await, Enqueued::Conflict));
    assert_eq!(f.claim_one("w").await.record.run_id, further.run_id);
    assert_eq!(f.claim("w", 10).await.len(), 0, "nothing else was made");

    // A session that was made without a hash has nothing to be recognised by.
    f.submit("plain").await;
    assert!(matches!(f.enqueue(keyed(first("plain"), "p", "h")).await, Enqueued::Conflict));
}

/// A further run inherits what the session's first run wished for, and only where it says nothing itself. What was
/// merged is what is stored, claimed and shown.
pub async fn a_further_run_inherits_the_wishes_of_the_first(f: Fixture) {
    let with = |new: NewRun, change: fn(&mut Spec)| {
        let mut new = new;
        change(&mut new.spec);
        new
    };
    let lease = claimed(
        f.enqueue(with(first_claimed("s"), |spec| {
            spec.model = Some("big".into());
            spec.provider = Some("acme".into());
            spec.tools = Some(vec!["read".into()]);
            spec.budget.max_turns = Some(7);
            spec.workspace_ref = Some("/work".into());
            spec.metadata = Some(serde_json::json!({ "of": "the first" }));
        }))
        .await,
    );
    let wishes = lease.record.spec.wishes();
    // What a further run says for itself changes nothing for the next.
    let changes: [fn(&mut Spec); 3] = [
        |_| {},
        |spec| {
            spec.model = Some("small".into());
            spec.tools = Some(vec![]);
            spec.budget.max_turns = Some(1);
            spec.budget.max_seconds = Some(9);
        },
        |_| {},
    ];
    let mut accepted = Vec::new();
    for change in changes {
        let new = with(further("s"), change);
        let mut want = new.spec.clone();
        want.inherit(&wishes);
        let record = created(f.enqueue(new).await);
        assert_eq!(record.spec, want);
        assert_eq!(f.record(&record.run_id).await, record);
        accepted.push(record);
    }
    assert_eq!(accepted[0].spec.metadata, None);
    assert_eq!((accepted[1].spec.provider.as_deref(), accepted[1].spec.budget.max_turns), (None, Some(1)));
    f.finish(&lease, 0).await;
    for (record, head) in accepted.into_iter().zip(1..) {
        let lease = f.claim_one("w").await;
        assert_eq!(lease.record.spec, record.spec);
        f.finish(&lease, head).await;
    }

    // Sessions do not inherit from each other, and nothing comes of nothing.
    let lease = f.running("plain").await;
    f.finish(&lease, 0).await;
    let plain = claimed(f.enqueue(NewRun { claim_for: Some("w".into()), ..further("plain") }).await);
    assert_eq!(plain.record.spec, further("plain").spec);
}

/// A run id is used once.
pub async fn a_run_id_is_used_once(f: Fixture) {
    let record = f.submit("s").await;
    let again = NewRun { run_id: record.run_id.clone(), ..first("t") };
    assert!(f.queue.enqueue(again).await.is_err());
    assert!(f.log.open(&key("t")).await.unwrap().is_none(), "nothing of it is left");
    assert_eq!(f.record(&record.run_id).await, record);
}
