//! Who watches: what is told of the work of this process, and to whom.
//!
//! Owns: joining observers with what they need to know. Must not know: what happens, or how anything is counted.

use std::sync::Arc;

use torpor_core::Clock;
use torpor_core::model::Ref;
use torpor_core::observe::{Observer, Several};
use torpor_core::queue::Backlog;
use torpor_metrics::{Known, Metrics};

use crate::config::Config;

/// Everybody who watches.
pub(crate) struct Watching {
    /// Whom to tell.
    pub(crate) observer: Arc<dyn Observer>,
    /// The metrics, for the server.
    pub(crate) counted: Arc<Counted>,
    spans: spans::Flush,
}

impl Watching {
    /// Begins to watch. Must be called within a runtime.
    ///
    /// # Errors
    /// A sentence about what could not be set up.
    pub(crate) fn start(config: &Config, clock: &dyn Clock) -> Result<Self, String> {
        let metrics = Arc::new(metrics(config));
        let mut all: Vec<Arc<dyn Observer>> = vec![metrics.clone()];
        let spans = spans::start(config, clock, &mut all)?;
        let observer: Arc<dyn Observer> = if all.len() == 1 { metrics.clone() } else { Arc::new(Several(all)) };
        Ok(Self { observer, counted: Arc::new(Counted(metrics)), spans })
    }

    /// Hands over what is left, within a bounded time. For the end of the process.
    pub(crate) async fn end(self) {
        self.spans.flush().await;
    }
}

/// What is counted. Only models that are configured or declared are told apart.
fn metrics(config: &Config) -> Metrics {
    let declared = config.models.models.keys().filter_map(|name| Ref::parse(name).ok());
    let models = std::iter::once(config.harness.model.clone()).chain(declared).collect();
    Metrics::new(&Known { models, providers: config.harness.providers.clone() })
}

/// The metrics as the server sees them.
pub(crate) struct Counted(Arc<Metrics>);

impl torpor_server::Scrape for Counted {
    fn content_type(&self) -> &'static str {
        torpor_metrics::CONTENT_TYPE
    }

    fn text(&self, backlog: Option<Backlog>) -> String {
        self.0.text(backlog)
    }
}

/// Spans for a collector.
#[cfg(feature = "otlp")]
pub(crate) mod spans {
    use super::{Arc, Clock, Config, Observer};

    /// Where spans go.
    pub(crate) type Collector = torpor_otlp::Target;

    /// What is to be done at the end.
    pub(crate) struct Flush(Option<torpor_otlp::Flush>);

    /// Reads the settings; a problem comes with the setting's name.
    pub(crate) fn read(endpoint: &str, headers: &str, service: &str) -> Result<Collector, (&'static str, String)> {
        Collector::parse(endpoint, headers, service).map_err(|e| match e {
            torpor_otlp::Invalid::Endpoint => ("OTEL_EXPORTER_OTLP_ENDPOINT", e.to_string()),
            torpor_otlp::Invalid::Headers => ("OTEL_EXPORTER_OTLP_HEADERS", e.to_string()),
        })
    }

    pub(super) fn start(config: &Config, clock: &dyn Clock, all: &mut Vec<Arc<dyn Observer>>) -> Result<Flush, String> {
        let Some(collector) = &config.collector else { return Ok(Flush(None)) };
        let client = torpor_model::http_client(&config.models.http)?;
        let (exporter, flush) = torpor_otlp::Exporter::start(collector.clone(), client, clock);
        all.push(exporter);
        Ok(Flush(Some(flush)))
    }

    impl Flush {
        pub(super) async fn flush(self) {
            if let Some(flush) = self.0 {
                flush.flush().await;
            }
        }
    }
}

/// Spans for a collector, in a build that cannot send any.
#[cfg(not(feature = "otlp"))]
pub(crate) mod spans {
    use super::{Arc, Clock, Config, Observer};

    /// That a collector was named.
    #[derive(Debug, Clone)]
    pub(crate) struct Collector;

    pub(crate) struct Flush;

    pub(crate) fn read(_: &str, _: &str, _: &str) -> Result<Collector, (&'static str, String)> {
        Ok(Collector)
    }

    /// The variable is often set for every process of a cluster: a warning, and no refusal.
    pub(super) fn start(config: &Config, _: &dyn Clock, _: &mut Vec<Arc<dyn Observer>>) -> Result<Flush, String> {
        if config.collector.is_some() {
            tracing::warn!(
                "OTEL_EXPORTER_OTLP_ENDPOINT is set, but this build cannot send spans: it was made without the \
                 feature `otlp`"
            );
        }
        Ok(Flush)
    }

    impl Flush {
        pub(super) async fn flush(self) {}
    }
}
