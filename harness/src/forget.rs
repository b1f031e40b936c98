//! Making the hands forget a session that was removed.
//!
//! The store names it until it hears that they did, so this may be dropped, or die, at any point and be begun again by
//! anybody.

use std::time::Duration;

use torpor_core::sandbox::{self, Forgotten, SandboxTransport};
use torpor_core::session::{SessionStore, ToForget};
use torpor_core::store;

/// Longest that the hands may take to forget one session before the next one gets its turn.
const FORGET_LIMIT: Duration = Duration::from_secs(30);

/// Why a session is not forgotten yet. Try again later.
#[derive(Debug, thiserror::Error)]
pub enum NotForgotten {
    /// The hands did not answer in time.
    #[error("the sandbox did not answer within {FORGET_LIMIT:?}")]
    Late,
    /// The hands said no.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// They have forgotten, and the store could not note it.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Has the hands forget a session, and notes that they did. Idempotent.
///
/// # Errors
/// See [`NotForgotten`]; the session is still named by the store.
pub async fn forget(
    sessions: &dyn SessionStore,
    hands: &dyn SandboxTransport,
    what: &ToForget,
) -> Result<Forgotten, NotForgotten> {
    let forgetting = tokio::time::timeout(FORGET_LIMIT, hands.forget(&what.session, what.epoch));
    let gone = forgetting.await.map_err(|_| NotForgotten::Late)??;
    sessions.forgotten(what).await?;
    tracing::info!(session = %what.session.digest(), calls = gone.calls, files = gone.files, "the sandbox forgot a session");
    Ok(gone)
}
