//! What happens around every request: its id, its span, its panic, the body of a problem, and telling who watches.
//!
//! Owns: the outermost layer. Must not know: any route.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use http::Method;
use torpor_core::observe::{Event, Level, Observer, Span};
use torpor_core::problem::Code;
use torpor_core::trace;
use tracing::Instrument as _;

use crate::headers::{REQUEST_ID, request_id, trace};
use crate::problem::Problem;
use crate::submit::Shared;

/// The status that stands for a client that did not wait for its answer.
const CLIENT_LEFT: u16 = 499;

/// Runs a request and finishes its answer.
pub(crate) async fn around(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let (trace, caller) = trace(request.headers());
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        path = request.uri().path(),
        request_id = id.to_str().unwrap_or_default(),
        trace_id = %trace.trace_id(),
        key = tracing::field::Empty,
    );
    request.extensions_mut().insert(trace.clone());
    let uri = request.uri().clone();
    let mut watched = Watched::new(&*shared.app.observer, &request, trace, caller);
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
    watched.status = response.status().as_u16();
    response
}

/// A request whose end is told to observers, also if its client leaves before.
struct Watched<'a> {
    observer: &'a dyn Observer,
    route: Option<MatchedPath>,
    method: Method,
    trace: trace::Context,
    caller: Option<trace::Context>,
    began: Instant,
    status: u16,
}

impl<'a> Watched<'a> {
    fn new(
        observer: &'a dyn Observer,
        request: &Request,
        trace: trace::Context,
        caller: Option<trace::Context>,
    ) -> Self {
        observer.observe(&Event::Entered(Level::Requests));
        let (route, method) = (request.extensions().get().cloned(), request.method().clone());
        Self { observer, route, method, trace, caller, began: Instant::now(), status: CLIENT_LEFT }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.observer.observe(&Event::Left(Level::Requests));
        let span = Span { context: &self.trace, parent: self.caller.as_ref(), took: self.began.elapsed() };
        let route = self.route.as_ref().map(MatchedPath::as_str);
        self.observer.observe(&Event::Request { span, route, method: self.method.as_str(), status: self.status });
    }
}
