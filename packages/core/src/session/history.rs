//! What is kept beside a log, worked out entry by entry; and whether entries that came from elsewhere can be a log.
//!
//! Pure. Must not know: stores, or what a brain makes of entries.

use super::Stored;
use crate::entry::{Body, RunTotals};
use crate::id::{Position, RunId};
use crate::outcome::Outcome;

/// Numbers in a log are below this: 2^53, which every reader of JSON can hold.
const MAX_NUMBER: u64 = 1 << 53;

/// What changed beside the log with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The entry.
    pub position: Position,
    /// Where resume begins from then on.
    pub resume_from: Position,
    /// The number of the next gate from then on.
    pub next_gate: u64,
}

/// A log that is read from its first entry on.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    mark: Mark,
    open: Option<(RunId, RunTotals)>,
}

impl Default for History {
    fn default() -> Self {
        let mark = Mark { position: Position(0), resume_from: Position(1), next_gate: 0 };
        Self { mark, open: None }
    }
}

impl History {
    /// Takes the next entry; answers a mark if one of its numbers changed.
    ///
    /// # Errors
    /// What is wrong with the entry, in words that name it. The history is then as it was.
    pub fn take(&mut self, entry: &Stored) -> Result<Option<Mark>, String> {
        let position = self.mark.position.next();
        if entry.position != position {
            return Err(format!("entry {position}: `position` must be {position}, got {}", entry.position));
        }
        for (name, number) in [("at", entry.at.0), ("epoch", entry.epoch.0)] {
            if number >= MAX_NUMBER {
                return Err(format!("entry {position}: `{name}` must be below 2^53, got {number}"));
            }
        }
        let body = entry.decode().map_err(|e| format!("entry {position}: {e}"))?;
        let mut mark = Mark { position, ..self.mark };
        match &body {
            Body::Checkpoint { keep_from, .. } => {
                if keep_from.0 == 0 || *keep_from > position {
                    return Err(format!("entry {position}: `keepFrom` must be from 1 to {position}, got {keep_from}"));
                }
                mark.resume_from = *keep_from;
            }
            Body::GateRequested { gate, .. } => {
                if *gate != mark.next_gate {
                    return Err(format!("entry {position}: `gate` must be {}, got {gate}", mark.next_gate));
                }
                mark.next_gate += 1;
            }
            _ => {}
        }
        self.follow(&body);
        let changed = (mark.resume_from, mark.next_gate) != (self.mark.resume_from, self.mark.next_gate);
        self.mark = mark;
        Ok(changed.then_some(mark))
    }

    /// The numbers as they are after the last entry.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The entry that ends the run under way, if there is one.
    #[must_use]
    pub fn closing(&self) -> Option<Body> {
        let (run, spent) = self.open.clone()?;
        Some(Body::RunEnded { run, outcome: Outcome::Cancelled {}, spent })
    }

    fn follow(&mut self, body: &Body) {
        match (body, &mut self.open) {
            (Body::RunEnded { .. }, open) => *open = None,
            (Body::RunStarted { run, .. }, open) => *open = Some((run.clone(), RunTotals::default())),
            (Body::ModelRequested { .. } | Body::SummaryRequested { .. }, Some((_, spent))) => {
                spent.turns = spent.turns.saturating_add(1);
            }
            (Body::ModelAnswered { message, cost, .. }, Some((_, spent))) => {
                spent.usage += message.usage;
                spent.charge(*cost);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::entry;
    use crate::id::Epoch;

    fn stored(position: u64, body: &Body) -> Stored {
        let body = String::from_utf8(entry::encode(body).unwrap()).unwrap();
        Stored { position: Position(position), at: Timestamp(5), epoch: Epoch(1), schema: entry::SCHEMA, body }
    }

    fn checkpoint(keep_from: u64) -> Body {
        Body::Checkpoint { summary: "s".into(), keep_from: Position(keep_from), open_run: None }
    }

    fn started(run: &RunId) -> Body {
        Body::RunStarted {
            run: run.clone(),
            prompt: "p".into(),
            model: "m".into(),
            workdir: None,
            tools: Vec::new(),
            item: None,
        }
    }

    #[test]
    fn marks_are_worked_out_and_an_open_run_is_closed() {
        let run = RunId::generate();
        let mut history = History::default();
        assert_eq!(history.take(&stored(1, &started(&run))), Ok(None));
        let mark = Mark { position: Position(2), resume_from: Position(1), next_gate: 0 };
        assert_eq!(history.take(&stored(2, &checkpoint(1))), Ok(None), "it begins where it began");
        let request = Body::ModelRequested { run: run.clone(), fingerprint: String::new(), estimate: 1, cost: None };
        history.take(&stored(3, &request)).unwrap();
        let moved = Mark { position: Position(4), resume_from: Position(3), ..mark };
        assert_eq!(history.take(&stored(4, &checkpoint(3))), Ok(Some(moved)));
        let spent = RunTotals { turns: 1, ..RunTotals::default() };
        let closing = Body::RunEnded { run: run.clone(), outcome: Outcome::Cancelled {}, spent };
        assert_eq!(history.closing(), Some(closing.clone()));
        history.take(&stored(5, &closing)).unwrap();
        assert_eq!(history.closing(), None);
        assert_eq!(history.mark(), Mark { position: Position(5), ..moved });
    }

    #[test]
    fn what_cannot_be_a_log_is_named() {
        let good = stored(1, &checkpoint(1));
        for (bad, says) in [
            (stored(2, &checkpoint(1)), "`position` must be 1, got 2"),
            (stored(1, &checkpoint(2)), "`keepFrom` must be from 1 to 1, got 2"),
            (Stored { schema: 99, ..good.clone() }, "schema 99"),
            (Stored { body: "{".into(), ..good.clone() }, "damaged"),
            (Stored { epoch: Epoch(u64::MAX), ..good.clone() }, "`epoch` must be below 2^53"),
            (Stored { at: Timestamp(MAX_NUMBER), ..good }, "`at` must be below 2^53"),
        ] {
            let mut history = History::default();
            let refused = history.take(&bad).unwrap_err();
            assert!(refused.starts_with("entry 1: ") && refused.contains(says), "{refused}");
            assert_eq!(history, History::default());
        }
    }
}
