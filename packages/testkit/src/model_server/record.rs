//! What the server has seen.
//!
//! Owns: counters, kept requests, gaps. Must not know: what is answered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use serde::Serialize;
use tokio::sync::Notify;

/// Gaps kept.
const MAX_GAPS: usize = 200_000;
/// Bytes of request bodies kept.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// The counters since the start or the last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Requests that arrived whole.
    pub requests: u64,
    /// Bytes of their bodies.
    pub bytes_in: u64,
    /// Size of the largest.
    pub max_body: u64,
    /// Time between arrival and end of answer, summed over all, in milliseconds.
    pub service_ms: f64,
    /// Requests under way.
    pub open: u64,
    /// The most that were under way at once.
    pub max_open: u64,
    /// Answers that the client did not wait for.
    pub aborted: u64,
    /// Faults played.
    pub faults: u64,
    /// Connections accepted.
    pub connections: u64,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Path with query.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Recorded {
    /// A header's value, if it is there and printable.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; `Null` if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Inner {
    stats: Stats,
    last_end: Option<Instant>,
    gaps: Vec<f64>,
    kept: VecDeque<Recorded>,
    kept_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Record {
    keep: usize,
    inner: Mutex<Inner>,
    arrived: Notify,
}

impl Record {
    pub(crate) fn new(keep: usize) -> Self {
        Self { keep, inner: Mutex::default(), arrived: Notify::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connection(&self) {
        self.inner().stats.connections += 1;
    }

    pub(crate) fn fault(&self) {
        self.inner().stats.faults += 1;
    }

    /// Notes an arrival. The guard notes the end of the answer.
    pub(crate) fn request(self: &Arc<Self>, path: &str, headers: &HeaderMap, body: &Bytes) -> Guard {
        let now = Instant::now();
        let mut inner = self.inner();
        let stats = &mut inner.stats;
        stats.requests += 1;
        stats.bytes_in += body.len() as u64;
        stats.max_body = stats.max_body.max(body.len() as u64);
        stats.open += 1;
        stats.max_open = stats.max_open.max(stats.open);
        if let Some(last) = inner.last_end
            && inner.gaps.len() < MAX_GAPS
        {
            inner.gaps.push((now - last).as_secs_f64() * 1e3);
        }
        if self.keep > 0 {
            inner.kept_bytes += body.len();
            inner.kept.push_back(Recorded { path: path.into(), headers: headers.clone(), body: body.clone() });
            while inner.kept.len() > self.keep || (inner.kept_bytes > MAX_KEPT_BYTES && inner.kept.len() > 1) {
                let gone = inner.kept.pop_front().map_or(0, |r| r.body.len());
                inner.kept_bytes -= gone;
            }
        }
        drop(inner);
        self.arrived.notify_waiters();
        Guard { record: self.clone(), began: now, finished: false }
    }

    pub(crate) async fn wait_for_requests(&self, count: u64) {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if self.inner().stats.requests >= count {
                return;
            }
            arrived.await;
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.inner().stats
    }

    pub(crate) fn kept(&self) -> Vec<Recorded> {
        self.inner().kept.iter().cloned().collect()
    }

    pub(crate) fn gaps(&self) -> Vec<f64> {
        self.inner().gaps.clone()
    }

    pub(crate) fn reset(&self) {
        let mut inner = self.inner();
        let open = inner.stats.open;
        *inner = Inner { stats: Stats { open, ..Stats::default() }, ..Inner::default() };
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Guard {
    record: Arc<Record>,
    began: Instant,
    /// Set once the whole answer was handed over.
    pub(crate) finished: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut inner = self.record.inner();
        inner.last_end = Some(now);
        inner.stats.open = inner.stats.open.saturating_sub(1);
        inner.stats.service_ms += (now - self.began).as_secs_f64() * 1e3;
        inner.stats.aborted += u64::from(!self.finished);
    }
}
