//! The three kinds of metric, each a few atomics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::text::Page;

/// What a metric is, as the text format names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric that can be made, and written with its labels.
pub(crate) trait Metric {
    const KIND: Kind;
    /// What it takes to make one.
    type Shape: Copy;
    fn new(shape: Self::Shape) -> Self;
    fn write(&self, page: &mut Page, name: &str, labels: &[(&str, &str)]);
}

/// Only rises.
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn new((): ()) -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
}

impl Metric for Counter {
    const KIND: Kind = Kind::Counter;
    type Shape = ();

    fn new(shape: ()) -> Self {
        Self::new(shape)
    }

    fn write(&self, page: &mut Page, name: &str, labels: &[(&str, &str)]) {
        page.sample(name, labels, self.0.load(Relaxed) as f64);
    }
}

/// Only rises; counted in billionths, so that the sum of many small amounts is exact.
pub(crate) struct Billionths(AtomicU64);

impl Billionths {
    pub(crate) fn add(&self, billionths: u64) {
        self.0.fetch_add(billionths, Relaxed);
    }
}

impl Metric for Billionths {
    const KIND: Kind = Kind::Counter;
    type Shape = ();

    fn new((): ()) -> Self {
        Self(AtomicU64::new(0))
    }

    fn write(&self, page: &mut Page, name: &str, labels: &[(&str, &str)]) {
        page.sample(name, labels, self.0.load(Relaxed) as f64 / BILLION as f64);
    }
}

/// Rises and falls.
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    pub(crate) fn new((): ()) -> Self {
        Self(AtomicI64::new(0))
    }

    pub(crate) fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }
}

impl Metric for Gauge {
    const KIND: Kind = Kind::Gauge;
    type Shape = ();

    fn new(shape: ()) -> Self {
        Self::new(shape)
    }

    fn write(&self, page: &mut Page, name: &str, labels: &[(&str, &str)]) {
        page.sample(name, labels, self.0.load(Relaxed) as f64);
    }
}

/// How often a value fell into which range. Durations are summed in nanoseconds, so that the sum is exact for centuries.
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last has none.
    counts: Box<[AtomicU64]>,
    /// Billionths.
    sum: AtomicU64,
}

const BILLION: u64 = 1_000_000_000;

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    pub(crate) fn seconds(&self, took: Duration) {
        self.note(took.as_secs_f64(), u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn value(&self, n: u64) {
        self.note(n as f64, n.saturating_mul(BILLION));
    }

    fn note(&self, value: f64, billionths: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(billionths, Relaxed);
    }
}

impl Metric for Histogram {
    const KIND: Kind = Kind::Histogram;
    type Shape = &'static [f64];

    fn new(bounds: &'static [f64]) -> Self {
        Self::new(bounds)
    }

    fn write(&self, page: &mut Page, name: &str, labels: &[(&str, &str)]) {
        let (bucket, mut total) = (format!("{name}_bucket"), 0);
        for (i, count) in self.counts.iter().enumerate() {
            // The count of all is the sum of what was read here, so that the two never contradict each other.
            total += count.load(Relaxed);
            let bound = self.bounds.get(i).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            page.sample(&bucket, &[labels, &[("le", &bound)]].concat(), total as f64);
        }
        page.sample(&format!("{name}_sum"), labels, self.sum.load(Relaxed) as f64 / BILLION as f64);
        page.sample(&format!("{name}_count"), labels, total as f64);
    }
}
