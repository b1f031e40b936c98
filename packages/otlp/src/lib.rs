//! What happens, as OpenTelemetry spans sent to a collector over OTLP/HTTP with protobuf.
//!
//! Owns: which event is which span under the GenAI semantic conventions, its encoding, and a bounded queue to the
//! collector. Whoever does the work never waits: a span that finds the queue full is dropped and counted. No prompt, no
//! argument, no answer and no credential is ever an attribute.
//!
//! Must not know: who does the work; what a collector does with spans.

mod send;
mod spans;
mod target;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use torpor_core::Clock;
use torpor_core::observe::{Event, Observer};

pub use target::{Invalid, Target};

/// Spans that may wait for the collector; further ones are dropped.
const QUEUE: usize = 4_096;

/// How long a process that ends waits for the collector to take what is left.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);

/// Turns events into spans. See the module's page.
pub struct Exporter {
    queue: mpsc::Sender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    /// The clock's time at `began`; from there time is counted, so that no span ends before it begins.
    epoch_nanos: u64,
    began: Instant,
}

/// Waits for the collector at the end.
pub struct Flush {
    stop: oneshot::Sender<()>,
    sending: JoinHandle<()>,
}

impl Exporter {
    /// Starts sending, in a task of the current runtime. `client` is how the collector is reached.
    #[must_use]
    pub fn start(target: Target, client: reqwest::Client, clock: &dyn Clock) -> (Arc<Self>, Flush) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let sending = tokio::spawn(send::run(inbox, stopped, send::Sender::new(target, client, dropped.clone())));
        let (epoch_nanos, began) = (clock.now().0.saturating_mul(1_000_000), Instant::now());
        (Arc::new(Self { queue, dropped, epoch_nanos, began }), Flush { stop, sending })
    }

    fn now_nanos(&self) -> u64 {
        self.epoch_nanos.saturating_add(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Observer for Exporter {
    fn observe(&self, event: &Event<'_>) {
        if let Some(span) = spans::encode(event, || self.now_nanos())
            && self.queue.try_send(span).is_err()
        {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Flush {
    /// Sends what is left, for at most a few seconds. What is observed afterwards is dropped.
    pub async fn flush(self) {
        let Self { stop, mut sending } = self;
        let _ = stop.send(()); // it may have ended
        if tokio::time::timeout(FLUSH_WITHIN, &mut sending).await.is_err() {
            tracing::warn!("the collector did not take the last spans in time");
            sending.abort();
        }
    }
}
