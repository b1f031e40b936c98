//! Who watches: what is told of the work of this process, and to whom.
//!
//! Owns: joining observers with what they need to know. Must not know: what happens, or how anything is counted.

use std::sync::Arc;

use torpor_core::model::Ref;
use torpor_core::queue::Backlog;
use torpor_metrics::{Known, Metrics};

use crate::config::Config;

/// What is counted. Only models that are configured or declared are told apart.
pub(crate) fn metrics(config: &Config) -> Metrics {
    let declared = config.models.models.keys().filter_map(|name| Ref::parse(name).ok());
    let models = std::iter::once(config.harness.model.clone()).chain(declared).collect();
    Metrics::new(&Known { models, providers: config.harness.providers.clone() })
}

/// The metrics as the server sees them.
pub(crate) struct Counted(pub(crate) Arc<Metrics>);

impl torpor_server::Scrape for Counted {
    fn content_type(&self) -> &'static str {
        torpor_metrics::CONTENT_TYPE
    }

    fn text(&self, backlog: Option<Backlog>) -> String {
        self.0.text(backlog)
    }
}
