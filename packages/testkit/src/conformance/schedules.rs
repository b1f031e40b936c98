//! Promises of [`ScheduleStore`].

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use torpor_core::schedule::{
    Begin, Begun, CLAIM, Fire, FireId, KEEP_FIRES, KEEP_STATES, MAX_OPEN, Report, ScheduleStore, State,
};
use torpor_core::{RunId, Timestamp};

use super::Time;

/// A fresh store without schedules.
pub struct Schedules {
    /// The store.
    pub store: Arc<dyn ScheduleStore>,
    /// Its time.
    pub time: Arc<dyn Time>,
    /// What has to live as long as it.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Schedules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedules").finish_non_exhaustive()
    }
}

/// The suite of the schedules seam: every promise a test. `$fresh` makes fresh [`Schedules`].
#[macro_export]
macro_rules! schedule_conformance {
    ($fresh:path) => {
        $crate::conformance_cases!($fresh, schedules: [
            a_schedule_is_watched_from_somewhen_on
            a_fire_is_begun_once
            one_of_racing_begins_wins
            a_fire_is_finished_once
            what_is_left_is_taken_over
            what_is_passed_over_is_not_begun
            a_paused_schedule_begins_nothing_by_itself
            fires_are_bounded
            states_are_bounded
        ]);
    };
}

/// When the schedules of this suite are watched from.
const START: Timestamp = Timestamp(1_790_000_000_000);

/// So many minutes later.
fn minute(n: u64) -> Timestamp {
    START.after(Duration::from_secs(60 * n))
}

fn due(n: u64, by: &str) -> Begin {
    Begin { fire: FireId::of_minute(minute(n)), due: Some(minute(n)), by: by.into() }
}

fn by_hand(id: &str, by: &str) -> Begin {
    Begin { fire: FireId::new(id).unwrap(), due: None, by: by.into() }
}

fn report(runs: usize) -> Report {
    let mut report = Report { at: START, ..Report::default() };
    (0..runs).for_each(|n| report.accepted(&n.to_string(), Some(RunId::generate())));
    report.refused("other", "envelope_invalid", "`prompt` must be \"a string\", ü");
    report
}

#[track_caller]
fn yours(begun: Begun) -> Fire {
    match begun {
        Begun::Yours(fire) => fire,
        other => panic!("it should have been begun, got {other:?}"),
    }
}

impl Schedules {
    async fn watch(&self, name: &str) -> State {
        self.store.watch(name, "0 * * * * UTC", START).await.expect("the store answers")
    }

    async fn begin(&self, begin: Begin) -> Begun {
        self.store.begin("s", &begin).await.expect("the store answers")
    }

    /// Begins and finishes a fire.
    async fn fire(&self, begin: Begin) {
        let fire = yours(self.begin(begin).await);
        assert!(self.store.finish("s", &fire.id, &report(1)).await.unwrap());
    }

    async fn state(&self) -> State {
        self.store.state("s").await.unwrap().expect("it was watched")
    }

    async fn fires(&self) -> Vec<String> {
        self.state().await.fires.iter().map(|fire| fire.id.to_string()).collect()
    }
}

/// What is new owes nothing from before, what is known keeps what it owes, and another plan owes nothing again.
pub async fn a_schedule_is_watched_from_somewhen_on(f: Schedules) {
    assert_eq!((f.store.states().await.unwrap(), f.store.state("s").await.unwrap()), (vec![], None));
    let new = f.watch("s").await;
    assert_eq!((new.name.as_str(), new.considered, new.paused), ("s", START, None));
    assert_eq!(f.store.watch("s", "0 * * * * UTC", minute(5)).await.unwrap(), new, "it is known");
    let changed = f.store.watch("s", "1 * * * * UTC", minute(5)).await.unwrap();
    assert_eq!((changed.considered, changed.plan.as_str()), (minute(5), "1 * * * * UTC"));
    f.watch("a/b ü").await;
    let names: Vec<String> = f.store.states().await.unwrap().into_iter().map(|state| state.name).collect();
    assert_eq!(names, ["a/b ü", "s"]);
}

/// A fire is begun by one caller: under its id, and not after a later one. Whoever asks twice is told the same.
pub async fn a_fire_is_begun_once(f: Schedules) {
    assert_eq!(f.begin(due(1, "a")).await, Begun::Unknown);
    f.watch("s").await;
    let fire = yours(f.begin(due(1, "a")).await);
    assert_eq!((fire.due, fire.attempts, fire.report.is_none()), (Some(minute(1)), 1, true));
    assert_eq!(fire.until, fire.begun_at.after(CLAIM));
    assert_eq!(f.begin(due(1, "a")).await, Begun::Yours(fire.clone()), "a lost answer");
    assert_eq!(f.begin(due(1, "b")).await, Begun::There(fire.clone()));
    assert_eq!(f.state().await.considered, minute(1));
    yours(f.begin(due(3, "b")).await);
    assert_eq!(f.begin(due(2, "a")).await, Begun::Passed);
    let asked = yours(f.begin(by_hand("release-7", "a")).await);
    assert_eq!((asked.due, f.state().await.considered), (None, minute(3)), "that was not due");
    assert!(matches!(f.begin(by_hand("release-7", "b")).await, Begun::There(_)));
    assert_eq!(f.fires().await, ["release-7", FireId::of_minute(minute(3)).as_str(), fire.id.as_str()]);
}

/// However many begin a fire at the same time, it is one's.
pub async fn one_of_racing_begins_wins(f: Schedules) {
    f.watch("s").await;
    let racing = (0..8).map(|n| {
        let store = f.store.clone();
        tokio::spawn(async move { store.begin("s", &due(1, &format!("w{n}"))).await })
    });
    let answers = futures::future::join_all(racing).await;
    let won = answers.into_iter().filter(|a| matches!(a.as_ref().unwrap(), Ok(Begun::Yours(_)))).count();
    assert_eq!((won, f.fires().await.len()), (1, 1));
}

/// What became of a fire comes back as it was noted, and the first note counts.
pub async fn a_fire_is_finished_once(f: Schedules) {
    f.watch("s").await;
    let fire = yours(f.begin(due(1, "a")).await);
    let first = report(3);
    assert!(f.store.finish("s", &fire.id, &first).await.unwrap());
    assert!(!f.store.finish("s", &fire.id, &report(1)).await.unwrap());
    assert!(!f.store.finish("s", &FireId::new("unknown").unwrap(), &first).await.unwrap());
    assert!(!f.store.finish("unknown", &fire.id, &first).await.unwrap());
    let done = Fire { report: Some(first), ..fire };
    assert_eq!(f.state().await.fires, std::slice::from_ref(&done));
    assert_eq!(f.begin(due(1, "a")).await, Begun::There(done), "it is nobody's any more");
}

/// A fire that is not finished in time is the next one's who asks, and only theirs.
pub async fn what_is_left_is_taken_over(f: Schedules) {
    f.watch("s").await;
    let fire = yours(f.begin(due(1, "a")).await);
    let finished = yours(f.begin(due(2, "a")).await);
    f.store.finish("s", &finished.id, &report(1)).await.unwrap();
    assert_eq!(f.store.take_over("s", "b").await.unwrap(), [], "its time is not over");
    f.time.pass(CLAIM).await;
    let taken = f.store.take_over("s", "b").await.unwrap();
    assert_eq!(taken.iter().map(|t| (&t.id, t.attempts, t.by.as_str())).collect::<Vec<_>>(), [(&fire.id, 2, "b")]);
    assert_eq!((taken[0].due, taken[0].begun_at), (fire.due, fire.begun_at));
    assert!(taken[0].until > fire.until);
    assert_eq!(f.store.take_over("s", "c").await.unwrap(), [], "it is b's now");
    assert!(f.store.finish("s", &fire.id, &report(1)).await.unwrap(), "whoever posted them");
    f.time.pass(CLAIM).await;
    assert_eq!(f.store.take_over("s", "c").await.unwrap(), []);
    assert_eq!(f.store.take_over("unknown", "c").await.unwrap(), []);
}

/// What is passed over is not begun, and nothing that was owed comes back.
pub async fn what_is_passed_over_is_not_begun(f: Schedules) {
    f.watch("s").await;
    f.store.pass("s", minute(5)).await.unwrap();
    f.store.pass("s", minute(3)).await.unwrap();
    f.store.pass("unknown", minute(3)).await.unwrap();
    assert_eq!(f.state().await.considered, minute(5));
    assert_eq!(f.begin(due(5, "a")).await, Begun::Passed);
    yours(f.begin(due(6, "a")).await);
}

/// While it is paused nothing that is due is begun, only what is asked for; afterwards nothing of that time is owed.
pub async fn a_paused_schedule_begins_nothing_by_itself(f: Schedules) {
    assert_eq!(f.store.pause("s", minute(1)).await.unwrap(), None);
    assert_eq!(f.store.resume("s", minute(1)).await.unwrap(), None);
    f.watch("s").await;
    let resumed = f.store.resume("s", minute(7)).await.unwrap().unwrap();
    assert_eq!(resumed.considered, START, "it was not paused");
    assert_eq!(f.store.pause("s", minute(1)).await.unwrap().unwrap().paused, Some(minute(1)));
    assert_eq!(f.store.pause("s", minute(2)).await.unwrap().unwrap().paused, Some(minute(1)), "since then");
    assert_eq!(f.begin(due(2, "a")).await, Begun::Paused);
    yours(f.begin(by_hand("asked", "a")).await);
    let resumed = f.store.resume("s", minute(9)).await.unwrap().unwrap();
    assert_eq!((resumed.paused, resumed.considered), (None, minute(9)));
    assert_eq!(f.begin(due(9, "a")).await, Begun::Passed);
    yours(f.begin(due(10, "a")).await);
}

/// A schedule has so many fires that are not finished and no more, and so many that are kept.
pub async fn fires_are_bounded(f: Schedules) {
    f.watch("s").await;
    for n in 0..MAX_OPEN {
        yours(f.begin(by_hand(&format!("open-{n}"), "a")).await);
    }
    assert_eq!(f.begin(by_hand("more", "a")).await, Begun::Crowded);
    assert_eq!((f.begin(due(1, "a")).await, f.state().await.considered), (Begun::Crowded, START), "it stays owed");
    f.store.finish("s", &FireId::new("open-0").unwrap(), &report(1)).await.unwrap();
    for n in 1..=KEEP_FIRES as u64 {
        f.fire(due(n, "a")).await;
    }
    let state = f.state().await;
    assert_eq!((state.fires.len(), state.open()), (KEEP_FIRES, MAX_OPEN - 1), "what is not finished is not let go");
    assert_eq!(state.fires[0].id, FireId::of_minute(minute(KEEP_FIRES as u64)));
    assert!(!state.fires.iter().any(|fire| fire.id.as_str() == "open-0"), "the oldest went first");
    assert_eq!(f.begin(due(1, "b")).await, Begun::Passed, "also one that is no longer kept");
}

/// However many schedules there were: those go that were due longest ago.
pub async fn states_are_bounded(f: Schedules) {
    let watch = |n: u64| {
        let store = f.store.clone();
        async move { store.watch(&format!("s{n}"), "plan", minute(n)).await.unwrap() }
    };
    let last = KEEP_STATES as u64;
    futures::future::join_all((0..last).map(watch)).await;
    watch(last).await;
    let states = f.store.states().await.unwrap();
    assert_eq!((states.len(), f.store.state("s0").await.unwrap()), (KEEP_STATES, None));
    assert!(f.store.state("s1").await.unwrap().is_some());
}
