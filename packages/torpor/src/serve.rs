//! `torpor serve`: the runtime in one process.

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Error, Exit};
use crate::config::Config;
use crate::runtime::Runtime;
use crate::telemetry;

pub(crate) fn main(config: Config) -> Result<Exit, Error> {
    telemetry::init(&config.log, config.log_json).map_err(Error::Usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(serve(config))?;
    // Nothing is left that matters: whatever blocking thread still runs must not hold the exit.
    runtime.shutdown_background();
    Ok(Exit::Success)
}

async fn serve(config: Config) -> Result<(), Error> {
    let listener = TcpListener::bind(config.bind)
        .await
        .map_err(|e| Error::Unavailable(format!("cannot listen on {}: {e}", config.bind)))?;
    let address = listener.local_addr().context("cannot read the listener's address")?;
    let runtime = Runtime::open(&config)?;
    println!("torpor is listening on http://{address}");
    tracing::info!(model = %config.model, data = %config.data_dir.display(), "ready");
    if let Some(remedy) = config.missing_credential() {
        tracing::warn!("{remedy}; runs will fail until then");
    }
    runtime.serve(listener, told_to_stop()?).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Done when the process is asked to stop.
pub(crate) fn told_to_stop() -> Result<impl Future<Output = ()>, Error> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
