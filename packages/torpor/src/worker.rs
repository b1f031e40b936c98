//! `torpor worker`: works on what is queued, and ends when there is nothing left to do.

use std::pin::pin;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;

use crate::cli::{Error, Exit, Settings};
use crate::config::Config;
use crate::runtime::{Runtime, Worked};
use crate::serve::told_to_stop;
use crate::stores::Role;
use crate::telemetry;

#[derive(Args)]
#[command(after_help = "\
It claims what is queued, works on up to --concurrency runs at once, sends webhooks that are due, and ends with 0 when for a \
lease and 2 seconds nothing could be claimed and nothing of its own was under way. Runs that wait for their time, for a person \
or at another worker do not keep it. Ctrl-C or SIGTERM hands back what is under way, in good order, and ends with 0; a second \
one stops at once. Either way nothing is lost.

Several workers share a Redis (REDIS_URL). The embedded store has one process at a time: there a worker is for the time in \
which no `torpor serve` runs.

Examples:
  torpor worker
  REDIS_URL=redis://queue:6379 torpor worker --concurrency 64
  REDIS_URL=redis://queue:6379 torpor worker --forever --probe-bind 0.0.0.0:8081")]
pub(crate) struct Arguments {
    /// Stay when there is nothing to do
    #[arg(long)]
    forever: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn main(args: &Arguments) -> Result<Exit, Error> {
    let Some(config) = args.settings.config()? else { return Ok(Exit::Success) };
    telemetry::init(&config.log, config.log_json).map_err(Error::Usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(work(&config, args.forever))?;
    // Nothing is left that matters: whatever blocking thread still runs must not hold the exit.
    runtime.shutdown_background();
    Ok(Exit::Success)
}

async fn work(config: &Config, forever: bool) -> Result<(), Error> {
    // Before anything is claimed: whoever sees this process may want it to stop.
    let mut stop = pin!(told_to_stop()?);
    let runtime = tokio::select! {
        runtime = Runtime::open(config, Role::Worker) => runtime?,
        () = &mut stop => return Ok(()),
    };
    let probes = match config.probe_bind {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let (worker, concurrency) = (runtime.worker_id().as_str().to_owned(), config.worker.concurrency);
    tracing::info!(worker, concurrency, forever, model = %config.model, "working");
    if let Some(remedy) = config.missing_credential() {
        tracing::warn!("{remedy}; runs will fail until then");
    }
    let Worked { idle, runs, webhooks } = runtime.work(probes, forever, stop).await?;
    match idle {
        Some(idle) => tracing::info!(runs, webhooks, ?idle, "nothing is left to do"),
        None => tracing::info!(runs, webhooks, "stopped"),
    }
    Ok(())
}

async fn listen(address: std::net::SocketAddr) -> Result<TcpListener, Error> {
    let unavailable = |e| Error::Unavailable(format!("TORPOR_PROBE_BIND: cannot listen on {address}: {e}"));
    let listener = TcpListener::bind(address).await.map_err(unavailable)?;
    let address = listener.local_addr().context("cannot read the listener's address")?;
    tracing::info!("probes are answered on http://{address}");
    Ok(listener)
}
