//! `GET /sessions/{id}/export`: a session as a file.
//!
//! Owns: that it is sent page by page, whole or noticeably not. Must not know: how the lines look.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use torpor_core::envelope::Wishes;
use torpor_core::session::Summary;

use super::lines::{About, Writer};
use super::{Asked, find, unknown};
use crate::auth::Caller;
use crate::phase::Phase;
use crate::problem::Problem;
use crate::submit::Shared;
use torpor_core::Position;

/// Entries read at once; the store bounds their bytes.
const PAGE: usize = 500;

/// The media type of lines of JSON.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// The session as it is now: what is written meanwhile is not in it.
pub(crate) async fn export(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let session = Asked::read(&caller, &id, request.uri(), &["tenant"])?.session;
    let of = find(&shared, &session).await?;
    let wishes = shared.app.sessions.wishes(&session).await?.ok_or_else(unknown)?;
    let stream = Stream { shared, of, wishes: Some(wishes), sent: Position(0), writer: Some(Writer::default()) };
    // An error cuts the connection, and the last line is missing.
    let body = futures::stream::try_unfold(stream, |mut stream| async move {
        let next = stream.next().await.inspect_err(|why| {
            tracing::warn!(session = %stream.of.session.digest(), why, "an export was cut off");
        });
        Ok::<_, String>(next?.map(|bytes| (bytes, stream)))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

struct Stream {
    shared: Arc<Shared>,
    of: Summary,
    /// Until the first line is sent.
    wishes: Option<Wishes>,
    sent: Position,
    /// Until the last line is sent.
    writer: Option<Writer>,
}

impl Stream {
    /// The next lines; `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let Some(writer) = &mut self.writer else { return Ok(None) };
        if let Some(wishes) = self.wishes.take() {
            let session_id = self.of.session.session().to_owned();
            let about = About { session_id, created_at: self.of.created_at, wishes: wishes.carried() };
            let first = writer.first(about);
            return Ok(Some(first.map_err(|e| e.to_string())?.into()));
        }
        if self.sent >= self.of.head {
            let last = self.writer.take().map(Writer::last).transpose().map_err(|e| e.to_string())?;
            return Ok(last.map(Bytes::from));
        }
        if self.shared.phase.now() >= Phase::Hurrying {
            return Err("the server is shutting down".into());
        }
        let from = self.sent.next();
        let limit = PAGE.min(usize::try_from(self.of.head.0 - self.sent.0).unwrap_or(PAGE));
        let page = self.shared.app.sessions.stored(&self.of.session, self.of.life, from, limit).await;
        let mut lines = Vec::new();
        for entry in page.map_err(|e| e.to_string())? {
            if entry.position != self.sent.next() {
                return Err(format!("entry {} is missing", self.sent.next()));
            }
            self.sent = entry.position;
            lines.extend(writer.entry(&entry).map_err(|e| format!("entry {}: {e}", entry.position))?);
        }
        if lines.is_empty() { Err("the session was removed".into()) } else { Ok(Some(lines.into())) }
    }
}
