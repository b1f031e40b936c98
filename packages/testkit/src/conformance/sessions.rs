//! Sessions as such: described, listed, forked, removed, moved.

use torpor_core::entry::Body;
use torpor_core::envelope::{Budget, Spec, Wishes};
use torpor_core::gate::Rule;
use torpor_core::log::AppendError;
use torpor_core::queue::{Enqueued, Expects, Lease, NewRun};
use torpor_core::session::{
    Filter, Fork, Forked, Import, ImportError, MAX_HISTORY_PARTS, Origin, Removal, Removed, Stored, Summary, ToForget,
};
use torpor_core::webhook::Target;
use torpor_core::{Epoch, Position, SessionKey, Timestamp};

use super::Fixture;
use crate::sample::{
    checkpoint, claimed, created, done, ended, first, first_claimed, further, gate, key, keyed, note, write,
};

fn started(lease: &Lease, workdir: Option<&str>) -> Body {
    Body::RunStarted {
        run: lease.record.run_id.clone(),
        prompt: "go".into(),
        model: "m".into(),
        workdir: workdir.map(str::to_owned),
        tools: Vec::new(),
        item: None,
    }
}

fn fork_of(from: &str, position: u64, into: &str) -> Fork {
    Fork { from: key(from), position: Position(position), into: key(into) }
}

impl Fixture {
    async fn fork(&self, from: &str, position: u64, into: &str) -> Forked {
        self.sessions.fork(&fork_of(from, position, into)).await.expect("the store answers")
    }

    async fn remove(&self, session: &str) -> Removed {
        match self.sessions.remove(&key(session)).await.expect("the store answers") {
            Removal::Removed(removed) => removed,
            other => panic!("{session} should be removed, got {other:?}"),
        }
    }

    async fn summary(&self, session: &str) -> Option<Summary> {
        self.sessions.session(&key(session)).await.expect("the store answers")
    }

    /// A session whose only run has ended, with a log of so many entries.
    async fn ended(&self, session: &str, entries: u64) -> Lease {
        let lease = self.running(session).await;
        self.write_to_the_end(&lease, 0, entries).await;
        lease
    }

    /// One more run of a session, which writes so many entries.
    async fn grow(&self, session: &str, entries: u64) -> Lease {
        let head = self.summary(session).await.unwrap().head.0;
        let lease = claimed(self.enqueue(NewRun { claim_for: Some("w".into()), ..further(session) }).await);
        self.write_to_the_end(&lease, head, entries).await;
        lease
    }

    async fn write_to_the_end(&self, lease: &Lease, after: u64, entries: u64) {
        let mut bodies: Vec<Body> = (1..entries).map(|_| note(lease)).collect();
        bodies.push(ended(lease, done("ok")));
        self.append(lease, after, bodies).await.expect("the owner may write and end its run");
    }

    async fn entries(&self, session: &str) -> Vec<torpor_core::entry::Entry> {
        self.log.read(&key(session), Position(1), 1_000).await.expect("the store answers")
    }

    async fn stored(&self, session: &str) -> Vec<Stored> {
        let life = self.summary(session).await.unwrap().life;
        self.sessions.stored(&key(session), life, Position(1), 1_000).await.expect("the store answers")
    }

    async fn import(&self, session: &str, entries: Vec<Stored>) -> Result<Position, ImportError> {
        let wishes = Wishes { model: Some("m".into()), ..Wishes::default() };
        let mut importer =
            self.sessions.import(Import { session: key(session), created_at: Timestamp(7), wishes }).await?;
        for entry in entries {
            importer.push(vec![entry]).await?;
        }
        importer.finish().await
    }
}

/// A session says how long its log is, since when it is there, what happened last, and what it waits for.
pub async fn a_session_is_described(f: Fixture) {
    assert_eq!(f.summary("s").await, None);
    let made = f.time.now();
    let lease = f.running("s").await;
    f.pass(f.lease / 10).await;
    f.append(&lease, 0, vec![note(&lease), gate(&lease, 0, None)]).await.unwrap();
    let it = f.summary("s").await.unwrap();
    assert_eq!((it.session.clone(), it.head, it.pending_gates), (key("s"), Position(2), 1));
    assert!(it.created_at >= made && it.updated_at > it.created_at, "{it:?}");
    assert_eq!((it.front, it.forked_from, it.forks), (Some(lease.record.run_id), None, 0));
    let other = SessionKey::new("other", "s").unwrap();
    assert_eq!(f.sessions.session(&other).await.unwrap(), None);
}

/// A list has every session once, the newest first, page by page, and for one tenant only its own.
pub async fn sessions_are_listed(f: Fixture) {
    for n in 0..5 {
        f.submit(&format!("s{n}")).await;
    }
    let session = SessionKey::new("other", "theirs").unwrap();
    created(f.enqueue(NewRun { session, ..first("s") }).await);
    let mut filter = Filter { tenant: Some("acme".into()), limit: 2, cursor: None };
    let mut seen = Vec::new();
    loop {
        let page = f.sessions.sessions(&filter).await.unwrap();
        assert!(page.sessions.len() <= 2);
        seen.extend(page.sessions.into_iter().map(|s| s.session.session().to_owned()));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["s4", "s3", "s2", "s1", "s0"]);
    assert_eq!(f.sessions.sessions(&Filter { limit: 200, ..Filter::default() }).await.unwrap().sessions.len(), 6);
    let foreign = Filter { limit: 1, cursor: Some("not ours".into()), ..Filter::default() };
    assert!(f.sessions.sessions(&foreign).await.is_err());
}

/// A fork has the same entries at the same positions, goes on by itself, and neither sees what the other writes.
pub async fn a_fork_shares_history_and_goes_on_by_itself(f: Fixture) {
    f.ended("s", 5).await;
    assert_eq!(f.fork("s", 3, "f").await, Forked::Created);
    let it = f.summary("f").await.unwrap();
    assert_eq!(it.forked_from, Some(Origin { session: "s".into(), position: Position(3) }));
    assert_eq!((it.head, it.front.clone(), f.summary("s").await.unwrap().forks), (Position(3), None, 1));
    f.grow("f", 2).await;
    f.grow("s", 1).await;
    let (s, forked) = (f.entries("s").await, f.entries("f").await);
    assert_eq!(forked.iter().map(|e| e.position.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(forked[..3], s[..3]);
    assert!(forked[3..] != s[3..5] && s.len() == 6);
    assert_eq!(f.log.read(&key("f"), Position(3), 2).await.unwrap(), forked[2..4]);
    let opened = f.log.open(&key("f")).await.unwrap().unwrap();
    assert_eq!((opened.head.position, opened.tail), (Position(5), forked));
}

/// Whatever the origin is doing: queued runs, a run under way, a gate.
pub async fn any_moment_can_be_forked(f: Fixture) {
    let lease = f.running("s").await;
    f.append(&lease, 0, vec![note(&lease); 2]).await.unwrap();
    created(f.enqueue(further("s")).await);
    assert_eq!(f.fork("s", 2, "of-a-running-one").await, Forked::Created);
    f.append(&lease, 2, vec![gate(&lease, 0, None)]).await.unwrap();
    assert_eq!(f.fork("s", 3, "of-a-waiting-one").await, Forked::Created);
    for (fork, head) in [("of-a-running-one", 2), ("of-a-waiting-one", 3)] {
        let it = f.summary(fork).await.unwrap();
        assert_eq!((it.head.0, it.pending_gates), (head, 0), "{fork}: nobody is asked twice");
        f.grow(fork, 1).await;
    }
    assert_eq!(f.summary("s").await.unwrap().pending_gates, 1);
}

/// What is kept beside a log is, beside a fork, what it was at the position: also in forks of forks.
pub async fn a_fork_resumes_where_its_own_history_says(f: Fixture) {
    let lease = f.running("s").await;
    let bodies = vec![note(&lease), note(&lease), checkpoint(2), note(&lease), checkpoint(5), gate(&lease, 0, None)];
    f.append(&lease, 0, bodies).await.unwrap();
    for (position, resume_from, next_gate) in [(1, 1, 0), (2, 1, 0), (3, 2, 0), (4, 2, 0), (5, 5, 0), (6, 5, 1)] {
        let direct = format!("f{position}");
        assert_eq!(f.fork("s", position, &direct).await, Forked::Created);
        assert_eq!(f.fork("s", 6, &format!("whole{position}")).await, Forked::Created);
        let indirect = format!("ff{position}");
        assert_eq!(f.fork(&format!("whole{position}"), position, &indirect).await, Forked::Created);
        for fork in [direct, indirect] {
            let opened = f.log.open(&key(&fork)).await.unwrap().unwrap();
            let head = opened.head;
            assert_eq!((head.resume_from.0, head.next_gate), (resume_from, next_gate), "{fork}");
            assert_eq!(opened.tail.first().unwrap().position.0, resume_from, "{fork}");
            let next = claimed(f.enqueue(NewRun { claim_for: Some("w".into()), ..further(&fork) }).await);
            assert_eq!((next.head.resume_from.0, next.head.next_gate), (resume_from, next_gate), "{fork}");
            let number = gate(&next, next_gate, None);
            f.append(&next, position, vec![number]).await.expect("its gates go on from there");
        }
    }
}

/// What cannot be forked is said, and a fork that came before is recognised.
pub async fn forks_are_refused_by_reason(f: Fixture) {
    f.ended("s", 3).await;
    f.submit("taken").await;
    assert_eq!(f.fork("nobody", 1, "f").await, Forked::Unknown);
    assert_eq!(f.fork("s", 0, "f").await, Forked::OutOfRange(Position(3)));
    assert_eq!(f.fork("s", 4, "f").await, Forked::OutOfRange(Position(3)));
    assert_eq!(f.fork("s", 2, "taken").await, Forked::Taken);
    assert_eq!(f.fork("s", 2, "s").await, Forked::Taken);
    assert_eq!(f.summary("f").await, None);
    assert_eq!(f.fork("s", 2, "f").await, Forked::Created);
    f.grow("f", 2).await;
    assert_eq!(f.fork("s", 2, "f").await, Forked::Existing);
    assert_eq!(f.fork("s", 1, "f").await, Forked::Taken);
    let again = f.enqueue(keyed(first("f"), "session:f", "h")).await;
    assert!(matches!(again, Enqueued::Conflict), "a fork is not made by a run: {again:?}");
}

/// Forks of forks have an end, and every one before it works.
pub async fn histories_have_so_many_parts_and_no_more(f: Fixture) {
    f.ended("0", 1).await;
    for n in 1..MAX_HISTORY_PARTS {
        assert_eq!(f.fork(&(n - 1).to_string(), n as u64, &n.to_string()).await, Forked::Created, "{n}");
        f.grow(&n.to_string(), 1).await;
    }
    let last = (MAX_HISTORY_PARTS - 1).to_string();
    assert_eq!(f.positions(&key(&last)).await, (1..=MAX_HISTORY_PARTS as u64).collect::<Vec<_>>());
    assert_eq!(f.fork(&last, MAX_HISTORY_PARTS as u64, "too-deep").await, Forked::TooDeep);
    assert_eq!(f.fork(&last, 1, "shallow").await, Forked::Created, "it is the history that counts");
}

/// A fork takes model, tools, approvals and budget along, and neither a workspace nor whom to tell.
pub async fn a_fork_inherits_what_is_carried(f: Fixture) {
    let rule = Rule { tool: "bash".into(), pattern: None };
    let spec = Spec {
        model: Some("m".into()),
        tools: Some(vec!["bash".into()]),
        approvals: vec![rule.clone()],
        budget: Budget { max_turns: Some(3), ..Budget::default() },
        workspace_ref: Some("/project".into()),
        webhook: Some(Target { url: "https://example.com/".into(), secret_ref: None }),
        ..Spec::prompt("p")
    };
    let lease = claimed(f.enqueue(NewRun { spec, ..first_claimed("s") }).await);
    f.append(&lease, 0, vec![note(&lease)]).await.unwrap();
    f.fork("s", 1, "f").await;
    let spec = created(f.enqueue(further("f")).await).spec;
    assert_eq!(
        (spec.model.as_deref(), spec.tools, spec.budget.max_turns),
        (Some("m"), Some(vec!["bash".into()]), Some(3))
    );
    assert_eq!((spec.approvals, spec.workspace_ref, spec.webhook), (vec![rule], None, None));
    let wishes = f.sessions.wishes(&key("s")).await.unwrap().unwrap();
    assert_eq!(wishes.workspace_ref.as_deref(), Some("/project"));
    assert_eq!(f.sessions.wishes(&key("nobody")).await.unwrap(), None);
}

/// Everything by which a session could be found is gone, and its keys are free.
pub async fn a_removal_takes_everything(f: Fixture) {
    let first = || NewRun { run_id: torpor_core::RunId::generate(), ..keyed(first_claimed("s"), "k", "h") };
    let lease = claimed(f.enqueue(first()).await);
    f.append(&lease, 0, vec![note(&lease), gate(&lease, 0, None)]).await.unwrap();
    let run = lease.record.run_id.clone();
    f.queue.cancel(&run).await.unwrap();
    let lease = f.claim_one("w").await;
    f.finish(&lease, 2).await;
    f.queue.dead_letter(&run, "why").await.unwrap();
    let never = created(f.enqueue(further("s")).await).run_id;
    f.queue.cancel(&never).await.unwrap();

    let removed = f.remove("s").await;
    let expected = Removed { entries: 3, runs: 2, gates: 1, dead_letters: 1, ..Removed::default() };
    assert_eq!(removed, expected);
    assert_eq!(f.summary("s").await, None);
    assert_eq!(f.sessions.remove(&key("s")).await.unwrap(), Removal::Unknown);
    assert!(f.sessions.to_forget(10).await.unwrap().is_empty(), "it never had hands");
    assert_eq!((f.log.open(&key("s")).await.unwrap(), f.entries("s").await), (None, Vec::new()));
    assert!(f.runs.get(&run).await.unwrap().is_none() && f.runs.latest(&key("s")).await.unwrap().is_none());
    assert!(f.letters().await.is_empty());
    assert!(
        f.gates.gates(&torpor_core::gate::Filter { limit: 10, ..Default::default() }).await.unwrap().gates.is_empty()
    );
    f.queue.dead_letter(&run, "late").await.unwrap();
    assert!(f.letters().await.is_empty(), "there is no such run");
    let again = claimed(f.enqueue(first()).await);
    assert_eq!(again.head.position, Position(0));
    f.append(&again, 0, vec![note(&again)]).await.unwrap();
    assert_eq!(f.positions(&key("s")).await, [1]);
}

/// Queued, running or paused: a session that is not idle is left as it is.
pub async fn a_busy_session_stays(f: Fixture) {
    let queued = f.submit("s").await.run_id;
    let busy = async |f: &Fixture, why: &str| {
        assert_eq!(f.sessions.remove(&key("s")).await.unwrap(), Removal::Busy(queued.clone()), "{why}");
    };
    busy(&f, "queued").await;
    let lease = f.claim_one("w").await;
    busy(&f, "running").await;
    f.append(&lease, 0, vec![gate(&lease, 0, None)]).await.unwrap();
    busy(&f, "paused").await;
    f.queue.cancel(&queued).await.unwrap();
    busy(&f, "about to end").await;
    let lease = f.claim_one("w").await;
    f.expire_leases().await;
    busy(&f, "without an owner").await;
    assert_eq!(f.sessions.remove_idle(Timestamp(u64::MAX >> 1), 10).await.unwrap(), 0);
    f.finish(&lease, 1).await;
    f.remove("s").await;
}

/// What forks share stays with them, goes with the last of them, and nothing is counted twice.
pub async fn what_forks_share_goes_with_the_last_of_them(f: Fixture) {
    f.ended("s", 6).await;
    f.fork("s", 4, "f").await;
    f.grow("f", 3).await; // 5, 6, 7
    f.fork("f", 6, "ff").await;
    f.fork("f", 2, "early").await;
    let (forked, deep) = (f.entries("f").await, f.entries("ff").await);

    let removed = f.remove("s").await;
    assert_eq!((removed.entries, removed.kept, removed.kept_for), (2, 4, 3));
    assert_eq!(f.entries("s").await, Vec::new());
    assert_eq!((f.entries("f").await, f.entries("ff").await), (forked, deep.clone()));
    assert_eq!(f.summary("f").await.unwrap().forked_from.unwrap().session, "s", "where it came from does not change");
    // A later session with the name has nothing to do with them.
    f.ended("s", 1).await;
    assert_eq!(f.summary("s").await.unwrap().forks, 0);

    let removed = f.remove("f").await;
    assert_eq!((removed.entries, removed.kept, removed.kept_for), (1, 2, 1));
    assert_eq!(f.entries("ff").await, deep);
    let removed = f.remove("ff").await;
    assert_eq!(
        (removed.entries, removed.kept),
        (4, 0),
        "two of f's, and of the first s the two that early does not share"
    );
    assert_eq!(f.positions(&key("early")).await, [1, 2]);
    assert_eq!(f.remove("early").await.entries, 2);
    assert_eq!(f.positions(&key("s")).await, [1]);
}

/// Whoever owned a removed session is fenced from all that come after, and nobody takes its name before its hands have
/// forgotten it.
pub async fn a_removed_session_is_over_for_its_owner(f: Fixture) {
    f.ended("there", 1).await;
    let old = f.running("s").await;
    f.append(&old, 0, vec![started(&old, Some("/work"))]).await.unwrap();
    f.finish(&old, 1).await;
    let forget = f.remove("s").await.forget.expect("hands may know it");
    assert!(forget > old.epoch);
    let what = ToForget { session: key("s"), epoch: forget };
    assert_eq!(f.sessions.to_forget(10).await.unwrap(), std::slice::from_ref(&what));

    f.ended("other", 1).await;
    assert!(matches!(f.enqueue(first("s")).await, Enqueued::Forgetting));
    assert!(matches!(f.enqueue(further("s")).await, Enqueued::NoSession));
    assert_eq!(f.fork("other", 1, "s").await, Forked::Forgetting);
    assert!(matches!(f.import("s", Vec::new()).await, Err(ImportError::Forgetting)));
    f.sessions.forgotten(&ToForget { epoch: Epoch(forget.0 + 1), ..what.clone() }).await.unwrap();
    assert!(matches!(f.enqueue(first("s")).await, Enqueued::Forgetting), "that was another's");

    f.sessions.forgotten(&what).await.unwrap();
    f.sessions.forgotten(&what).await.unwrap();
    assert!(f.sessions.to_forget(10).await.unwrap().is_empty());
    let new = f.running("s").await;
    assert!(new.epoch > new.born && new.born >= forget, "{} and {} must lie above {forget}", new.epoch, new.born);
    assert!(f.grow("there", 1).await.born < old.epoch, "it has been there all the time");
    assert_eq!(f.fork("other", 1, "fork").await, Forked::Created);
    f.import("import", Vec::new()).await.unwrap();
    for made in ["fork", "import"] {
        let lease = f.grow(made, 1).await;
        assert!(lease.epoch > lease.born && lease.born >= forget, "{made} may have the name of another");
    }
    let refused = f.log.append(write(&old, 0, vec![note(&old)])).await;
    assert!(matches!(refused, Err(AppendError::Fenced { .. })), "{refused:?}");
    let refused = f.log.append(write(&old, 2, vec![note(&old)])).await;
    assert!(matches!(refused, Err(AppendError::Fenced { .. })), "{refused:?}");
    assert!(!f.queue.release(&old.key(), torpor_core::queue::Release::HandBack).await.unwrap());
}

/// What is idle for long is removed, and what was used since is not.
pub async fn idle_sessions_are_removed(f: Fixture) {
    f.ended("old", 2).await;
    f.ended("used", 2).await;
    let since = f.time.now();
    f.pass(f.lease).await;
    f.ended("new", 2).await;
    f.grow("used", 1).await;
    assert_eq!(f.sessions.remove_idle(since, 10).await.unwrap(), 1);
    assert_eq!(f.summary("old").await, None);
    assert!(f.summary("used").await.is_some() && f.summary("new").await.is_some());
}

/// What was exported is imported as it was: entries, where resume begins, what is inherited.
pub async fn an_import_is_what_was_exported(f: Fixture) {
    let lease = f.running("s").await;
    let bodies = vec![started(&lease, Some("/work")), note(&lease), checkpoint(2), note(&lease)];
    f.append(&lease, 0, bodies).await.unwrap();
    f.finish(&lease, 4).await;
    f.fork("s", 5, "f").await;
    f.grow("f", 1).await;
    let stored = f.stored("f").await;
    let head = f.import("copy", stored.clone()).await.unwrap();
    assert_eq!((head, f.stored("copy").await), (Position(6), stored));
    let it = f.summary("copy").await.unwrap();
    assert_eq!((it.created_at, it.forked_from, it.front), (Timestamp(7), None, None));
    assert_eq!(f.log.open(&key("copy")).await.unwrap().unwrap().head.resume_from, Position(2));
    let next = created(f.enqueue(further("copy")).await);
    assert_eq!((next.spec.model.as_deref(), next.log_from), (Some("m"), None));
    assert_eq!(f.claim_one("w").await.head.position, Position(6));
    let life = f.summary("copy").await.unwrap().life;
    assert!(f.sessions.stored(&key("s"), life, Position(1), 10).await.unwrap().is_empty(), "another life");
}

/// A run that was under way elsewhere is over here.
pub async fn an_import_ends_what_was_under_way(f: Fixture) {
    let lease = f.running("s").await;
    f.append(&lease, 0, vec![started(&lease, None), note(&lease)]).await.unwrap();
    assert_eq!(f.import("copy", f.stored("s").await).await.unwrap(), Position(3));
    let last = f.entries("copy").await.pop().unwrap();
    assert!(matches!(last.body, Body::RunEnded { run, .. } if run == lease.record.run_id));
    assert_eq!(f.remove("copy").await, Removed { entries: 3, ..Removed::default() });
}

/// Nothing is seen of an import before it is whole, and nothing stays of one that was refused or dropped.
pub async fn an_import_is_whole_or_nothing(f: Fixture) {
    f.ended("s", 3).await;
    let stored = f.stored("s").await;
    assert!(matches!(f.import("s", stored.clone()).await, Err(ImportError::Taken)));
    match f.import("copy", vec![stored[0].clone(), stored[2].clone()]).await {
        Err(ImportError::Refused(why)) => assert!(why.contains("`position` must be 2"), "{why}"),
        other => panic!("a gap was accepted: {other:?}"),
    }
    let import = || Import { session: key("copy"), created_at: Timestamp(7), wishes: Wishes::default() };
    let mut dropped = f.sessions.import(import()).await.unwrap();
    dropped.push(stored.clone()).await.unwrap();
    assert_eq!((f.summary("copy").await, f.entries("copy").await), (None, Vec::new()));
    drop(dropped);
    f.runs.sweep().await.unwrap();
    // Of two with one name, one is made.
    let (mut one, mut two) = (f.sessions.import(import()).await.unwrap(), f.sessions.import(import()).await.unwrap());
    one.push(stored.clone()).await.unwrap();
    two.push(stored[..1].to_vec()).await.unwrap();
    f.runs.sweep().await.unwrap();
    assert_eq!(one.finish().await.unwrap(), Position(3));
    assert!(matches!(two.finish().await, Err(ImportError::Taken)));
    assert_eq!(f.stored("copy").await, stored);
    let made = f.enqueue(NewRun { expects: Expects::New, ..first("copy") }).await;
    assert!(matches!(made, Enqueued::Conflict), "{made:?}");
}
