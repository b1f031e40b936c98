//! What is kept of schedules, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use torpor_core::schedule::{Begin, Begun, Fire, FireId, KEEP_STATES, Report, ScheduleStore, State};
use torpor_core::{Clock, Timestamp, store};

/// A [`ScheduleStore`] that forgets everything with its process.
pub struct FakeSchedules {
    states: Mutex<BTreeMap<String, State>>,
    clock: Arc<dyn Clock>,
}

impl FakeSchedules {
    /// An empty one.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { states: Mutex::default(), clock })
    }

    fn change<T>(&self, name: &str, change: impl FnOnce(&mut State, Timestamp) -> T) -> Option<(T, State)> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states.get_mut(name)?;
        let answer = change(state, self.clock.now());
        Some((answer, state.clone()))
    }
}

#[async_trait]
impl ScheduleStore for FakeSchedules {
    async fn states(&self) -> Result<Vec<State>, store::Error> {
        Ok(self.states.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect())
    }

    async fn state(&self, name: &str) -> Result<Option<State>, store::Error> {
        Ok(self.change(name, |_, _| ()).map(|((), state)| state))
    }

    async fn watch(&self, name: &str, plan: &str, at: Timestamp) -> Result<State, store::Error> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states.entry(name.to_owned()).or_insert_with(|| State::new(name, plan, at));
        state.watch(plan, at);
        let state = state.clone();
        if states.len() > KEEP_STATES {
            let others = states.values().filter(|other| other.name != name);
            let oldest = others.min_by_key(|other| other.considered).map(|other| other.name.clone());
            oldest.map(|oldest| states.remove(&oldest));
        }
        Ok(state)
    }

    async fn begin(&self, name: &str, begin: &Begin) -> Result<Begun, store::Error> {
        Ok(self.change(name, |state, now| state.begin(begin, now)).map_or(Begun::Unknown, |(begun, _)| begun))
    }

    async fn finish(&self, name: &str, fire: &FireId, report: &Report) -> Result<bool, store::Error> {
        Ok(self.change(name, |state, _| state.finish(fire, report)).is_some_and(|(finished, _)| finished))
    }

    async fn pass(&self, name: &str, upto: Timestamp) -> Result<(), store::Error> {
        self.change(name, |state, _| state.pass(upto));
        Ok(())
    }

    async fn pause(&self, name: &str, at: Timestamp) -> Result<Option<State>, store::Error> {
        Ok(self.change(name, |state, _| state.pause(at)).map(|((), state)| state))
    }

    async fn resume(&self, name: &str, at: Timestamp) -> Result<Option<State>, store::Error> {
        Ok(self.change(name, |state, _| state.resume(at)).map(|((), state)| state))
    }

    async fn take_over(&self, name: &str, by: &str) -> Result<Vec<Fire>, store::Error> {
        Ok(self.change(name, |state, now| state.take_over(by, now)).map(|(taken, _)| taken).unwrap_or_default())
    }
}
