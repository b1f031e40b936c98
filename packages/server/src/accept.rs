//! Taking connections, and going away in good order.
//!
//! Owns: the accept loop, the cap on connections, and the course of the drain. Must not know: what happens on a
//! connection.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use torpor_core::observe::{Level, Present};

use crate::app::App;
use crate::config::{Config, Invalid};
use crate::connection::{drive, refuse};
use crate::phase::Phase;
use crate::routes;
use crate::submit::Shared;

/// Connections over the cap that are told so at once; any more are closed without a word.
const MAX_REFUSALS: usize = 64;

/// How long the accept loop rests after a failure that repeats by itself (no file descriptors left).
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// The end of the drain in which clients that still wait for a run are told where to find it. At most a quarter of
/// the drain.
const HURRY: Duration = Duration::from_secs(1);

/// How long connections that were cut may take to be gone.
const CUT: Duration = Duration::from_secs(1);

/// Serves until `shutdown` completes, then drains: nothing new is accepted, requests under way get up to
/// `config.drain` to end, half-sent ones are dropped, and clients that still wait for a run near the end are answered
/// 202 with its address. The runs themselves are not touched.
///
/// Dropping the future stops accepting; open connections then go on until their clients end them.
///
/// # Errors
/// [`Invalid`] names a setting that makes no sense; nothing was served then.
pub async fn serve(
    listener: TcpListener,
    app: App,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Invalid> {
    serve_routes(listener, app, config, routes::build, shutdown).await
}

/// As [`serve`], with nothing but `/livez`, `/readyz` and `/metrics`: for a process that takes no requests, and whoever
/// watches it.
///
/// # Errors
/// As [`serve`].
pub async fn serve_probes(
    listener: TcpListener,
    app: App,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Invalid> {
    serve_routes(listener, app, config, routes::build_probes, shutdown).await
}

async fn serve_routes(
    listener: TcpListener,
    app: App,
    config: Config,
    routes: fn(Arc<Shared>) -> Router,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Invalid> {
    config.check()?;
    let shared = Shared::new(app, config);
    let slots = Arc::new(Semaphore::new(shared.config.max_connections));
    accept(listener, routes(Arc::clone(&shared)), &shared, &slots, shutdown).await;
    drain(&shared, &slots).await;
    Ok(())
}

async fn accept(
    listener: TcpListener,
    router: Router,
    shared: &Arc<Shared>,
    slots: &Arc<Semaphore>,
    shutdown: impl Future<Output = ()>,
) {
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => return,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(e) => {
                use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
                if !matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
                    tracing::warn!(error = %e, "connections cannot be accepted");
                    sleep(ACCEPT_REST).await;
                }
                continue;
            }
        };
        if let Err(e) = socket.set_nodelay(true) {
            tracing::debug!(error = %e, "a connection closed before it began");
            continue;
        }
        if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
            let (router, shared) = (router.clone(), Arc::clone(shared));
            let present = Present::new(Arc::clone(&shared.app.observer), Level::Connections);
            tokio::spawn(async move {
                drive(socket, router, shared).await;
                drop((slot, present));
            });
        } else if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
            tokio::spawn(async move {
                refuse(socket).await;
                drop(refusal);
            });
        }
    }
}

async fn drain(shared: &Shared, slots: &Semaphore) {
    let config = &shared.config;
    let hurry = HURRY.min(config.drain / 4);
    // `Config::check` keeps the number within u32.
    let all = u32::try_from(config.max_connections).unwrap_or(u32::MAX);
    for (phase, patience) in [(Phase::Draining, config.drain - hurry), (Phase::Hurrying, hurry), (Phase::Gone, CUT)] {
        shared.phase.enter(phase);
        if timeout(patience, slots.acquire_many(all)).await.is_ok() {
            return;
        }
        tracing::info!(?phase, open = config.max_connections - slots.available_permits(), "connections are still open");
    }
}
