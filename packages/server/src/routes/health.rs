//! `/health`, `/livez` and `/readyz`.
//!
//! Owns: how dependencies are asked and their answers shown. Must not know: which dependencies there are.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use futures::future::join_all;
use http::StatusCode;
use serde_json::{Map, Value, json};
use torpor_core::problem::Code;

use crate::answer;
use crate::app::Check;
use crate::phase::Phase;
use crate::problem::Problem;
use crate::submit::Shared;

/// The process answers. Nothing else is asked.
pub(crate) async fn health() -> &'static str {
    "ok"
}

/// Whether a request that came now could be served.
pub(crate) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let store = async {
        let ping = tokio::time::timeout(shared.config.check_timeout, shared.app.runs.ping()).await;
        let state = match ping {
            Ok(Ok(())) => Ok("answers".to_owned()),
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "the store is not ready");
                Err("the store does not answer".to_owned())
            }
            Err(_) => Err(too_slow(&shared)),
        };
        ("store", state)
    };
    let others = join_all(shared.app.checks.iter().map(|check| ask(&shared, check.as_ref())));
    let (store, others) = tokio::join!(store, others);

    let mut checks = Map::new();
    let mut reasons = Vec::new();
    if shared.phase.now() > Phase::Serving {
        reasons.push("the server is shutting down".to_owned());
    }
    for (name, state) in std::iter::once(store).chain(others) {
        let (ok, text) = match state {
            Ok(text) => (true, text),
            Err(text) => {
                reasons.push(format!("{name}: {text}"));
                (false, text)
            }
        };
        checks.insert(name.to_owned(), json!({"ok": ok, "detail": text}));
    }
    if reasons.is_empty() {
        return answer::json(StatusCode::OK, &json!({"status": "ready", "checks": checks}));
    }
    let detail = format!("Not ready: {}.", reasons.join("; "));
    Problem::new(Code::Unavailable, detail)
        .with("reasons", reasons.into())
        .with("checks", Value::Object(checks))
        .into_response()
}

async fn ask<'a>(shared: &Shared, check: &'a dyn Check) -> (&'a str, Result<String, String>) {
    let state = tokio::time::timeout(shared.config.check_timeout, check.check()).await;
    (check.name(), state.unwrap_or_else(|_| Err(too_slow(shared))))
}

fn too_slow(shared: &Shared) -> String {
    format!("no answer within {:?}", shared.config.check_timeout)
}
