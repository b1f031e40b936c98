//! Model providers: who is called, in which wire format, and how an answer becomes one that can be acted on.
//!
//! Owns: provider wire formats (pure encoding and decoding), the server-sent events decoder, the one HTTP transport,
//! scripted turns for tests and demonstrations, and the [`Models`] router that joins them.
//! Must not know: the session log, retry policy (errors carry the advice, the caller decides), tools, the environment.
//!
//! A new provider is a new `remote::Wire` and one line in [`Models::new`]; the transport knows none of them.

pub mod config;
pub mod price;
pub mod scripted;
pub mod sse;

mod answer;
mod anthropic;
mod images;
mod openai;
mod pending;
mod redact;
mod remote;
mod router;
mod transport;
mod window;

pub use config::{Config, Secret};
pub use router::{Models, PROVIDERS};
pub use transport::{http_client, tls};
pub use window::Limits;
