//! `GET /dead-letters` and `POST /runs/{runId}/redrive`: what was given up, and another chance for it.
//!
//! Owns: their parameters and answers. Must not know: why a run is given up, or what becomes of it in the queue.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use torpor_core::RunId;
use torpor_core::dead_letter::{Again, Filter, Letter, Redrive, Redriven};
use torpor_core::observe::Event;
use torpor_core::problem::Code;

use crate::answer::{self, location};
use crate::auth::Caller;
use crate::problem::Problem;
use crate::routes::query::{Narrowed, page_problem, run_of};
use crate::submit::{Shared, ToTheEnd, check_open};

/// The largest and the usual page of a list, in dead letters.
const MAX_PAGE: usize = 200;
const DEFAULT_PAGE: usize = 50;

/// A dead letter as a line of a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    run_id: &'a RunId,
    session_id: &'a str,
    tenant: &'a str,
    reason: &'a str,
    given_up_at: String,
    /// It could not be read: driven again it is the same run.
    unread: bool,
}

impl<'a> Line<'a> {
    fn of(it: &'a Letter) -> Self {
        Self {
            run_id: &it.run,
            session_id: &it.session,
            tenant: &it.tenant,
            reason: &it.reason,
            given_up_at: it.at.rfc3339(),
            unread: it.unread,
        }
    }
}

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Page<'a> {
        dead_letters: Vec<Line<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_cursor: Option<&'a str>,
    }
    let Narrowed { tenant, limit, cursor } = Narrowed::read(request.uri(), MAX_PAGE, DEFAULT_PAGE)?;
    let mut filter = Filter { tenant, limit, cursor };
    if !caller.narrow(&mut filter.tenant) {
        return Ok(answer::json(StatusCode::OK, &Page { dead_letters: Vec::new(), next_cursor: None }));
    }
    let page = shared.app.letters.letters(&filter).await.map_err(|e| page_problem(e, filter.cursor.is_some()))?;
    let body = Page { dead_letters: page.letters.iter().map(Line::of).collect(), next_cursor: page.next.as_deref() };
    Ok(answer::json(StatusCode::OK, &body))
}

/// 202 with the run that does the work, also when it was driven again before.
pub(crate) async fn redrive(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    check_open(&shared)?;
    let run = run_of(request.uri(), "/redrive")?;
    let redrive = Redrive {
        run: run.clone(),
        tenant: caller.tenant().map(str::to_owned),
        new_run: RunId::generate(),
        trace: request.extensions().get().cloned(),
    };
    let letters = Arc::clone(&shared.app.letters);
    // Once begun, it happens whether or not the client stays.
    let redriven = ToTheEnd::new(async move { letters.redrive(&redrive).await }).await?;
    let refused = |detail: &str| Err(Problem::new(Code::NotDeadLetter, detail));
    match redriven {
        Redriven::Queued(again) => {
            if again.run != run {
                shared.app.observer.observe(&Event::Accepted);
            }
            Ok(accepted(&run, &again))
        }
        Redriven::Before(again) => Ok(accepted(&run, &again)),
        Redriven::NotDead => {
            refused("The run was not given up, or its dead letter has gone; `/dead-letters` lists them.")
        }
        Redriven::NoWork => refused("This dead letter is about no run: there is no work that could be done again."),
        Redriven::Full => Err(Problem::queue_full()),
        Redriven::Unknown => Err(Problem::unknown_run()),
    }
}

fn accepted(of: &RunId, again: &Again) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Accepted<'a> {
        status: &'static str,
        session_id: &'a str,
        run_id: &'a RunId,
        /// Absent where it is the same run.
        #[serde(skip_serializing_if = "Option::is_none")]
        redrive_of: Option<&'a RunId>,
    }
    let body = Accepted {
        status: "accepted",
        session_id: again.session.session(),
        run_id: &again.run,
        redrive_of: (again.run != *of).then_some(of),
    };
    let mut response = answer::json(StatusCode::ACCEPTED, &body);
    if let Ok(value) = HeaderValue::from_str(&location(&again.run)) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}
