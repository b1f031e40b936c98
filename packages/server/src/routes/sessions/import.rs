//! `POST /sessions/import`: a session from a file.
//!
//! Owns: reading the body line by line within its limits, and what is said of a file that is not whole. Must not know:
//! what entries mean, or how they are stored.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::{Buf as _, Bytes, BytesMut};
use http::{StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde::Serialize;
use torpor_core::problem::Code;
use torpor_core::session::{Import, ImportError, Importer, Stored};
use torpor_core::{Position, SessionKey, id};

use super::forgetting;
use super::lines::{Read, Reader};
use crate::answer;
use crate::auth::Caller;
use crate::phase::Phase;
use crate::problem::Problem;
use crate::routes::query::parameters;
use crate::submit::{Shared, ToTheEnd, check_open};
use torpor_core::json;

/// Imports at once; a further one is told to come back.
pub(crate) const AT_ONCE: usize = 2;

/// A line may be so many times as long as a request body: an entry holds at most a prompt, or what a tool or a model
/// answered.
const LINE_FACTOR: usize = 2;

/// Entries that are handed on at once, at most so many and until they are so many bytes.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 256 << 10;

/// 201 with the session, once all of the file was accepted. A client that leaves before the end leaves nothing behind.
pub(crate) async fn import(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Imported<'a> {
        session_id: &'a str,
        tenant: &'a str,
        entries: Position,
    }
    check_open(&shared)?;
    let (parts, body) = request.into_parts();
    let session = session(&caller, &parts.uri)?;
    let Ok(_turn) = shared.imports.try_acquire() else {
        let detail = format!("There are {AT_ONCE} imports under way, which is as many as there may be. Try again.");
        return Err(Problem::new(Code::Unavailable, detail).closing());
    };
    let importer = receive(&shared, &session, Lines::new(body, &shared)?).await?;
    // From here on it happens whether or not the client stays.
    let entries = ToTheEnd::new(importer.finish()).await.map_err(refused)?;
    let body = Imported { session_id: session.session(), tenant: session.tenant(), entries };
    Ok(answer::json(StatusCode::CREATED, &body))
}

/// Hands on what the lines hold, until the last one was read.
async fn receive(shared: &Shared, session: &SessionKey, mut lines: Lines<'_>) -> Result<Box<dyn Importer>, Problem> {
    let mut reader = Reader::default();
    let mut importer: Option<Box<dyn Importer>> = None;
    let (mut page, mut bytes): (Vec<Stored>, _) = (Vec::new(), 0);
    while let Some(line) = lines.next(reader.lines() + 1).await? {
        if importer.is_none() {
            bounded(1, &line)?;
        }
        match (reader.line(&line).map_err(|why| wrong(&why))?, &mut importer) {
            (Read::Session(about), _) => {
                let import = Import { session: session.clone(), created_at: about.created_at, wishes: about.wishes };
                importer = Some(shared.app.sessions.import(import).await.map_err(refused)?);
            }
            (Read::Entry(entry), Some(importer)) => {
                bounded(reader.lines(), entry.body.as_bytes())?;
                bytes += entry.body.len();
                page.push(entry);
                if page.len() >= PAGE || bytes >= PAGE_BYTES {
                    importer.push(std::mem::take(&mut page)).await.map_err(refused)?;
                    bytes = 0;
                }
            }
            (Read::Entry(_) | Read::End, _) => {}
        }
    }
    match importer {
        Some(mut importer) if reader.has_ended() => {
            if !page.is_empty() {
                importer.push(page).await.map_err(refused)?;
            }
            Ok(importer)
        }
        _ => Err(wrong(&format!("the file is cut off after line {}: its last line must be `end`", reader.lines()))),
    }
}

/// Refuses JSON that would take many times its memory, before anybody makes values of it.
fn bounded(line: u64, text: &[u8]) -> Result<(), Problem> {
    json::parse(text).map(drop).map_err(|e| wrong(&format!("line {line}: {e}")))
}

/// Whose and which the new session is to be.
fn session(caller: &Caller, uri: &Uri) -> Result<SessionKey, Problem> {
    let (mut tenant, mut session) = (None, None);
    for (name, value) in parameters(uri)? {
        match name.as_str() {
            "tenant" => tenant = Some(value),
            "sessionId" => session = Some(value),
            _ => {
                let expected = "is not a known parameter; there are sessionId and tenant";
                return Err(Problem::field(Code::RequestInvalid, &name, expected));
            }
        }
    }
    for (name, value) in [("tenant", &tenant), ("sessionId", &session)] {
        let checked = value.as_deref().map_or(Ok(()), id::check_id);
        checked.map_err(|e| Problem::field(Code::RequestInvalid, name, e.to_string()))?;
    }
    let tenant = caller.acts_for(tenant.as_deref()).ok_or_else(|| {
        Problem::new(Code::Forbidden, "The API key belongs to another tenant than the one that `tenant` names.")
    })?;
    let session = session.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    SessionKey::new(tenant, &session).map_err(|e| Problem::field(Code::RequestInvalid, "sessionId", e.to_string()))
}

/// What is wrong with the file; the rest of it is not read.
fn wrong(why: &str) -> Problem {
    Problem::new(Code::ImportInvalid, format!("The file cannot be imported: {why}.")).closing()
}

fn refused(e: ImportError) -> Problem {
    match e {
        ImportError::Taken => {
            let detail = "There is a session with this `sessionId`. Use a new one, or none to have one made.";
            Problem::new(Code::IdempotencyConflict, detail).closing()
        }
        ImportError::Forgetting => forgetting().closing(),
        ImportError::Refused(why) => wrong(&why),
        ImportError::Store(e) => Problem::from(e).closing(),
    }
}

/// The lines of a body.
struct Lines<'a> {
    shared: &'a Shared,
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line break.
    searched: usize,
    taken: u64,
}

impl<'a> Lines<'a> {
    fn new(body: Body, shared: &'a Shared) -> Result<Self, Problem> {
        // A declared length is refused before a byte of it is read.
        if body.size_hint().lower() > shared.config.import_limit {
            return Err(too_large(shared));
        }
        Ok(Self { shared, body, buffer: BytesMut::new(), searched: 0, taken: 0 })
    }

    /// The next line without its break, whose number is `number`; `None` at the end. The last one needs no break.
    async fn next(&mut self, number: u64) -> Result<Option<Bytes>, Problem> {
        let config = &self.shared.config;
        let longest = config.body_limit.saturating_mul(LINE_FACTOR);
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.searched + at).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > longest {
                return Err(wrong(&format!("line {number} is longer than {longest} bytes")));
            }
            let frame = tokio::select! {
                biased;
                frame = tokio::time::timeout(config.body_timeout, self.body.frame()) => frame,
                () = self.shared.phase.reached(Phase::Draining) => return Err(Problem::draining()),
            };
            let frame = frame.map_err(|_| {
                let detail = format!("Nothing came of the body for {:?}.", config.body_timeout);
                Problem::new(Code::RequestTimeout, detail).closing()
            })?;
            let Some(frame) = frame else {
                self.searched = 0;
                let rest = std::mem::take(&mut self.buffer).freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            };
            let frame = frame.map_err(|e| {
                tracing::debug!(error = %e, "an import broke off");
                Problem::new(Code::RequestInvalid, "The body broke off or is not framed as its headers say.").closing()
            })?;
            let Ok(data) = frame.into_data() else { continue }; // trailers mean nothing here
            self.taken += data.len() as u64;
            if self.taken > config.import_limit {
                return Err(too_large(self.shared));
            }
            self.buffer.extend_from_slice(&data);
        }
    }
}

fn too_large(shared: &Shared) -> Problem {
    let detail = format!("The file is larger than the limit of {} bytes.", shared.config.import_limit);
    Problem::new(Code::PayloadTooLarge, detail).closing()
}
