//! `torpor serve`: the runtime in one process.

use std::pin::pin;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::cli::{Error, Exit};
use crate::config::Config;
use crate::runtime::Runtime;
use crate::stores::Role;
use crate::telemetry;

/// Exit code of a process that was asked to stop twice.
const IMPATIENT: i32 = 130;

pub(crate) fn main(config: Config) -> Result<Exit, Error> {
    telemetry::init(&config.log, config.log_json).map_err(Error::Usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(serve(config))?;
    // Nothing is left that matters: whatever blocking thread still runs must not hold the exit.
    runtime.shutdown_background();
    Ok(Exit::Success)
}

async fn serve(config: Config) -> Result<(), Error> {
    // Before anything can be seen of this process: whoever sees it may want it to stop.
    let mut stop = pin!(told_to_stop()?);
    let runtime = tokio::select! {
        runtime = Runtime::open(&config, Role::Server) => runtime?,
        () = &mut stop => return Ok(()),
    };
    runtime.check_exposure(&config).await?;
    let listener = TcpListener::bind(config.bind)
        .await
        .map_err(|e| Error::Unavailable(format!("cannot listen on {}: {e}", config.bind)))?;
    let address = listener.local_addr().context("cannot read the listener's address")?;
    let _published = runtime.publish(address);
    println!("torpor is listening on http://{address}");
    tracing::info!(model = %config.model, data = %config.data_dir.display(), "ready");
    if let Some(remedy) = config.missing_credential() {
        tracing::warn!("{remedy}; runs will fail until then");
    }
    runtime.serve(listener, stop).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Done when the process is asked to stop. Asked a second time it stops at once: everything is built to survive that.
pub(crate) fn told_to_stop() -> Result<impl Future<Output = ()>, Error> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let mut asked = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        asked().await;
        let _ = tell.send(());
        asked().await;
        eprintln!("torpor: asked twice; stopping at once");
        #[allow(clippy::disallowed_methods, reason = "whoever asks twice does not want to wait for destructors")]
        std::process::exit(IMPATIENT);
    });
    Ok(async {
        let _ = told.await;
    })
}
