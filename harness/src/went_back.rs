//! Whether the log is as new as what was done for it.
//!
//! A store may come back with an older state of itself: a copy that was restored, a replica that had not heard of the last
//! entries. Then the log does not hold what the hands did, and a brain that went on from there could do it again. An
//! intent is stored before the hands hear of the call, so one look tells: the last call that they know of must stand in the
//! log. They are asked while they are opened, which fences everybody who could add to what they know.

use torpor_core::entry::Body;
use torpor_core::id::Position;
use torpor_core::outcome::{FailReason, Outcome};
use torpor_core::sandbox::{LastCall, Sandbox};

use crate::leaf::Leaf;
use crate::state::Use;
use crate::writer::{Patience, Stopped};

impl Leaf<'_> {
    /// How the run ends if its log went back behind what the hands know.
    pub(crate) async fn went_back(&self, hands: &dyn Sandbox) -> Result<Option<Outcome>, Stopped> {
        let Some(last) = hands.last_call() else { return Ok(None) };
        let under_way = |u: &Use| u.intent.as_ref().is_some_and(|(at, _)| *at == last.position);
        if self.state().open.iter().any(|u| under_way(u) && last.is(&u.name, &u.input)) {
            return Ok(None); // a call that is to be attached to
        }
        if self.holds(last).await? {
            return Ok(None);
        }
        let Position(position) = last.position;
        tracing::error!(run = %self.run(), position, "the log went back behind what the sandbox did for it");
        let message = format!(
            "the log of this session is older than what its sandbox did for it: the sandbox knows of a call at position \
             {position} that the log does not hold, so the store came back with an older state (a restored copy, a \
             failover). No more calls are sent to it, because a command could run twice. A fork of the session goes on \
             in a sandbox of its own"
        );
        Ok(Some(Outcome::failed(FailReason::Error, message)))
    }

    /// Whether the log holds the intent of this call.
    async fn holds(&self, last: &LastCall) -> Result<bool, Stopped> {
        let mut patience = Patience::new(&*self.deps.clock, self.deps.settings.store_patience);
        let entries = loop {
            match self.deps.log.read(self.lease.session(), last.position, 1).await {
                Ok(entries) => break entries,
                Err(e) => patience.wait(e).await.map_err(Stopped::Store)?,
            }
        };
        let entry = entries.first().filter(|e| e.position == last.position);
        Ok(entry.is_some_and(|e| matches!(&e.body, Body::ToolRequested { name, input, .. } if last.is(name, input))))
    }
}
