//! `POST /runs/{runId}/cancel`.
//!
//! Owns: its answers. Must not know: how a run is stopped.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use torpor_core::observe;
use torpor_core::queue::Cancelled;
use torpor_core::run::Record;
use torpor_core::{RunId, Timestamp};

use crate::answer::{self, Shown};
use crate::auth::Caller;
use crate::problem::Problem;
use crate::routes::query::run_of;
use crate::submit::Shared;

/// How long a caller waits for the end of a run that somebody works on. Commands are gone within two seconds.
const WAIT: Duration = Duration::from_secs(5);

/// 200 with the record once the run has ended, however it did; 202 if that takes longer than a caller should wait.
pub(crate) async fn cancel(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let run = run_of(request.uri(), "/cancel")?;
    caller.may_touch(&shared, &run).await?;
    let asked = shared.app.clock.now();
    let record = match shared.app.queue.cancel(&run).await? {
        Cancelled::Unknown => return Err(Problem::unknown_run()),
        Cancelled::Ended(record) => {
            tell(&shared, &record, asked);
            record
        }
        Cancelled::Asked(record) => wait(&shared, &run, record).await?,
    };
    let status = if record.status.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(answer::json(status, &Shown::whole(&record)))
}

/// A run that never started has no leaf that could tell of its end.
fn tell(shared: &Shared, record: &Record, asked: Timestamp) {
    if let (None, Some(outcome), Some(at)) = (record.log_from, &record.outcome, record.ended_at)
        && at >= asked
    {
        shared.app.observer.observe(&observe::ended(outcome, record.created_at, at));
    }
}

/// Waits a little for the run's end; the record as it is then.
pub(crate) async fn wait(shared: &Shared, run: &RunId, mut record: Box<Record>) -> Result<Box<Record>, Problem> {
    let began = shared.app.clock.now();
    while !record.status.is_terminal() {
        let left = WAIT.saturating_sub(shared.app.clock.now().since(began));
        if left.is_zero() {
            break;
        }
        match shared.app.runs.wait(run, record.version, left).await? {
            Some(next) => *record = next,
            None => return Err(Problem::unknown_run()),
        }
    }
    Ok(record)
}
