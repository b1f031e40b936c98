//! Work that stands in a file: read once, when the run starts.
//!
//! Owns: when the file is read, how long a volume that is away is waited for, and that what it said holds from then on. Must
//! not know: how a file is opened, or what work means.
//!
//! What the file says is part of the entry that starts the run, before anything acts on it: until that entry is durable
//! nothing has happened and the file may be read again, and from then on the file is never looked at.

use std::time::Duration;

use torpor_core::envelope::{MAX_INPUTS_BYTES, Work, read_inputs};
use torpor_core::outcome::{FailReason, Outcome};
use torpor_core::volume::Error;

use crate::leaf::{Leaf, Step};
use crate::state::Started;

/// Wait before a volume that is away is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is done, as the entry that started the run says it, where the envelope left it to a file.
pub(crate) fn as_started(work: Work, started: &Started) -> Work {
    match (work, &started.item) {
        (Work::Inputs { .. }, Some(item)) => Work::Review { item: item.clone() },
        // Its words are in the conversation.
        (Work::Inputs { .. }, None) => Work::Prompt { prompt: String::new() },
        (work, _) => work,
    }
}

impl Leaf<'_> {
    /// Puts what the file says in the place of its name. Ends the run if that cannot be done.
    pub(crate) async fn take_inputs(&mut self) -> Step {
        let Work::Inputs { inputs } = &self.lease.record.spec.work else { return Ok(None) };
        let name = format!("`inputsRef` {:?}", inputs.path.to_string_lossy());
        let Some(volume) = self.deps.volume.clone() else {
            return self.bad_inputs(format!("{name}: no shared volume is configured here")).await;
        };
        let (inputs, clock) = (inputs.clone(), self.deps.clock.clone());
        let until = clock.now().after(self.deps.settings.store_patience);
        let reading = async {
            loop {
                match volume.read(&inputs, MAX_INPUTS_BYTES).await {
                    Err(Error::Away(why)) if clock.now() < until => {
                        tracing::warn!(why, "the shared volume is away; waiting");
                        clock.sleep(AGAIN).await;
                    }
                    answer => break answer,
                }
            }
        };
        let read = tokio::select! {
            biased;
            why = self.interrupt() => return self.interrupted(why).await.map(Some),
            read = reading => read,
        };
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(Error::Away(why)) => {
                tracing::error!(run = %self.run(), why, "the shared volume did not come back");
                return self.bad_inputs(format!("{name} cannot be read: the shared volume is not there")).await;
            }
            Err(e) => return self.bad_inputs(format!("{name} {e}")).await,
        };
        let spec = &mut self.lease.record.spec;
        match read_inputs(&bytes, spec.output_schema.is_some()) {
            Ok(work) => spec.work = work,
            Err(e) => return self.bad_inputs(format!("{name}: {e}")).await,
        }
        self.budget = self.deps.settings.budget(&self.lease.record.spec);
        Ok(None)
    }

    async fn bad_inputs(&mut self, message: String) -> Step {
        self.end(Outcome::failed(FailReason::BadInputs, message)).await.map(Some)
    }
}
