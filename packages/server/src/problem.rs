//! Problem answers (RFC 9457), each with a stable code.
//!
//! Owns: the shape of every error on the wire, and what is kept from it: internals are logged, never sent.
//! Must not know: which route it came from; the path is filled in where the answer leaves (see `layer`).

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use torpor_core::envelope;
use torpor_core::problem::Code;
use torpor_core::store;

/// What clients are told to wait before they try again, in seconds.
pub(crate) const RETRY_AFTER_SECONDS: u32 = 1;

/// The most of a request's path that is sent back as `instance`, in bytes.
const MAX_INSTANCE: usize = 256;

/// An error on its way to a client. Boxed, so that a `Result` of the usual answer stays small.
#[derive(Debug, Clone)]
pub(crate) struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    code: Code,
    detail: String,
    more: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
    close: bool,
}

impl Problem {
    /// A problem whose `detail` tells a person what was wrong and what was expected.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        let mut headers = Vec::new();
        if code == Code::Unavailable {
            headers.push((header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS)));
        }
        Self(Box::new(Parts { code, detail: detail.into(), more: Map::new(), headers, close: false }))
    }

    /// Fields that are wrong, one by one.
    pub(crate) fn fields(code: Code, problems: Vec<envelope::Problem>) -> Self {
        let invalid = envelope::Invalid(problems);
        let detail = format!("{invalid}.");
        let errors = invalid.0.into_iter().map(|p| serde_json::json!({"field": p.field, "message": p.message}));
        let errors = Value::Array(errors.collect());
        Self::new(code, detail).with("errors", errors)
    }

    /// One field that is wrong.
    pub(crate) fn field(code: Code, field: &str, message: impl Into<String>) -> Self {
        Self::fields(code, vec![envelope::Problem { field: field.to_owned(), message: message.into() }])
    }

    /// No run has this id, for this caller.
    pub(crate) fn unknown_run() -> Self {
        Self::new(Code::RunNotFound, "There is no run with this id, or its record has expired.")
    }

    /// The queue takes no more.
    pub(crate) fn queue_full() -> Self {
        let detail = "The queue holds as many runs as it may. Nothing was accepted; try again later.";
        Self::new(Code::Unavailable, detail)
    }

    /// The route exists, not with this method.
    pub(crate) fn wrong_method(method: &Method) -> Self {
        let detail = format!("This route does not take {method}; the `Allow` header says what it takes.");
        Self::new(Code::MethodNotAllowed, detail)
    }

    /// The server is on its way out.
    pub(crate) fn draining() -> Self {
        Self::new(Code::Unavailable, "This server is shutting down and takes no new work. Try again.").closing()
    }

    /// Its code.
    pub(crate) fn code(&self) -> Code {
        self.0.code
    }

    /// What was wrong and what was expected.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Adds a member.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.0.more.insert(name.to_owned(), value);
        self
    }

    /// Adds a header; one that cannot be a header is left out.
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.push((name, value));
        }
        self
    }

    /// Ends the connection after the answer, because the rest of the request was not read.
    pub(crate) fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// The body, for the request at `path`.
    pub(crate) fn body(&self, path: &str) -> Vec<u8> {
        #[derive(Serialize)]
        struct Wire<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            instance: &'a str,
            code: &'a str,
            error: &'a str,
            #[serde(flatten)]
            more: &'a Map<String, Value>,
        }
        let (code, status, title) = self.0.code.describe();
        let wire = Wire {
            r#type: format!("urn:torpor:problem:{code}"),
            title,
            status,
            detail: &self.0.detail,
            instance: &path[..path.floor_char_boundary(MAX_INSTANCE)],
            code,
            error: code,
            more: &self.0.more,
        };
        // Strings, numbers and maps with string keys always serialise.
        serde_json::to_vec(&wire).unwrap_or_default()
    }
}

/// The log gets the store's words; the client learns only that it should come back.
impl From<store::Error> for Problem {
    fn from(e: store::Error) -> Self {
        tracing::warn!(error = %e, "the store did not answer a request");
        Self::new(Code::Unavailable, "The store cannot answer now. Nothing is lost; try again.")
    }
}

impl From<envelope::Invalid> for Problem {
    fn from(e: envelope::Invalid) -> Self {
        Self::fields(Code::EnvelopeInvalid, e.0)
    }
}

/// The answer without its body, which needs the request's path; `layer` puts it in.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (_, status, _) = self.0.code.describe();
        let mut response = Response::default();
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in &self.0.headers {
            headers.insert(name, value.clone());
        }
        if self.0.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_a_problem_with_a_stable_code() {
        let p = Problem::field(Code::EnvelopeInvalid, "prompt", "must be a string, got 1");
        let body: Value = serde_json::from_slice(&p.body("/runs")).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "type": "urn:torpor:problem:envelope_invalid", "title": "The envelope is not valid", "status": 400,
                "detail": "`prompt` must be a string, got 1.", "instance": "/runs",
                "code": "envelope_invalid", "error": "envelope_invalid",
                "errors": [{"field": "prompt", "message": "must be a string, got 1"}],
            })
        );
    }

    #[test]
    fn a_long_path_is_cut_between_characters() {
        let path = format!("/{}", "ü".repeat(300));
        let body: Value = serde_json::from_slice(&Problem::new(Code::NotFound, "").body(&path)).unwrap();
        assert_eq!(body["instance"].as_str().unwrap().len(), 255);
    }

    #[test]
    fn what_the_store_said_stays_inside() {
        let p = Problem::from(store::Error::Failed("/secret/path is read-only".into()));
        assert!(!String::from_utf8(p.body("/runs")).unwrap().contains("secret"));
        assert!(p.into_response().headers().contains_key(header::RETRY_AFTER));
    }
}
