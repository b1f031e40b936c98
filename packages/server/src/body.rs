//! Request bodies: read within their limits of size and time, then read as JSON.
//!
//! Owns: the limits' enforcement and the words for what is wrong with a body as such. Must not know: any field.

use axum::body::Body;
use bytes::{Bytes, BytesMut};

use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde_json::Value;
use torpor_core::problem::Code;

use crate::config::Config;
use crate::phase::{Phase, Signal};
use crate::problem::Problem;

/// What is set aside for a body before it comes, in bytes; a length that a client only claims costs nothing.
const FIRST_RESERVE: usize = 16 * 1024;

/// Reads a whole body as JSON.
pub(crate) async fn json(body: Body, config: &Config, phase: &Signal) -> Result<Value, Problem> {
    let bytes = read(body, config, phase).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::new(Code::InvalidJson, "The body is empty; a JSON object was expected."));
    }
    serde_json::from_slice(&bytes).map_err(|e| Problem::new(Code::InvalidJson, format!("The body is not JSON: {e}.")))
}

/// Reads a whole body. The answer to one that could not be read closes the connection: what follows on it is
/// unknown.
async fn read(mut body: Body, config: &Config, phase: &Signal) -> Result<Bytes, Problem> {
    // A declared length is refused before a byte of it is read.
    if body.size_hint().lower() > config.body_limit as u64 {
        return Err(too_large(config));
    }
    tokio::select! {
        biased;
        read = tokio::time::timeout(config.body_timeout, collect(&mut body, config)) => match read {
            Ok(read) => read,
            Err(_) => {
                let detail = format!("The body was not complete {:?} after its head.", config.body_timeout);
                Err(Problem::new(Code::RequestTimeout, detail).closing())
            }
        },
        () = phase.reached(Phase::Draining) => Err(Problem::draining()),
    }
}

async fn collect(body: &mut Body, config: &Config) -> Result<Bytes, Problem> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            tracing::debug!(error = %e, "a body broke off");
            Problem::new(Code::RequestInvalid, "The body broke off or is not framed as its headers say.").closing()
        })?;
        let Ok(data) = frame.into_data() else { continue }; // trailers mean nothing here
        if first.len() + rest.len() + data.len() > config.body_limit {
            return Err(too_large(config));
        }
        // The usual body is one piece and is handed on as it came.
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(FIRST_RESERVE.max(first.len() + data.len()));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{StreamExt as _, stream};
    use http::StatusCode;

    use super::*;

    fn chunks(parts: &[&'static [u8]]) -> Body {
        Body::from_stream(stream::iter(parts.to_vec()).map(|p| Ok::<_, std::io::Error>(Bytes::from_static(p))))
    }

    #[tokio::test]
    async fn pieces_become_one_body_up_to_the_limit() {
        let config = Config { body_limit: 7, ..Config::default() };
        for (parts, want) in [
            (&[b"[1,2,3]".as_slice()][..], Ok("[1,2,3]")),
            (&[b"[1", b",2", b",3]"], Ok("[1,2,3]")),
            (&[b"[1", b"", b"]"], Ok("[1]")),
            (&[b"[1", b",2", b",34]"], Err(413)),
            (&[b"        "], Err(413)),
            (&[b"  ", b" "], Err(400)),
            (&[], Err(400)),
        ] {
            let got = json(chunks(parts), &config, &Signal::new()).await;
            let got = got.map(|v| v.to_string()).map_err(|p| axum::response::IntoResponse::into_response(p).status());
            assert_eq!(got, want.map(str::to_owned).map_err(|s| StatusCode::from_u16(s).unwrap()), "{parts:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_ends_with_its_time_or_with_the_server() {
        let silent = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let config = Config { body_timeout: Duration::from_secs(3), ..Config::default() };
        let phase = Signal::new();
        let status = |r: Result<Value, Problem>| axum::response::IntoResponse::into_response(r.unwrap_err()).status();
        assert_eq!(status(json(silent(), &config, &phase).await), StatusCode::REQUEST_TIMEOUT);
        phase.enter(Phase::Draining);
        assert_eq!(status(json(silent(), &config, &phase).await), StatusCode::SERVICE_UNAVAILABLE);
    }
}
