//! What people ask a scheduler: how schedules stand, pause, resume, fire now.

use super::{Arc, Begin, Begun, Duration, Fire, FireId, Schedule, Scheduler, State, Timestamp, store};

/// How long whoever asks for a fire waits for its items to be posted.
const WAIT: Duration = Duration::from_secs(10);

/// Fires to come that are shown.
const SHOW_NEXT: usize = 5;

/// A schedule and how it stands.
#[derive(Debug, Clone)]
pub struct View {
    /// What its file says.
    pub schedule: Arc<Schedule>,
    /// What is kept of it; `None` for one that was not watched yet.
    pub state: Option<State>,
    /// When it is due next, the soonest first; empty while it is paused.
    pub next: Vec<Timestamp>,
}

/// What became of a wish for a fire.
#[derive(Debug, Clone)]
pub enum Fired {
    /// It is there: begun for this wish or before. Without a report, its items are still being posted.
    There(Fire),
    /// As many fires of the schedule are under way as there may be: try again later.
    Crowded,
}

impl Scheduler {
    /// All schedules, by name.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list(&self) -> Result<Vec<View>, store::Error> {
        let mut states = self.0.store.states().await?;
        let now = self.0.clock.now();
        let view = |schedule: &Arc<Schedule>| {
            let state = states.iter().position(|state| state.name == schedule.name).map(|at| states.swap_remove(at));
            View::of(schedule, state, now)
        };
        Ok(self.0.source.look().schedules.values().map(view).collect())
    }

    /// What is wrong with the files, each with its place.
    #[must_use]
    pub fn problems(&self) -> Arc<Vec<String>> {
        self.0.source.look().problems
    }

    /// What the file of a schedule says.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Schedule>> {
        self.0.source.look().schedules.get(name).cloned()
    }

    /// How a schedule stands.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn view(&self, schedule: &Arc<Schedule>) -> Result<View, store::Error> {
        let state = self.0.store.state(&schedule.name).await?;
        Ok(View::of(schedule, state, self.0.clock.now()))
    }

    /// Pauses a schedule, or ends that; how it stands then. Durable when it returns.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn pause(&self, schedule: &Arc<Schedule>, paused: bool) -> Result<View, store::Error> {
        self.known(schedule).await?;
        let now = self.0.clock.now();
        let state = if paused {
            self.0.store.pause(&schedule.name, now).await?
        } else {
            self.0.store.resume(&schedule.name, now).await?
        };
        tracing::info!(schedule = schedule.name, paused, "a schedule was paused or resumed");
        Ok(View::of(schedule, state, now))
    }

    /// Fires a schedule now, whether or not it is paused. Without an id it is a fire of its own; with one it is that fire,
    /// however often it is asked for. Answers when its items are posted, or after a few seconds. Cancellation safe: what
    /// was begun goes on.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn fire(&self, schedule: &Arc<Schedule>, id: Option<FireId>) -> Result<Fired, store::Error> {
        self.known(schedule).await?;
        let name = &schedule.name;
        let id = id.unwrap_or_else(|| FireId::by_hand(self.0.clock.now()));
        let begin = Begin { fire: id.clone(), due: None, by: self.0.by.clone() };
        match self.0.store.begin(name, &begin).await? {
            Begun::Yours(fire) => {
                self.0.posting.begin(schedule, fire.clone());
                let posted = async {
                    self.0.posting.ended(name, &id).await;
                    self.0.store.state(name).await
                };
                let state = tokio::select! {
                    state = posted => state?,
                    () = self.0.clock.sleep(WAIT) => None,
                };
                let now = state.and_then(|state| state.fires.into_iter().find(|it| it.id == id));
                Ok(Fired::There(now.unwrap_or(fire)))
            }
            Begun::There(fire) => Ok(Fired::There(fire)),
            Begun::Crowded => Ok(Fired::Crowded),
            other => Err(store::Error::Failed(format!("a wish for a fire was answered {other:?}"))),
        }
    }

    /// Makes sure that the store knows a schedule.
    async fn known(&self, schedule: &Arc<Schedule>) -> Result<(), store::Error> {
        if self.0.store.state(&schedule.name).await?.is_none()
            && let Some(when) = &schedule.when
        {
            self.0.memory().watched.remove(&schedule.name);
            self.watch(schedule, when).await?;
        }
        Ok(())
    }
}

impl View {
    fn of(schedule: &Arc<Schedule>, state: Option<State>, now: Timestamp) -> Self {
        let paused = state.as_ref().is_some_and(|state| state.paused.is_some());
        let when = schedule.when.as_ref().filter(|_| !paused);
        let next = when.into_iter().flat_map(|when| {
            std::iter::successors(when.next(now), |due| when.next(*due)).take(SHOW_NEXT).collect::<Vec<_>>()
        });
        Self { schedule: Arc::clone(schedule), state, next: next.collect() }
    }
}
