//! Logs to standard error. Nothing here ever carries a credential: settings are logged masked or not at all.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

mod json;

/// Starts logging. A second call in one process changes nothing.
///
/// # Errors
/// A sentence about a filter that cannot be read.
pub(crate) fn init(filter: &str, json: bool) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("TORPOR_LOG: {e}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    let fmt = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let _already_started = if json {
        registry.with(fmt.fmt_fields(JsonFields::new()).event_format(json::Flat)).try_init()
    } else {
        registry.with(fmt.with_ansi(std::io::stderr().is_terminal()).with_target(false)).try_init()
    };
    Ok(())
}
