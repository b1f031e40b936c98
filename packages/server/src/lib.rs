//! The HTTP surface: routes, problem answers, limits, drain.
//!
//! Owns: what a request looks like on the wire and what it is answered, how long a client may take for each part of
//! a request, how many connections there are, and how the server goes away in good order.
//! Must not know: how a run is worked on, which store there is, any model or sandbox; it sees the seams of
//! `torpor-core`, the checks of `torpor-harness` and the scheduler of `torpor-schedule`, nothing else.

mod accept;
mod answer;
mod app;
mod auth;
mod body;
mod config;
mod connection;
mod headers;
mod intake;
mod layer;
mod pages;
mod phase;
mod problem;
mod routes;
mod stream;
mod submit;

pub use accept::{serve, serve_probes};
pub use app::{App, Check, LocalWorker, Room, Scrape};
pub use config::{Config, Invalid as InvalidConfig};
pub use intake::Intake;
pub use routes::keys::{MAX_OVERLAP_SECONDS, USUAL_OVERLAP, show as show_key, show_secret as show_key_secret};
pub use routes::router;
