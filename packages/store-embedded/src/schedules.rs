//! What is kept of schedules: a row each, whose state is read, changed by the core's rule, and written back within one
//! command of the writer.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};
use torpor_core::schedule::{Begin, Begun, Fire, FireId, KEEP_STATES, Report, ScheduleStore, State};
use torpor_core::{Timestamp, store};

use crate::Store;
use crate::fault::Fault;
use crate::record::{sql, unreadable};
use crate::writer::Batch;

#[async_trait]
impl ScheduleStore for Store {
    async fn states(&self) -> Result<Vec<State>, store::Error> {
        self.readers.read(all).await
    }

    async fn state(&self, name: &str) -> Result<Option<State>, store::Error> {
        let name = name.to_owned();
        self.readers.read(move |conn| find(conn, &name)).await
    }

    async fn watch(&self, name: &str, plan: &str, at: Timestamp) -> Result<State, store::Error> {
        let (name, plan) = (name.to_owned(), plan.to_owned());
        self.writer.write(move |b| watch(b, &name, &plan, at)).await
    }

    async fn begin(&self, name: &str, begin: &Begin) -> Result<Begun, store::Error> {
        let begin = begin.clone();
        let begun = self.change(name, move |state, now| state.begin(&begin, now)).await?;
        Ok(begun.map_or(Begun::Unknown, |(begun, _)| begun))
    }

    async fn finish(&self, name: &str, fire: &FireId, report: &Report) -> Result<bool, store::Error> {
        let (fire, report) = (fire.clone(), report.clone());
        let finished = self.change(name, move |state, _| state.finish(&fire, &report)).await?;
        Ok(finished.is_some_and(|(finished, _)| finished))
    }

    async fn pass(&self, name: &str, upto: Timestamp) -> Result<(), store::Error> {
        self.change(name, move |state, _| state.pass(upto)).await.map(drop)
    }

    async fn pause(&self, name: &str, at: Timestamp) -> Result<Option<State>, store::Error> {
        Ok(self.change(name, move |state, _| state.pause(at)).await?.map(|((), state)| state))
    }

    async fn resume(&self, name: &str, at: Timestamp) -> Result<Option<State>, store::Error> {
        Ok(self.change(name, move |state, _| state.resume(at)).await?.map(|((), state)| state))
    }

    async fn take_over(&self, name: &str, by: &str) -> Result<Vec<Fire>, store::Error> {
        let by = by.to_owned();
        let taken = self.change(name, move |state, now| state.take_over(&by, now)).await?;
        Ok(taken.map(|(taken, _)| taken).unwrap_or_default())
    }
}

impl Store {
    /// Changes one state, if there is one; what the change answered, and the state after it.
    async fn change<T: Send + 'static>(
        &self,
        name: &str,
        change: impl FnOnce(&mut State, Timestamp) -> T + Send + 'static,
    ) -> Result<Option<(T, State)>, store::Error> {
        let name = name.to_owned();
        self.writer
            .write(move |b| {
                let Some(before) = find(b.conn, &name)? else { return Ok(None) };
                let mut state = before.clone();
                let answer = change(&mut state, Timestamp(b.now()));
                if state != before {
                    keep(b.conn, &state)?;
                }
                Ok(Some((answer, state)))
            })
            .await
    }
}

fn watch(b: &Batch<'_>, name: &str, plan: &str, at: Timestamp) -> Result<State, Fault> {
    if let Some(mut state) = find(b.conn, name)? {
        state.watch(plan, at);
        keep(b.conn, &state)?;
        return Ok(state);
    }
    let state = State::new(name, plan, at);
    keep(b.conn, &state)?;
    b.conn
        .prepare_cached(
            "DELETE FROM schedule WHERE name IN \
             (SELECT name FROM schedule ORDER BY name = ?1 DESC, considered_ms DESC, name LIMIT -1 OFFSET ?2)",
        )?
        .execute(params![name, sql(KEEP_STATES as u64)])?;
    Ok(state)
}

fn keep(conn: &Connection, state: &State) -> Result<(), Fault> {
    let json = serde_json::to_string(state).map_err(|e| store::Error::Failed(e.to_string()))?;
    conn.prepare_cached("INSERT OR REPLACE INTO schedule (name, considered_ms, state) VALUES (?1, ?2, ?3)")?
        .execute(params![state.name, sql(state.considered.0), json])?;
    Ok(())
}

fn find(conn: &Connection, name: &str) -> Result<Option<State>, Fault> {
    let mut query = conn.prepare_cached("SELECT state FROM schedule WHERE name = ?1")?;
    query.query_row([name], |row| row.get::<_, String>(0)).optional()?.map(|json| read(name, &json)).transpose()
}

/// One that cannot be read is left out: it must not stop the others, nor the store.
fn all(conn: &Connection) -> Result<Vec<State>, Fault> {
    let mut query = conn.prepare_cached("SELECT name, state FROM schedule ORDER BY name")?;
    let mut rows = query.query([])?;
    let mut states = Vec::new();
    while let Some(row) = rows.next()? {
        match read(&row.get::<_, String>(0)?, &row.get::<_, String>(1)?) {
            Ok(state) => states.push(state),
            Err(e) => tracing::error!(error = %store::Error::from(e), "a schedule is left out"),
        }
    }
    Ok(states)
}

fn read(name: &str, json: &str) -> Result<State, Fault> {
    serde_json::from_str(json).map_err(|e| unreadable(format!("the state of schedule {name:?}: {e}")))
}

/// This process holds the folder alone, so whoever had begun a fire is gone: it would be wrong to wait for them.
pub(crate) fn void_claims(conn: &Connection) -> Result<(), Fault> {
    for mut state in all(conn)?.into_iter().filter(|state| state.open() > 0) {
        state.void_claims();
        keep(conn, &state)?;
    }
    Ok(())
}
