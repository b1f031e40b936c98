//! Sending webhooks: one attempt at one message.
//!
//! Owns: which addresses may be reached, signatures, and one bounded request over HTTP. Must not know: when a message is
//! tried again, where it is kept, what it says.
//!
//! A run's caller chooses the URL, so this program must not lend them its place in the network: a name is resolved here,
//! every address is judged, and the connection goes to one that was judged and to no other. There is no proxy, no
//! redirect is followed, and nothing of an answer but its status and `Retry-After` is looked at.

pub mod address;
mod allow;
mod resolve;
mod send;
mod sign;
mod url;

pub use allow::Allow;
pub use send::{ATTEMPT, Sender, Settings};
pub use sign::Secret;

/// The name of the secret that signs where a target names none.
pub const DEFAULT_SECRET: &str = "default";

/// The secrets that the operator has configured.
pub trait Secrets: Send + Sync + 'static {
    /// The secrets of this tenant under this name, the current one first; more than one while a new one is introduced:
    /// then a message carries a signature of each. Empty when there is none. What one tenant has, no other can name.
    fn find(&self, tenant: &str, name: &str) -> Vec<Secret>;
}
