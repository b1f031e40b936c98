//! Prometheus' text format, version 0.0.4.
//!
//! Owns: how names, labels and numbers are written. Must not know: which metrics there are.

use std::fmt::Write as _;

use crate::family::Family;
use crate::kinds::{Kind, Metric};

/// What a scrape answers, as it grows.
#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    /// What a metric is; its samples follow.
    pub(crate) fn head(&mut self, name: &str, help: &str, kind: Kind) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}"); // a String takes everything
    }

    /// One number.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A metric with one number.
    pub(crate) fn one(&mut self, name: &str, help: &str, kind: Kind, labels: &[(&str, &str)], value: f64) {
        self.head(name, help, kind);
        self.sample(name, labels, value);
    }

    /// A metric without labels.
    pub(crate) fn single<M: Metric>(&mut self, name: &str, help: &str, metric: &M) {
        self.head(name, help, M::KIND);
        metric.write(self, name, &[]);
    }

    /// A metric with labels.
    pub(crate) fn family<const N: usize, M: Metric>(&mut self, name: &str, help: &str, family: &Family<N, M>) {
        self.head(name, help, M::KIND);
        family.each(|labels, metric| metric.write(self, name, labels));
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }
}
