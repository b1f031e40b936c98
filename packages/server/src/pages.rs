//! Pages of a log, rendered for followers.
//!
//! Owns: how an entry looks as an event, and that whoever needs the same page at the same time gets the same bytes: it is
//! read and rendered once, and a thousand followers that stall at one place hold it once. Must not know: connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use torpor_core::entry::{Body, Entry};
use torpor_core::log::SessionLog;
use torpor_core::{Position, RunId, SessionKey, store};

/// Entries read at once; what one follower may hold in memory, within the store's own bound on their bytes.
const PAGE: usize = 32;

/// An entry as an event: its position is the event's id.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) position: Position,
    /// The run it belongs to; `None` for entries of the session as such.
    pub(crate) run: Option<RunId>,
    /// Whether it ends that run.
    pub(crate) is_end: bool,
    /// Whether it is about a gate: the run waits for a person, or did a moment ago.
    pub(crate) is_gate: bool,
    pub(crate) bytes: Bytes,
}

/// By run, not by session: an id of a session may come again after its removal, with another log.
type Key = (RunId, Position);
/// Filled by the first who needs it. Never with nothing: where nothing is yet, something may come.
type Cell = OnceCell<Vec<Event>>;

/// The pages that are held right now.
#[derive(Debug, Default)]
pub(crate) struct Pages(Mutex<HashMap<Key, Weak<Cell>>>);

/// A page, held for as long as this lives.
pub(crate) struct Page {
    pages: Arc<Pages>,
    key: Key,
    cell: Arc<Cell>,
}

impl Pages {
    /// The entries of a session from `from` on, for followers of `run`; none where there are none yet. Cancellation safe.
    ///
    /// Entries never change, so a page that somebody holds is as good as a fresh one, if perhaps shorter.
    pub(crate) async fn read(
        self: &Arc<Self>,
        log: &dyn SessionLog,
        (session, run): (&SessionKey, &RunId),
        from: Position,
    ) -> Result<Page, store::Error> {
        let page = self.hold((run.clone(), from));
        let rendered = page.cell.get_or_try_init(async || match log.read(session, from, PAGE).await {
            Ok(entries) if entries.is_empty() => Err(None),
            Ok(entries) => Ok(entries.iter().map(event).collect()),
            Err(e) => Err(Some(e)),
        });
        match rendered.await {
            Err(Some(e)) => Err(e),
            Ok(_) | Err(None) => Ok(page),
        }
    }

    fn hold(self: &Arc<Self>, key: Key) -> Page {
        let mut all = self.lock();
        let held = all.get(&key).and_then(Weak::upgrade);
        let cell = held.unwrap_or_else(|| {
            let cell = Arc::<Cell>::default();
            all.insert(key.clone(), Arc::downgrade(&cell));
            cell
        });
        Page { pages: Arc::clone(self), key, cell }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Weak<Cell>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Page {
    /// What is on it, in order.
    pub(crate) fn events(&self) -> &[Event] {
        self.cell.get().map_or(&[], Vec::as_slice)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Under the lock nobody else can begin to hold it; ours is the last if it is the only one.
        let mut all = self.pages.lock();
        if Arc::strong_count(&self.cell) == 1 {
            all.remove(&self.key);
        }
    }
}

/// An entry as clients see it.
pub(crate) fn data(entry: &Entry) -> Value {
    // Entries came out of the store as JSON; they go back into it.
    let mut data = serde_json::to_value(&entry.body).unwrap_or_default();
    if let Value::Object(map) = &mut data {
        map.insert("position".into(), json!(entry.position));
        map.insert("at".into(), json!(entry.at.rfc3339()));
        // In the store times are numbers; outside they are all written alike.
        if let Body::GateRequested { expires_at: Some(end), .. } = &entry.body {
            map.insert("expiresAt".into(), json!(end.rfc3339()));
        }
    }
    data
}

fn event(entry: &Entry) -> Event {
    let data = data(entry);
    Event {
        position: entry.position,
        run: entry.body.run().cloned(),
        is_end: matches!(entry.body, Body::RunEnded { .. }),
        is_gate: matches!(entry.body, Body::GateRequested { .. } | Body::GateDecided { .. }),
        bytes: frame(Some(entry.position), data["type"].as_str().unwrap_or("entry"), &data),
    }
}

/// An event on the wire. JSON has no line breaks of its own, so one `data` line is enough.
pub(crate) fn frame(id: Option<Position>, kind: &str, data: &Value) -> Bytes {
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    Bytes::from(format!("{id}event: {kind}\ndata: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use futures::future::join_all;
    use torpor_core::gate::Question;
    use torpor_core::log::{Append, AppendError, Opened};
    use torpor_core::{Epoch, Timestamp};

    use super::*;

    /// A log of two entries that counts how often it is read.
    #[derive(Default)]
    struct Counted(AtomicUsize);

    #[async_trait]
    impl SessionLog for Counted {
        async fn append(&self, _: Append) -> Result<Position, AppendError> {
            Err(store::Error::Failed("read only".into()).into())
        }

        async fn open(&self, _: &SessionKey) -> Result<Option<Opened>, store::Error> {
            Ok(None)
        }

        async fn wait_beyond(&self, _: &SessionKey, _: Position, _: Duration) -> Result<Position, store::Error> {
            Ok(Position(2))
        }

        async fn read(&self, _: &SessionKey, from: Position, limit: usize) -> Result<Vec<Entry>, store::Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let body = || Body::Checkpoint { summary: "so far".into(), keep_from: Position(1), open_run: None };
            let entry = |n| Entry { position: Position(n), at: Timestamp(0), epoch: Epoch(1), body: body() };
            Ok((from.0..3).map(entry).take(limit).collect())
        }
    }

    #[test]
    fn times_are_written_as_everywhere_outside() {
        let body = Body::GateRequested {
            run: RunId::parse("run_1").unwrap(),
            gate: 0,
            tool_use: "use_1".into(),
            question: Question { summary: "s".into(), proposed_action: "p".into(), call: None },
            expires_at: Some(Timestamp(1_000)),
        };
        let shown = data(&Entry { position: Position(4), at: Timestamp(0), epoch: Epoch(1), body });
        assert_eq!(
            (&shown["at"], &shown["expiresAt"]),
            (&json!("1970-01-01T00:00:00.000Z"), &json!("1970-01-01T00:00:01.000Z"))
        );
    }

    #[tokio::test]
    async fn who_needs_the_same_page_shares_it_and_nothing_is_left_behind() {
        let (pages, log, session) = (Arc::<Pages>::default(), Counted::default(), SessionKey::new("t", "s").unwrap());
        let run = RunId::generate();
        let read = |from| pages.read(&log, (&session, &run), Position(from));
        let held: Vec<Page> = join_all((0..100).map(|_| read(1))).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(log.0.load(Ordering::Relaxed), 1);
        let bytes = held[0].events()[1].bytes.clone();
        assert!(bytes.starts_with(b"id: 2\nevent: checkpoint\ndata: {"), "{bytes:?}");
        assert!(held.iter().all(|p| p.events().len() == 2 && p.events()[1].bytes.as_ptr() == bytes.as_ptr()));
        // Nothing is remembered of a place where nothing is yet.
        assert!(read(3).await.unwrap().events().is_empty() && read(3).await.unwrap().events().is_empty());
        assert_eq!(log.0.load(Ordering::Relaxed), 3);
        assert_eq!(read(2).await.unwrap().events().len(), 1);
        // What a follower of a run holds is nothing to those of another: the session may have been made anew.
        pages.read(&log, (&session, &RunId::generate()), Position(1)).await.unwrap();
        assert_eq!(log.0.load(Ordering::Relaxed), 5);
        drop(held);
        assert!(pages.lock().is_empty());
    }
}
