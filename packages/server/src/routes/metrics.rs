//! `GET /metrics`.
//!
//! Owns: the queue's counts for a scrape, read seldom and within a bounded time. Must not know: which metrics there are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, header};
use tokio::sync::Mutex;
use torpor_core::problem::Code;
use torpor_core::queue::Backlog;

use crate::problem::Problem;
use crate::submit::Shared;

/// How long counts of the queue are good: several scrapers ask the store no more often than one.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// How long a scrape waits for the queue; then it goes without.
const WITHIN: Duration = Duration::from_millis(500);

/// The queue's counts, not older than [`GOOD_FOR`].
#[derive(Default)]
pub(crate) struct Recent(Mutex<Option<(Instant, Option<Backlog>)>>);

impl Recent {
    /// The counts; `None` while the queue does not answer. One caller asks, the others wait for it.
    async fn get(&self, shared: &Shared) -> Option<Backlog> {
        let mut recent = self.0.lock().await;
        if let Some((at, backlog)) = *recent
            && at.elapsed() < GOOD_FOR
        {
            return backlog;
        }
        let read = tokio::time::timeout(WITHIN, shared.app.queue.backlog()).await;
        let backlog = match read {
            Ok(Ok(backlog)) => Some(backlog),
            Ok(Err(e)) => {
                tracing::debug!(error = %e, "a scrape goes without the queue's counts");
                None
            }
            Err(_) => None,
        };
        *recent = Some((Instant::now(), backlog));
        backlog
    }
}

pub(crate) async fn metrics(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let Some(metrics) = &shared.app.metrics else {
        return Err(Problem::new(Code::NotFound, "This server counts nothing."));
    };
    let backlog = shared.backlog.get(&shared).await;
    let mut response = Response::new(Body::from(metrics.text(backlog)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(metrics.content_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
