//! The routes.
//!
//! Owns: which path and method goes where. Must not know: connections and their timeouts.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use torpor_core::problem::Code;

use crate::app::App;
use crate::auth::guard;
use crate::config::Config;
use crate::layer::around;
use crate::problem::Problem;
use crate::submit::Shared;

mod alias;
mod cancel;
mod dead_letters;
mod events;
mod gates;
mod health;
pub(crate) mod keys;
mod messages;
mod metrics;
mod openapi;
mod query;
mod runs;
mod schedules;
pub(crate) mod sessions;
mod turn;

pub(crate) use metrics::Recent;

/// The routes as a service, for tests without a socket and for embedding. Limits of connections and of the time
/// that heads may take are those of [`crate::serve`] alone.
pub fn router(app: App, config: Config) -> Router {
    build(Shared::new(app, config))
}

pub(crate) fn build(shared: Arc<Shared>) -> Router {
    let routes = Router::new()
        .route("/runs", post(runs::submit).get(query::list))
        .route("/runs/status", get(query::status))
        .route("/runs/{runId}", get(query::record))
        .route("/runs/{runId}/cancel", post(cancel::cancel))
        .route("/runs/{runId}/approve", post(gates::approve))
        .route("/runs/{runId}/reject", post(gates::reject))
        .route("/runs/{runId}/abort", post(gates::abort))
        .route("/runs/{runId}/messages", post(messages::message))
        .route("/runs/{runId}/redrive", post(dead_letters::redrive))
        .route("/dead-letters", get(dead_letters::list))
        .route("/gates", get(gates::list))
        .route("/runs/{runId}/events", get(events::events))
        .route("/sessions", get(sessions::list))
        .route("/sessions/import", post(sessions::import::import))
        .route("/sessions/{id}", get(sessions::summary).delete(sessions::remove::remove))
        .route("/sessions/{id}/fork", post(sessions::fork::fork))
        .route("/sessions/{id}/export", get(sessions::export::export))
        .route("/sessions/{id}/log", get(sessions::log))
        .route("/schedules", get(schedules::list))
        .route("/schedules/{id}", get(schedules::show))
        .route("/schedules/{id}/pause", post(schedules::pause))
        .route("/schedules/{id}/resume", post(schedules::resume))
        .route("/schedules/{id}/fire", post(schedules::fire))
        .route("/run-leaf", post(alias::submit))
        .route("/run-leaf/status", get(alias::status))
        .route("/turn", post(turn::turn))
        .route("/keys", post(keys::create).get(keys::list))
        .route("/keys/{id}", delete(keys::revoke))
        .route("/keys/{id}/rotate", post(keys::rotate))
        .route("/openapi.json", get(openapi::describe))
        .route("/health", get(health::health))
        .route("/livez", get(health::health))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::metrics));
    finish(routes, shared)
}

/// Only what machines ask of a process that serves nobody.
pub(crate) fn build_probes(shared: Arc<Shared>) -> Router {
    let routes = Router::new()
        .route("/livez", get(health::health))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::metrics));
    finish(routes, shared)
}

/// What every router has besides its routes.
fn finish(routes: Router<Arc<Shared>>, shared: Arc<Shared>) -> Router {
    routes
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .layer(from_fn_with_state(Arc::clone(&shared), around))
        .with_state(shared)
}

async fn no_route() -> Problem {
    Problem::new(Code::NotFound, "No route has this path.")
}

async fn no_method(request: Request) -> Problem {
    Problem::wrong_method(request.method())
}
