//! What happens around every request: its id, its span, its panic, and the body of a problem.
//!
//! Owns: the outermost layer. Must not know: any route.

use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use http::Method;
use torpor_core::problem::Code;
use tracing::Instrument as _;

use crate::headers::{REQUEST_ID, request_id, trace};
use crate::problem::Problem;

/// Runs a request and finishes its answer.
pub(crate) async fn around(mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let trace = trace(request.headers());
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        path = request.uri().path(),
        request_id = id.to_str().unwrap_or_default(),
        trace_id = %trace.trace_id(),
        key = tracing::field::Empty,
    );
    request.extensions_mut().insert(trace);
    let uri = request.uri().clone();
    let bodyless = request.method() == Method::HEAD;

    let run = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
    let mut response = run.await.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        span.in_scope(|| tracing::error!(panic = said.unwrap_or("no text"), "a request panicked"));
        Problem::new(Code::Internal, "The request could not be answered because of a fault in the server.")
            .into_response()
    });

    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        span.in_scope(|| tracing::debug!(status = response.status().as_u16(), "answered with a problem"));
        if !bodyless {
            *response.body_mut() = Body::from(problem.body(uri.path()));
        }
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}
