//! Spans on their way to the collector.
//!
//! Owns: batches, repeats within bounds, and saying what was lost, seldom. Must not know: what a span says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::target::Target;
use crate::wire::Message;

/// Most spans in one request.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// How long one request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Requests for one batch.
const ATTEMPTS: u32 = 4;
/// Requests for one batch when the process ends.
const LAST_ATTEMPTS: u32 = 2;
/// Wait before the second; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest wait, also for what a collector asks for.
const LAST_PAUSE: Duration = Duration::from_secs(15);
/// Losses are told of so often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Posts batches.
pub(crate) struct Sender {
    target: Target,
    client: reqwest::Client,
    dropped: Arc<AtomicU64>,
    told: Option<Instant>,
}

/// Why a batch was not taken.
enum Refused {
    /// Trying again may help, after this long if the collector said.
    Later(String, Option<Duration>),
    Never(String),
}

impl Sender {
    pub(crate) fn new(target: Target, client: reqwest::Client, dropped: Arc<AtomicU64>) -> Self {
        Self { target, client, dropped, told: None }
    }

    /// Posts until the batch is taken, or it makes no sense to go on.
    async fn send(&mut self, batch: Vec<Vec<u8>>, attempts: u32) {
        let (spans, body) = (batch.len() as u64, request(&self.target.service, &batch));
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=attempts {
            match self.post(body.clone()).await {
                Ok(()) => return self.tell("the queue was full"),
                Err(Refused::Later(_, after)) if attempt < attempts => {
                    sleep(after.unwrap_or(pause).min(LAST_PAUSE)).await;
                    pause *= 2;
                }
                Err(Refused::Later(why, _) | Refused::Never(why)) => {
                    self.dropped.fetch_add(spans, Relaxed);
                    return self.tell(&why);
                }
            }
        }
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), Refused> {
        let request = self.client.post(self.target.url.clone()).headers(self.target.headers.clone()).body(body);
        // Without the URL, which may carry a credential.
        let sent = request.timeout(ANSWER_WITHIN).send().await.map_err(reqwest::Error::without_url);
        let response = sent.map_err(|e| Refused::Later(e.to_string(), None))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let why = format!("it answered {status}");
        let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Refused::Later(why, after.map(Duration::from_secs)),
            _ => Refused::Never(why),
        })
    }

    /// Says what was lost since it was said last, not more often than [`TELL_EVERY`].
    fn tell(&mut self, why: &str) {
        if self.dropped.load(Relaxed) == 0 || self.told.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        let spans = self.dropped.swap(0, Relaxed);
        tracing::warn!(spans, why, "spans were lost on their way to the collector");
    }
}

/// Sends what comes until it is told to stop, then what is left.
pub(crate) async fn run(mut inbox: mpsc::Receiver<Vec<u8>>, mut stop: oneshot::Receiver<()>, mut sender: Sender) {
    loop {
        let mut batch = Vec::new();
        let stopped = tokio::select! {
            n = inbox.recv_many(&mut batch, BATCH) => {
                if n == 0 {
                    return;
                }
                batch.len() < BATCH && tokio::select! {
                    () = sleep(LINGER) => false,
                    _ = &mut stop => true,
                }
            }
            _ = &mut stop => true,
        };
        loop {
            while batch.len() < BATCH
                && let Ok(span) = inbox.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                break;
            }
            let attempts = if stopped { LAST_ATTEMPTS } else { ATTEMPTS };
            let full = batch.len() == BATCH;
            sender.send(std::mem::take(&mut batch), attempts).await;
            if !full {
                break;
            }
        }
        if stopped {
            return;
        }
    }
}

/// The message `ExportTraceServiceRequest`.
fn request(service: &str, spans: &[Vec<u8>]) -> Vec<u8> {
    let mut message = Message::default();
    message.message(1, |of_resource| {
        of_resource.message(1, |resource| {
            resource.text(1, "service.name", service);
            resource.text(1, "service.version", env!("CARGO_PKG_VERSION"));
            resource.text(1, "telemetry.sdk.language", "rust");
            resource.text(1, "telemetry.sdk.name", "torpor");
        });
        of_resource.message(2, |of_scope| {
            of_scope.message(1, |scope| {
                scope.bytes(1, b"torpor");
                scope.bytes(2, env!("CARGO_PKG_VERSION").as_bytes());
            });
            for span in spans {
                of_scope.bytes(2, span);
            }
        });
    });
    message.finish()
}
