//! The model step: intent, call with bounded retries, answer.

use std::time::Duration;

use torpor_core::entry::Body;
use torpor_core::id::Position;
use torpor_core::live::Piece;
use torpor_core::model::{Message, Prepared, Ref, Request, Retry};
use torpor_core::outcome::{FailReason, Outcome};
use torpor_core::price::Usd;
use torpor_core::{message::Assistant, tool};

use crate::catalogue::{self, SUBMIT_RESULT};
use crate::compaction::{Compacted, without_images};
use crate::leaf::{Interrupt, Leaf, Step};
use crate::prompt;
use crate::settings::RetryPolicy;
use crate::watch::ModelCall;

/// What became of a model call with its retries.
pub(crate) enum Called {
    Answered {
        message: Assistant,
        attempts: u32,
        /// What it cost, where that can be said.
        cost: Option<Usd>,
    },
    /// It does not fit into the model's window.
    TooLong(String),
    /// The provider does not take its images.
    ImagesRefused(String),
    Failed(String),
    Interrupted(Interrupt),
}

impl Leaf<'_> {
    pub(crate) async fn model_step(&mut self) -> Step {
        let prepared = match self.prepare(&self.state().messages) {
            Ok(prepared) => prepared,
            Err(message) => return self.end(Outcome::failed(FailReason::Model, message)).await.map(Some),
        };
        if self.is_too_long(&prepared) {
            match self.compact(prepared.room).await? {
                Compacted::Done => return Ok(None),
                Compacted::Nothing => {} // whether it fits after all is for the provider to say
                Compacted::Ended(step) => return step,
            }
        }
        let (fingerprint, estimate, cost) = self.intent(&prepared);
        let request = self.writer.stage(Body::ModelRequested { run: self.run(), fingerprint, estimate, cost });
        self.writer.commit().await?;
        match self.call_model(&prepared, Some(request)).await {
            Called::Answered { message, attempts, cost } => {
                let message = message.with_distinct_uses();
                self.writer.stage(Body::ModelAnswered { run: self.run(), message, attempts, cost });
                Ok(None)
            }
            Called::TooLong(message) => self.shorten_once(&prepared, message).await,
            // Once more without them. Whoever takes over finds out anew: the model behind a name may have changed.
            Called::ImagesRefused(message) => {
                tracing::warn!(run = %self.run(), error = %message, "the model takes no images; going on without them");
                self.blind = true;
                Ok(None)
            }
            Called::Failed(message) => self.end(Outcome::failed(FailReason::Model, message)).await.map(Some),
            Called::Interrupted(i) => self.interrupted(i).await.map(Some),
        }
    }

    /// The provider says that the conversation does not fit, though it was expected to: a summary, and one more try.
    async fn shorten_once(&mut self, prepared: &Prepared, message: String) -> Step {
        if !std::mem::replace(&mut self.shortened, true) {
            // What was sent is too much, whatever the window is said to be.
            let room = prepared.room.min(prepared.estimate);
            match self.compact(room).await? {
                Compacted::Done => return Ok(None),
                Compacted::Nothing => {}
                Compacted::Ended(step) => return step,
            }
        }
        let full = "the session no longer fits into the model's context window; start a new session";
        self.end(Outcome::failed(FailReason::Model, format!("{full} ({message})"))).await.map(Some)
    }

    pub(crate) fn prepare(&self, messages: &[Message]) -> Result<Prepared, String> {
        let Some(started) = &self.state().started else {
            return Err("the run has no beginning in its log".into());
        };
        let model = Ref::parse(&started.model)?;
        let tools: Vec<&tool::Spec> = started.tools.iter().filter_map(|name| self.spec_of(name)).collect();
        let submits = matches!(self.output, Ok(Some(_)));
        let system = prompt::system(started.workdir.as_deref(), submits);
        let blinded;
        let messages = if self.blind {
            blinded = without_images(messages, prompt::IMAGE_REFUSED);
            &blinded
        } else {
            messages
        };
        let request = Request { model: &model, system: &system, tools: &tools, messages };
        self.deps.models.prepare(&request).map_err(|e| e.to_string())
    }

    /// A tool as this run's model is shown it.
    fn spec_of(&self, name: &str) -> Option<&tool::Spec> {
        match &self.output {
            Ok(Some(output)) if name == SUBMIT_RESULT => Some(output.spec()),
            _ => catalogue::find(name).map(|known| known.tool.spec()),
        }
    }

    /// What the log says of a request before it is sent: its fingerprint, its estimated tokens, and their cost.
    pub(crate) fn intent(&self, prepared: &Prepared) -> (String, u64, Option<Usd>) {
        let cost = self.deps.settings.prices.of(&prepared.model).map(|price| price.estimate(prepared.estimate));
        (prepared.fingerprint.clone(), prepared.estimate, cost)
    }

    /// Whether requests for an answer have images.
    fn shows_images(&self) -> bool {
        !self.blind && self.state().messages.iter().any(|m| m.images().next().is_some())
    }

    /// Calls with retries. Pieces of the answer to the request at `shown` go to live followers.
    pub(crate) async fn call_model(&self, prepared: &Prepared, shown: Option<Position>) -> Called {
        let policy = self.deps.settings.retry;
        // One span for the call with all its attempts, as it is one for the loop.
        let span = self.trace.child();
        let prepared = Prepared { trace: Some(span.clone()), ..prepared.clone() };
        let price = self.deps.settings.prices.of(&prepared.model);
        let mut watched =
            ModelCall::new(&*self.deps.observer, &self.lease, (&prepared.model, price), (&span, &self.trace));
        let interrupt = self.interrupt();
        let has_images = shown.is_some() && self.shows_images();
        let work = async {
            let mut attempt = 1;
            loop {
                // Pieces are for live followers; the log gets the whole answer.
                let mut show = |delta| {
                    if let Some(request) = shown {
                        self.deps.live.publish(&self.lease.record.run_id, Piece { request, attempt, delta });
                    }
                };
                watched.send(attempt > 1);
                let sent = self.deps.models.send(&prepared, &mut show).await;
                watched.sent(&sent);
                let e = match sent {
                    Ok(message) => {
                        let cost = price.and_then(|price| price.cost(&message.usage));
                        return Called::Answered { message, attempts: attempt, cost };
                    }
                    Err(e) => e,
                };
                if e.overflow {
                    return Called::TooLong(e.message);
                }
                if e.images && has_images {
                    return Called::ImagesRefused(e.message);
                }
                if e.retry == Retry::Never || attempt >= policy.attempts {
                    return Called::Failed(failure(&e.message, attempt));
                }
                let wait = pause(policy, attempt, e.retry);
                tracing::warn!(run = %self.lease.record.run_id, attempt, ?wait, error = %e, "model call failed; retrying");
                self.deps.clock.sleep(wait).await;
                attempt += 1;
            }
        };
        tokio::select! {
            biased;
            i = interrupt => Called::Interrupted(i),
            called = work => called,
        }
    }
}

fn failure(message: &str, attempts: u32) -> String {
    if attempts == 1 { message.to_owned() } else { format!("{message} (after {attempts} attempts)") }
}

/// The wait before the next attempt: what the provider asked for, else exponential with up to a quarter of jitter;
/// never more than the policy's cap.
fn pause(policy: RetryPolicy, attempt: u32, retry: Retry) -> Duration {
    let wait = match retry {
        Retry::After(d) => d,
        Retry::Backoff | Retry::Never => {
            let doubled = policy.base.saturating_mul(1_u32 << (attempt - 1).min(16));
            // The id's random bits serve as the source: this needs spread, not secrecy.
            let spread = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
            doubled + doubled / 4 * spread / 255
        }
    };
    wait.min(policy.cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_are_capped_and_honour_the_provider() {
        let policy = RetryPolicy { attempts: 9, base: Duration::from_secs(1), cap: Duration::from_secs(20) };
        let second = |n| pause(policy, n, Retry::Backoff);
        assert!(second(1) >= Duration::from_secs(1) && second(1) <= Duration::from_millis(1250));
        assert!(second(3) >= Duration::from_secs(4) && second(3) <= Duration::from_secs(5));
        assert_eq!(second(30), policy.cap);
        assert_eq!(pause(policy, 1, Retry::After(Duration::from_millis(7))), Duration::from_millis(7));
        assert_eq!(pause(policy, 1, Retry::After(Duration::from_secs(999))), policy.cap);
    }
}
