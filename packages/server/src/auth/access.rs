//! Who may use which route.
//!
//! Owns: the one table. A route that is not in it answers nobody, so that a new route is closed until somebody says
//! here who may use it. Must not know: how callers are told apart.

use http::Method;
use torpor_core::key::Scope;

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: it tells nothing about any tenant.
    Public,
    /// This scope, for the caller's tenant.
    Needs(Scope),
    /// This scope, with a key for every tenant.
    Everywhere(Scope),
    /// The right to manage keys. Not even a server without keys gives it to anybody.
    Keys,
}

use Access::{Everywhere, Keys, Needs, Public};
use Scope::{GatesDecide, RunsRead, RunsWrite};

/// Path, method, access. `HEAD` is `GET`.
const TABLE: &[(&str, &str, Access)] = &[
    ("/health", "GET", Public),
    ("/livez", "GET", Public),
    ("/readyz", "GET", Public),
    // It describes the program, which is the same everywhere.
    ("/openapi.json", "GET", Public),
    // Counts of all tenants together.
    ("/metrics", "GET", Everywhere(RunsRead)),
    ("/runs", "GET", Needs(RunsRead)),
    // A `decision` in the envelope needs more than this; the handler asks for it.
    ("/runs", "POST", Needs(RunsWrite)),
    ("/runs/status", "GET", Needs(RunsRead)),
    ("/runs/{runId}", "GET", Needs(RunsRead)),
    ("/runs/{runId}/events", "GET", Needs(RunsRead)),
    ("/runs/{runId}/cancel", "POST", Needs(RunsWrite)),
    ("/runs/{runId}/messages", "POST", Needs(RunsWrite)),
    ("/runs/{runId}/approve", "POST", Needs(GatesDecide)),
    ("/runs/{runId}/reject", "POST", Needs(GatesDecide)),
    ("/runs/{runId}/abort", "POST", Needs(GatesDecide)),
    ("/run-leaf", "POST", Needs(RunsWrite)),
    ("/run-leaf/status", "GET", Needs(RunsRead)),
    ("/turn", "POST", Needs(RunsWrite)),
    ("/runs/{runId}/redrive", "POST", Needs(RunsWrite)),
    ("/dead-letters", "GET", Needs(RunsRead)),
    ("/gates", "GET", Needs(RunsRead)),
    ("/sessions", "GET", Needs(RunsRead)),
    ("/sessions/import", "POST", Needs(RunsWrite)),
    ("/sessions/{id}", "GET", Needs(RunsRead)),
    ("/sessions/{id}", "DELETE", Needs(RunsWrite)),
    ("/sessions/{id}/log", "GET", Needs(RunsRead)),
    ("/sessions/{id}/export", "GET", Needs(RunsRead)),
    ("/sessions/{id}/fork", "POST", Needs(RunsWrite)),
    ("/schedules", "GET", Needs(RunsRead)),
    ("/schedules/{id}", "GET", Needs(RunsRead)),
    ("/schedules/{id}/pause", "POST", Needs(RunsWrite)),
    ("/schedules/{id}/resume", "POST", Needs(RunsWrite)),
    ("/schedules/{id}/fire", "POST", Needs(RunsWrite)),
    ("/keys", "GET", Keys),
    ("/keys", "POST", Keys),
    ("/keys/{id}", "DELETE", Keys),
    ("/keys/{id}/rotate", "POST", Keys),
];

/// What the table says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// This is asked for.
    Is(Access),
    /// The path takes other methods: these.
    Takes(String),
    /// It says nothing of this path.
    Unlisted,
}

/// What a request with this method for the route with this path is asked for.
pub(super) fn of(method: &Method, path: &str) -> Route {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let mut of_path = TABLE.iter().filter(|(p, ..)| *p == path).peekable();
    if of_path.peek().is_none() {
        return Route::Unlisted;
    }
    if let Some((_, _, access)) = of_path.clone().find(|(_, m, _)| *m == method) {
        return Route::Is(*access);
    }
    let names: Vec<_> = of_path.map(|(_, m, _)| if *m == "GET" { "GET,HEAD" } else { m }).collect();
    Route::Takes(names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_table_does_not_say_is_closed() {
        assert_eq!(of(&Method::HEAD, "/runs"), Route::Is(Needs(RunsRead)));
        assert_eq!(of(&Method::PUT, "/runs"), Route::Takes("GET,HEAD,POST".into()));
        assert_eq!(of(&Method::GET, "/nobody/thought/of"), Route::Unlisted);
    }

    /// Read from the source, because a router does not tell its routes: every method of every route has its entry.
    #[test]
    fn every_route_has_an_entry() {
        let source = include_str!("../routes.rs");
        let routes = source.split(".route(").skip(1).map(|call| call.split("\n        .").next().unwrap());
        let mut seen = 0;
        for call in routes {
            let path = call.split('"').nth(1).unwrap();
            for (word, method) in [
                ("get(", Method::GET),
                ("post(", Method::POST),
                ("delete(", Method::DELETE),
                ("put(", Method::PUT),
                ("patch(", Method::PATCH),
            ] {
                let handles = call
                    .match_indices(word)
                    .any(|(at, _)| !call[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
                if handles {
                    seen += 1;
                    assert!(matches!(of(&method, path), Route::Is(_)), "{method} {path} has no entry");
                }
            }
            assert!(!call.contains("any("), "{path}: a route names its methods");
        }
        assert!(seen >= 13, "the source was not understood: {seen} routes");
    }
}
