//! Work that stands in a file: read once, when the run starts, and what is wrong with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use support::{Rig, check_log, rig};
use torpor_core::envelope::{Budget, MAX_INPUTS_BYTES, Spec, Work};
use torpor_core::model::Message;
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::volume::Place;
use torpor_harness::{LeafEnd, Stop, run_leaf};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::crash::Fuse;
use torpor_testkit::fakes::{Said, calls, says};
use torpor_volume::Shared;

/// A rig with a volume; everything is below the folder that comes with it.
struct Mounted {
    rig: Rig,
    around: tempfile::TempDir,
}

impl Mounted {
    fn new(said: Vec<Said>) -> Self {
        let (mut rig, around) = (rig(said), tempfile::tempdir().unwrap());
        fs::create_dir(around.path().join("root")).unwrap();
        rig.deps.volume = Some(Arc::new(Shared::new(around.path().join("root"))));
        Self { rig, around }
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.around.path().join("root").join(name), text).unwrap();
    }

    fn patience(&mut self, patience: Duration) {
        let mut settings = (*self.rig.deps.settings).clone();
        settings.store_patience = patience;
        self.rig.deps.settings = Arc::new(settings);
    }

    async fn message(&self, spec: Spec) -> String {
        match self.rig.go(spec).await.outcome {
            Some(Outcome::Failed { reason: FailReason::BadInputs, message }) => message,
            other => panic!("{other:?}"),
        }
    }
}

fn named(path: &str) -> Spec {
    Spec { work: Work::Inputs { inputs: Place::new(None, path) }, ..Spec::prompt("") }
}

const REVIEW: &str = r#"{"kind": "converge", "item": {"item_id": "i1", "file": "a.rs", "pattern": "unsafe"}}"#;

fn verdict(id: &str) -> Said {
    Ok(calls(&[("submit_verdict", json!({"item_id": id, "verdict": "FLAGGED", "reason": "seen"}))]))
}

#[tokio::test]
async fn the_model_is_told_what_the_file_says() {
    let it = Mounted::new(vec![Ok(says("done"))]);
    it.put("a.json", r#"{"prompt": "read me"}"#);
    let record = it.rig.go(named("a.json")).await;
    assert_eq!(record.status, Status::Done);
    assert_eq!(it.rig.model.seen()[0], [Message::User("read me".into())]);
    assert_eq!(record.spec.work, named("a.json").work, "the record says what was asked");
}

#[tokio::test]
async fn a_review_from_a_file_is_a_review() {
    let it = Mounted::new(vec![verdict("other"), verdict("i1")]);
    it.put("a.json", REVIEW);
    let record = it.rig.go(named("a.json")).await;
    assert!(matches!(&record.outcome, Some(Outcome::Done { verdict: Some(v), .. }) if v.item_id == "i1"), "{record:?}");

    let silent = Mounted::new(vec![Ok(says("looks fine"))]);
    silent.put("a.json", REVIEW);
    let record = silent.rig.go(named("a.json")).await;
    assert!(matches!(record.outcome, Some(Outcome::Failed { reason: FailReason::NoVerdict, .. })));
}

/// Until the run has started the file is read again; from then on what it said holds, whatever becomes of it.
#[tokio::test]
async fn what_the_file_said_at_the_start_holds_however_often_the_brain_dies() {
    let story = || {
        let it = Mounted::new(vec![Ok(calls(&[("bash", json!({"command": "one"}))])), verdict("i1")]);
        it.put("a.json", REVIEW);
        it
    };
    let whole = story();
    let fuse = Fuse::at(0);
    whole.rig.submit(named("a.json")).await;
    let end = run_leaf(&whole.rig.fused(&fuse), whole.rig.claim().await, Stop::new().1).await;
    assert!(matches!(end, LeafEnd::Ended(_)), "{end:?}");
    let steps = fuse.taken();
    assert!(steps > 12, "{steps} steps");

    for at in 1..=steps {
        let it = story();
        let run = it.rig.submit(named("a.json")).await;
        let fuse = Fuse::at(at);
        let (deps, lease) = (it.rig.fused(&fuse), it.rig.claim().await);
        let session = lease.session().clone();
        tokio::select! {
            biased;
            () = fuse.blown() => {}
            end = run_leaf(&deps, lease, Stop::new().1) => panic!("step {at}: {end:?}"),
        }
        if it.rig.record(&run).await.status.is_terminal() {
            continue;
        }
        if !it.rig.log(&session).await.is_empty() {
            it.put("a.json", "no longer what it was");
        }
        it.rig.lapse();
        assert!(matches!(it.rig.run(it.rig.claim().await).await, LeafEnd::Ended(_)));
        let record = it.rig.record(&run).await;
        let Some(Outcome::Done { verdict: Some(v), .. }) = &record.outcome else { panic!("step {at}: {record:?}") };
        assert_eq!(v.item_id, "i1", "step {at}");
        check_log(&it.rig.log(&session).await);
    }
}

/// What is wrong is said with the field, the file and what was expected, and with nothing of the machine.
#[tokio::test]
async fn a_file_that_cannot_be_worked_on_fails_the_run_by_name() {
    let it = Mounted::new(Vec::new());
    let root = it.around.path().join("root");
    it.put("torn.json", "{\"prompt\": \"x");
    it.put("latin.json", b"{\"prompt\": \"\xe9\"}");
    it.put("more.json", r#"{"prompt": "x", "colour": 1}"#);
    it.put("neither.json", "{}");
    it.put("large.json", vec![b' '; MAX_INPUTS_BYTES + 1]);
    it.put("review.json", REVIEW);
    fs::create_dir(root.join("folder")).unwrap();
    fs::write(it.around.path().join("outside.json"), r#"{"prompt": "secret"}"#).unwrap();
    symlink("../outside.json", root.join("out.json")).unwrap();
    symlink(it.around.path().join("outside.json"), root.join("far.json")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
    for (path, want) in [
        ("none.json", "`inputsRef` \"none.json\" does not exist"),
        ("folder", "`inputsRef` \"folder\" is a folder"),
        ("pipe", "`inputsRef` \"pipe\" is not a regular file"),
        ("out.json", "`inputsRef` \"out.json\" leads out of the shared volume"),
        ("far.json", "`inputsRef` \"far.json\" leads out of the shared volume"),
        ("../outside.json", "`inputsRef` \"../outside.json\" leads out of the shared volume"),
        ("large.json", "`inputsRef` \"large.json\" must be at most 8388608 bytes"),
        ("torn.json", "`inputsRef` \"torn.json\": `file` must be JSON: EOF while parsing"),
        ("latin.json", "`inputsRef` \"latin.json\": `file` must be UTF-8, and is not from byte 12 on"),
        ("more.json", "`inputsRef` \"more.json\": `colour` is not a known field"),
        ("neither.json", "`inputsRef` \"neither.json\": `prompt` or `item` is required"),
    ] {
        let message = it.message(named(path)).await;
        assert!(message.starts_with(want), "{path}: {message}");
        assert!(!message.contains(it.around.path().to_str().unwrap()) && !message.contains("secret"), "{message}");
    }
    let schema = Some(json!({"type": "object"}));
    let both = it.message(Spec { output_schema: schema, ..named("review.json") }).await;
    assert!(both.contains("`item` must not be given beside `outputSchema`"), "{both}");
    assert!(it.rig.model.seen().is_empty(), "nothing was asked of a model");
}

/// What a run may do is checked once more with what the file says.
#[tokio::test]
async fn work_that_needs_hands_is_refused_without_them() {
    let mut it = Mounted::new(Vec::new());
    it.rig.deps.sandboxes = None;
    it.put("a.json", REVIEW);
    let record = it.rig.go(named("a.json")).await;
    assert!(matches!(record.outcome, Some(Outcome::Failed { reason: FailReason::NoSandbox, .. })), "{record:?}");
}

#[tokio::test]
async fn limits_follow_the_kind_of_work() {
    let mut it = Mounted::new(vec![Ok(calls(&[("bash", json!({"command": "one"}))]))]);
    let mut settings = (*it.rig.deps.settings).clone();
    settings.limits.review_turns = 1;
    it.rig.deps.settings = Arc::new(settings);
    it.put("a.json", REVIEW);
    let record = it.rig.go(named("a.json")).await;
    assert!(matches!(record.outcome, Some(Outcome::Failed { reason: FailReason::Budget, .. })), "{record:?}");
    let own = Spec { budget: Budget { max_turns: Some(9), ..Budget::default() }, ..named("a.json") };
    assert!(!matches!(it.rig.go(own).await.outcome, Some(Outcome::Failed { reason: FailReason::Budget, .. })));
}

/// Lets time pass second by second while `leaf` runs; `then` is done when some have passed.
async fn passing(clock: &ManualClock, leaf: impl Future<Output = LeafEnd>, mut then: impl FnMut()) -> LeafEnd {
    let time = async {
        for second in 0_u64.. {
            tokio::time::sleep(Duration::from_millis(1)).await; // the volume has threads of its own
            clock.advance(Duration::from_secs(1));
            if second == 5 {
                then();
            }
        }
    };
    tokio::select! {
        end = Box::pin(leaf) => end,
        () = time => panic!("time ended"),
    }
}

/// A volume that is away is waited for; one that stays away fails the run, and a cancel ends the wait.
#[tokio::test]
async fn a_volume_that_is_away_is_waited_for() {
    let mut it = Mounted::new(vec![Ok(says("done"))]);
    it.rig.deps.clock = it.rig.clock.clone();
    it.put("a.json", r#"{"prompt": "x"}"#);
    let (root, aside) = (it.around.path().join("root"), it.around.path().join("aside"));
    fs::rename(&root, &aside).unwrap();
    it.patience(Duration::ZERO);
    let gone = it.message(named("a.json")).await;
    assert_eq!(gone, "`inputsRef` \"a.json\" cannot be read: the shared volume is not there");

    it.patience(Duration::from_secs(1 << 30));
    it.rig.submit(named("a.json")).await;
    let leaf = it.rig.run(it.rig.claim().await);
    let end = passing(&it.rig.clock, leaf, || fs::rename(&aside, &root).unwrap()).await;
    assert!(matches!(end, LeafEnd::Ended(Outcome::Done { .. })), "{end:?}");

    fs::rename(&root, &aside).unwrap();
    it.rig.submit(named("a.json")).await;
    let (handle, stop) = Stop::new();
    let leaf = run_leaf(&it.rig.deps, it.rig.claim().await, stop);
    let end = passing(&it.rig.clock, leaf, || handle.cancel()).await;
    assert_eq!(end, LeafEnd::Ended(Outcome::Cancelled {}));

    it.rig.deps.volume = None;
    let none = it.message(named("a.json")).await;
    assert_eq!(none, "`inputsRef` \"a.json\": no shared volume is configured here");
}
