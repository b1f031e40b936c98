//! The routes' former names: the same answers, marked as deprecated.
//!
//! Owns: the mark and the one log line. Must not know: what the routes do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderName, HeaderValue, header};

use super::{query, runs};
use crate::auth::Caller;
use crate::submit::Shared;

/// Since when a route is deprecated (RFC 9745).
const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");

/// 20 November 2026: the names were deprecated from the first release on.
const SINCE: HeaderValue = HeaderValue::from_static("@1795132800");

pub(crate) async fn submit(state: State<Arc<Shared>>, caller: Caller, request: Request) -> Response {
    mark(runs::submit(state, caller, request).await.into_response(), "</runs>; rel=\"successor-version\"")
}

pub(crate) async fn status(state: State<Arc<Shared>>, caller: Caller, request: Request) -> Response {
    mark(query::status(state, caller, request).await.into_response(), "</runs/status>; rel=\"successor-version\"")
}

fn mark(mut response: Response, successor: &'static str) -> Response {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!("a client uses /run-leaf, which is deprecated; the route is /runs (said once)");
    }
    response.headers_mut().insert(DEPRECATION, SINCE);
    response.headers_mut().insert(header::LINK, HeaderValue::from_static(successor));
    response
}
