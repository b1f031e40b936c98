//! `DELETE /sessions/{id}`: removes a session and says what it removed.
//!
//! Owns: the answer, and that the sandbox is told at once. Must not know: what a session is made of.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use torpor_core::problem::Code;
use torpor_core::sandbox::Forgotten;
use torpor_core::session::{Removal, Removed, ToForget};
use torpor_core::{SessionKey, store};

use super::{Asked, unknown};
use crate::answer::{self, with_run};
use crate::auth::Caller;
use crate::problem::Problem;
use crate::submit::{Shared, ToTheEnd, check_open};

/// How long the answer waits for the sandbox; what takes longer goes on without it.
const SANDBOX_WAIT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Gone<'a> {
    session_id: &'a str,
    removed: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<Kept>,
    sandbox: Sandbox,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    entries: u64,
    runs: u64,
    gates: u64,
    dead_letters: u64,
}

#[derive(Serialize)]
struct Kept {
    entries: u64,
    forks: u64,
    reason: &'static str,
}

/// What became of the sandbox's side.
#[derive(Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Sandbox {
    /// The session never had one.
    None,
    /// It has forgotten the session; this is what it removed.
    Forgotten(Forgotten),
    /// It has not answered yet, and will be asked again. Until then the id cannot be used.
    Pending,
}

/// 200 with what was removed. Once begun, it is done whether or not the client stays.
pub(crate) async fn remove(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    check_open(&shared)?;
    let session = Asked::read(&caller, &id, request.uri(), &["tenant"])?.session;
    let (removal, sandbox) = ToTheEnd::new(remove_whole(Arc::clone(&shared), session.clone())).await?;
    let removed = match removal {
        Removal::Removed(removed) => removed,
        Removal::Unknown => return Err(unknown()),
        Removal::Busy(run) => {
            let detail = "A run of the session is queued, running or paused. Cancel it, or wait for its end.";
            return Err(with_run(Problem::new(Code::SessionBusy, detail), &run));
        }
    };
    let Removed { entries, runs, gates, dead_letters, kept, kept_for, .. } = removed;
    let reason = "forks of the session share these entries; they go with the last of them";
    let body = Gone {
        session_id: session.session(),
        removed: Counts { entries, runs, gates, dead_letters },
        kept: (kept > 0).then_some(Kept { entries: kept, forks: kept_for, reason }),
        sandbox,
    };
    Ok(answer::json(StatusCode::OK, &body))
}

async fn remove_whole(shared: Arc<Shared>, session: SessionKey) -> Result<(Removal, Sandbox), store::Error> {
    let removal = shared.app.sessions.remove(&session).await?;
    let Removal::Removed(removed) = &removal else { return Ok((removal, Sandbox::None)) };
    let Some(epoch) = removed.forget else { return Ok((removal, Sandbox::None)) };
    let Some(hands) = shared.app.sandbox.clone() else { return Ok((removal, Sandbox::Pending)) };
    let what = ToForget { session, epoch };
    let forgetting = torpor_harness::forget(&*shared.app.sessions, &*hands, &what);
    let sandbox = match tokio::time::timeout(SANDBOX_WAIT, forgetting).await {
        Ok(Ok(forgotten)) => Sandbox::Forgotten(forgotten),
        Ok(Err(e)) => {
            tracing::warn!(session = %what.session.digest(), error = %e, "the sandbox has not forgotten a removed session yet");
            Sandbox::Pending
        }
        Err(_) => Sandbox::Pending,
    };
    Ok((removal, sandbox))
}
