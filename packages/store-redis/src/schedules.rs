//! What is kept of schedules: a hash in the first shard, of states that are changed here, by the core's rule, and stored
//! only if nobody changed them meanwhile. A change that is sent a second time by the connection finds itself done.

use async_trait::async_trait;
use torpor_core::schedule::{Begin, Begun, Fire, FireId, KEEP_STATES, Report, ScheduleStore, State};
use torpor_core::{Timestamp, store};

use crate::Store;
use crate::link::Lane;
use crate::script::{Args, Script, script};

/// How often a change is tried again because somebody else changed the schedule in between.
const MAX_RACES: usize = 100;

static SCHEDULES: Script = script!(reads "schedules", []);
static SCHEDULE: Script = script!(reads "schedule", []);
static KEEP_SCHEDULE: Script = script!("keep_schedule", []);

/// A state as it was read, at this time of the store.
struct Read {
    now: Timestamp,
    json: Option<Vec<u8>>,
}

fn read(json: &[u8]) -> Result<State, store::Error> {
    serde_json::from_slice(json).map_err(|e| store::Error::Unreadable(format!("the state of a schedule: {e}")))
}

#[async_trait]
impl ScheduleStore for Store {
    async fn states(&self) -> Result<Vec<State>, store::Error> {
        let mut answer = self.run(Lane::Data, self.shards.first(), &SCHEDULES, Args::new()).await?;
        let mut states = Vec::with_capacity(answer.len());
        while answer.len() > 0 {
            match read(&answer.bytes()?) {
                Ok(state) => states.push(state),
                // It must not stop the others.
                Err(e) => tracing::error!(error = %e, "a schedule is left out"),
            }
        }
        states.sort_by(|a: &State, b| a.name.cmp(&b.name));
        Ok(states)
    }

    async fn state(&self, name: &str) -> Result<Option<State>, store::Error> {
        self.schedule(name).await?.json.as_deref().map(read).transpose()
    }

    async fn watch(&self, name: &str, plan: &str, at: Timestamp) -> Result<State, store::Error> {
        let change = |state: &mut Option<State>, _| match state {
            Some(state) => state.watch(plan, at),
            None => *state = Some(State::new(name, plan, at)),
        };
        let watched = self.change_any(name, change).await?;
        watched.1.ok_or_else(|| store::Error::Failed("a schedule that is watched has a state".to_owned()))
    }

    async fn begin(&self, name: &str, begin: &Begin) -> Result<Begun, store::Error> {
        let begun = self.change_known(name, |state, now| state.begin(begin, now)).await?;
        Ok(begun.map_or(Begun::Unknown, |(begun, _)| begun))
    }

    async fn finish(&self, name: &str, fire: &FireId, report: &Report) -> Result<bool, store::Error> {
        let finished = self.change_known(name, |state, _| state.finish(fire, report)).await?;
        Ok(finished.is_some_and(|(finished, _)| finished))
    }

    async fn pass(&self, name: &str, upto: Timestamp) -> Result<(), store::Error> {
        self.change_known(name, |state, _| state.pass(upto)).await.map(drop)
    }

    async fn pause(&self, name: &str, at: Timestamp) -> Result<Option<State>, store::Error> {
        Ok(self.change_known(name, |state, _| state.pause(at)).await?.map(|((), state)| state))
    }

    async fn resume(&self, name: &str, at: Timestamp) -> Result<Option<State>, store::Error> {
        Ok(self.change_known(name, |state, _| state.resume(at)).await?.map(|((), state)| state))
    }

    async fn take_over(&self, name: &str, by: &str) -> Result<Vec<Fire>, store::Error> {
        let taken = self.change_known(name, |state, now| state.take_over(by, now)).await?;
        Ok(taken.map(|(taken, _)| taken).unwrap_or_default())
    }
}

impl Store {
    async fn schedule(&self, name: &str) -> Result<Read, store::Error> {
        let args = Args::new().text(name);
        let mut answer = self.run(Lane::Data, self.shards.first(), &SCHEDULE, args).await?;
        Ok(Read { now: Timestamp(answer.number()?), json: answer.maybe_bytes()? })
    }

    /// Changes one state, if there is one; what the change answered, and the state after it.
    async fn change_known<T: Send>(
        &self,
        name: &str,
        change: impl Fn(&mut State, Timestamp) -> T + Send + Sync,
    ) -> Result<Option<(T, State)>, store::Error> {
        let (answer, state) =
            self.change_any(name, |state, now| state.as_mut().map(|state| change(state, now))).await?;
        Ok(answer.zip(state))
    }

    /// Changes one state, or makes it; what the change answered, and what is kept after it.
    async fn change_any<T: Send>(
        &self,
        name: &str,
        change: impl Fn(&mut Option<State>, Timestamp) -> T + Send + Sync,
    ) -> Result<(T, Option<State>), store::Error> {
        for _ in 0..MAX_RACES {
            let Read { now, json } = self.schedule(name).await?;
            let before = json.as_deref().map(read).transpose()?;
            let mut state = before.clone();
            let answer = change(&mut state, now);
            let Some(changed) = state.as_ref().filter(|_| state != before) else { return Ok((answer, state)) };
            let new = serde_json::to_vec(changed).map_err(|e| store::Error::Failed(e.to_string()))?;
            let args = Args::new()
                .text(name)
                .owned(json.unwrap_or_default())
                .owned(new)
                .number(changed.considered.0)
                .number(KEEP_STATES as u64);
            if self.run(Lane::Data, self.shards.first(), &KEEP_SCHEDULE, args).await?.flag()? {
                return Ok((answer, state));
            }
        }
        Err(store::Error::Unavailable("others keep changing the schedule".to_owned()))
    }
}
