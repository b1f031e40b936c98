//! `GET /sessions/{id}` and `GET /sessions/{id}/log`: what a session holds.
//!
//! Owns: their parameters and answers. Must not know: what entries mean.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::Value;
use torpor_core::problem::Code;
use torpor_core::{Position, SessionKey};

use crate::answer::{self, Shown};
use crate::auth::Caller;
use crate::pages;
use crate::problem::Problem;
use crate::routes::query::parameters;
use crate::submit::Shared;

/// The largest and the usual page of a log, in entries.
const MAX_PAGE: usize = 500;
const DEFAULT_PAGE: usize = 100;

/// What a session is, in a few words.
pub(crate) async fn summary(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Summary<'a> {
        session_id: &'a str,
        tenant: &'a str,
        entries: Position,
        #[serde(skip_serializing_if = "Option::is_none")]
        latest_run: Option<Shown<'a>>,
    }
    let asked = Asked::read(&caller, &id, request.uri())?;
    let latest = shared.app.runs.latest(&asked.session).await?;
    let head = head(&shared, &asked.session).await?;
    if latest.is_none() && head == Position(0) {
        return Err(unknown());
    }
    let body = Summary {
        session_id: asked.session.session(),
        tenant: asked.session.tenant(),
        entries: head,
        latest_run: latest.as_ref().map(Shown::line),
    };
    Ok(answer::json(StatusCode::OK, &body))
}

/// A page of the log, oldest first.
pub(crate) async fn log(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Page {
        entries: Vec<Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_after: Option<Position>,
    }
    let asked = Asked::read(&caller, &id, request.uri())?;
    let head = head(&shared, &asked.session).await?;
    if head == Position(0) && shared.app.runs.latest(&asked.session).await?.is_none() {
        return Err(unknown());
    }
    let mut page = Page { entries: Vec::new(), next_after: None };
    let mut last = asked.after;
    for entry in shared.app.log.read(&asked.session, asked.after.next(), asked.limit).await? {
        last = entry.position;
        page.entries.push(pages::data(&entry));
    }
    page.next_after = (last < head && !page.entries.is_empty()).then_some(last);
    Ok(answer::json(StatusCode::OK, &page))
}

async fn head(shared: &Shared, session: &SessionKey) -> Result<Position, Problem> {
    Ok(shared.app.log.wait_beyond(session, Position(0), Duration::ZERO).await?)
}

fn unknown() -> Problem {
    Problem::new(Code::SessionNotFound, "This tenant has no session with this id.")
}

/// What is asked for.
struct Asked {
    session: SessionKey,
    after: Position,
    limit: usize,
}

impl Asked {
    fn read(caller: &Caller, id: &str, uri: &Uri) -> Result<Self, Problem> {
        let (mut tenant, mut after, mut limit) = (None, Position(0), DEFAULT_PAGE);
        for (name, value) in parameters(uri)? {
            let invalid = |expected: &str| Problem::field(Code::RequestInvalid, &name, expected);
            match name.as_str() {
                "tenant" => tenant = Some(value),
                "after" => {
                    let read = value.parse().map(Position);
                    after = read.map_err(|_| invalid("must be a position: an integer of 0 or more"))?;
                }
                "limit" => {
                    let read = value.parse().ok().filter(|n| (1..=MAX_PAGE).contains(n));
                    limit = read.ok_or_else(|| invalid(&format!("must be an integer from 1 to {MAX_PAGE}")))?;
                }
                _ => return Err(invalid("is not a known parameter; there are tenant, after and limit")),
            }
        }
        let tenant = caller.acts_for(tenant.as_deref()).ok_or_else(unknown)?;
        let session = SessionKey::new(tenant, id).map_err(|_| unknown())?;
        Ok(Self { session, after, limit })
    }
}
