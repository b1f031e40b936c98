//! Request bodies: read within their limits of size and time, then read as JSON.
//!
//! Owns: the limits' enforcement and the words for what is wrong with a body as such. Must not know: any field.

use axum::body::Body;
use bytes::{Bytes, BytesMut};

use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde_json::Value;
use tokio::sync::SemaphorePermit;
use torpor_core::problem::Code;

use crate::config::Config;
use crate::phase::Phase;
use crate::problem::Problem;
use crate::submit::Shared;
use torpor_core::json;

/// What is set aside for a body before it comes, in bytes; a length that a client only claims costs nothing.
const FIRST_RESERVE: usize = 16 * 1024;

/// As [`json`], for routes whose body may be left out: nothing is `null`.
pub(crate) async fn json_or_nothing(body: Body, shared: &Shared) -> Result<Value, Problem> {
    if body.is_end_stream() { Ok(Value::Null) } else { json(body, shared).await }
}

/// Reads a whole body as JSON.
///
/// The answer to one that could not be read closes the connection: what follows on it is unknown.
pub(crate) async fn json(mut body: Body, shared: &Shared) -> Result<Value, Problem> {
    let config = &shared.config;
    // A declared length is refused before a byte of it is read.
    if body.size_hint().lower() > config.body_limit as u64 {
        return Err(too_large(config));
    }
    let mut turn = None;
    let read = tokio::select! {
        biased;
        read = tokio::time::timeout(config.body_timeout, read(&mut body, shared, &mut turn)) => read,
        () = shared.phase.reached(Phase::Draining) => return Err(Problem::draining()),
    };
    let bytes = match read {
        Ok(read) => read?,
        Err(_) if turn.is_none() && shared.large_bodies.available_permits() == 0 => {
            let detail = "Too many large bodies are under way. Try again.";
            return Err(Problem::new(Code::Unavailable, detail).closing());
        }
        Err(_) => {
            let detail = format!("The body was not complete {:?} after its head.", config.body_timeout);
            return Err(Problem::new(Code::RequestTimeout, detail).closing());
        }
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::new(Code::InvalidJson, "The body is empty; a JSON object was expected."));
    }
    json::parse(&bytes).map_err(|e| Problem::new(Code::InvalidJson, format!("The body cannot be read as JSON: {e}.")))
}

/// Reads a whole body. One that is not small takes a turn first, and is not read on until it has one.
async fn read<'a>(
    body: &mut Body,
    shared: &'a Shared,
    turn: &mut Option<SemaphorePermit<'a>>,
) -> Result<Bytes, Problem> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            tracing::debug!(error = %e, "a body broke off");
            Problem::new(Code::RequestInvalid, "The body broke off or is not framed as its headers say.").closing()
        })?;
        let Ok(data) = frame.into_data() else { continue }; // trailers mean nothing here
        let length = first.len() + rest.len() + data.len();
        if length > shared.config.body_limit {
            return Err(too_large(&shared.config));
        }
        if length > Config::SMALL_BODY && turn.is_none() {
            *turn = shared.large_bodies.acquire().await.ok();
        }
        // The usual body is one piece and is handed on as it came.
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(FIRST_RESERVE.max(length));
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn too_large(config: &Config) -> Problem {
    let detail = format!("The body is larger than the limit of {} bytes.", config.body_limit);
    Problem::new(Code::PayloadTooLarge, detail).closing()
}
