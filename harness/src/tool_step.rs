//! The tool step: check, refuse or dispatch, in waves.
//!
//! Calls of one message run at the same time, except that a call which changes a file by itself (`write`, `edit`)
//! waits for those before it and holds those after it. Results reach the model in the order of its calls.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use torpor_core::entry::{Body, ToolEnding};
use torpor_core::envelope::{Item, Work};
use torpor_core::gate::Action;
use torpor_core::id::{CallId, Position};
use torpor_core::message::{StopReason, ToolResult};
use torpor_core::observe::Called;
use torpor_core::outcome::{FailReason, Outcome};
use torpor_core::sandbox::{self, Ended};
use torpor_core::tool::Place;

use crate::approval;
use crate::catalogue::{self, Known, REQUEST_APPROVAL, SUBMIT_RESULT};
use crate::leaf::{Interrupt, Leaf, LeafEnd, Step};
use crate::prompt;
use crate::state::Use;
use crate::watch::Watcher;
use crate::writer::Stopped;

/// What is to be done with one use.
enum Plan {
    /// Answer it without any effect.
    Answer(ToolEnding, ToolResult),
    /// Send it to the hands, or attach to it there.
    Dispatch,
    /// A person must decide about it first.
    Hold,
    /// It needs hands and there are none.
    NoSandbox,
}

impl Leaf<'_> {
    /// One wave of calls; the loop comes back until every use has its result.
    pub(crate) async fn tool_step(&mut self) -> Step {
        let uses: Vec<Use> = self.state().unanswered_uses().cloned().collect();
        let (mut wave, mut held) = (Vec::new(), Vec::new());
        let mut asked = false;
        for u in uses {
            let plan = if asked && u.name != REQUEST_APPROVAL && u.intent.is_none() {
                Plan::Answer(ToolEnding::Refused, ToolResult::error(approval::FROZEN))
            } else {
                self.plan(&u)
            };
            asked |= u.name == REQUEST_APPROVAL;
            let alone = catalogue::is_barrier(&u.name);
            match plan {
                Plan::Answer(ending, result) => {
                    self.watcher().call(None, &u).ended(answered(ending, &result));
                    self.stage_end(&u, None, ending, result);
                }
                Plan::NoSandbox => {
                    let message = format!("the model called `{}`, and no sandbox is configured", u.name);
                    return self.end(Outcome::failed(FailReason::NoSandbox, message)).await.map(Some);
                }
                Plan::Dispatch if alone && !(wave.is_empty() && held.is_empty()) => break,
                Plan::Dispatch => wave.push(u),
                Plan::Hold => held.push(u),
            }
            // What comes after a write must see it; so what comes after one that waits, waits too.
            if alone && !(wave.is_empty() && held.is_empty()) {
                break;
            }
        }
        if !wave.is_empty() {
            self.run_wave(wave).await
        } else if !held.is_empty() {
            self.park(held).await
        } else {
            Ok(None)
        }
    }

    /// Asks a person about each of these. The run waits, without a brain, until all are decided.
    async fn park(&mut self, held: Vec<Use>) -> Step {
        let expires_at = self.deps.settings.gate_ttl.map(|ttl| self.deps.clock.now().after(ttl));
        let run = self.run();
        let fresh = held.into_iter().filter(|u| u.gate.is_none());
        let gates: Vec<Body> = fresh
            .zip(self.lease.head.next_gate..)
            .map(|(u, gate)| Body::GateRequested {
                run: run.clone(),
                gate,
                question: approval::question(&u.name, &u.input),
                tool_use: u.id,
                expires_at,
            })
            .collect();
        if gates.is_empty() {
            return Ok(Some(LeafEnd::Store("the run was handed out while a gate of it was pending".into())));
        }
        for gate in gates {
            self.writer.stage(gate);
        }
        self.writer.commit().await?;
        Ok(Some(LeafEnd::Parked))
    }

    /// Decides about one use, at dispatch, the same for every entrance.
    fn plan(&self, u: &Use) -> Plan {
        let refuse = |text: String| Plan::Answer(ToolEnding::Refused, ToolResult::error(text));
        if u.intent.is_some() {
            return Plan::Dispatch; // decided before; the hands know what became of it
        }
        if self.state().stop == Some(StopReason::MaxTokens) {
            return refuse(
                "Your message was cut off by the output limit, so none of its calls were run. \
                           Make smaller calls: for instance write a long file in several steps."
                    .into(),
            );
        }
        let offered = self.state().started.as_ref().map(|s| s.tools.as_slice()).unwrap_or_default();
        let Some(known) = catalogue::find(&u.name) else {
            return refuse(format!("There is no tool `{}`. Available: {}.", u.name, offered.join(", ")));
        };
        if known.tool.place() == Place::Sandbox && self.deps.sandboxes.is_none() {
            return Plan::NoSandbox;
        }
        if !offered.contains(&u.name) {
            return refuse(format!("`{}` is not allowed in this run. Available: {}.", u.name, offered.join(", ")));
        }
        if u.name == SUBMIT_RESULT {
            let (ending, result) = self.answer_result(u);
            return Plan::Answer(ending, result);
        }
        if let Err(text) = known.check(&u.input) {
            return refuse(text);
        }
        match known.tool.place() {
            Place::Person => match &u.gate {
                Some((_, Some(decision))) => {
                    Plan::Answer(ToolEnding::Finished, ToolResult::text(approval::answer(decision)))
                }
                _ => Plan::Hold,
            },
            Place::Sandbox => match &u.gate {
                Some((_, Some(decision))) if decision.action != Action::Approve => {
                    refuse(approval::refusal(&u.name, decision))
                }
                Some((_, Some(_))) => Plan::Dispatch,
                Some((_, None)) => Plan::Hold,
                None if self.needs_approval(&u.name, &u.input) => Plan::Hold,
                None => Plan::Dispatch,
            },
            Place::Session => self.answer_session(known, u),
        }
    }

    fn answer_session(&self, known: &Known, u: &Use) -> Plan {
        if self.state().verdict.is_some() {
            let text = "A verdict was already recorded for this item; the review is over.";
            return Plan::Answer(ToolEnding::Refused, ToolResult::error(text));
        }
        let effect = known.tool.run_session(&u.input);
        if let (Some(verdict), Work::Review { item }) = (&effect.verdict, &self.lease.record.spec.work)
            && verdict.item_id != item.item_id
        {
            let text = format!(
                "This review is about item_id={:?}, not {:?}. Nothing was recorded; call the tool again with the right id.",
                item.item_id, verdict.item_id
            );
            return Plan::Answer(ToolEnding::Refused, ToolResult::error(text));
        }
        if let (Some(_), Work::Review { item: Item { require_approval: true, .. } }) =
            (&effect.verdict, &self.lease.record.spec.work)
        {
            match &u.gate {
                Some((_, Some(decision))) if decision.action == Action::Approve => {}
                Some((_, Some(decision))) => {
                    let text = format!("{}\n{}", approval::refusal(&u.name, decision), approval::NOT_APPROVED);
                    return Plan::Answer(ToolEnding::Refused, ToolResult::error(text));
                }
                None if self.state().approved => {}
                _ => return Plan::Hold,
            }
        }
        Plan::Answer(ToolEnding::Finished, effect.result)
    }

    fn watcher(&self) -> Watcher {
        Watcher::new(self.deps.observer.clone(), &self.lease, &self.trace)
    }

    fn stage_end(&mut self, u: &Use, call: Option<Position>, ending: ToolEnding, result: ToolResult) {
        let body = Body::ToolEnded { run: self.run(), tool_use: u.id.clone(), call, ending, result };
        self.writer.stage(body);
    }

    async fn run_wave(&mut self, wave: Vec<Use>) -> Step {
        let hands = match self.hands().await? {
            Hands::Attached(hands) => hands,
            Hands::Cannot(outcome) => return self.end(outcome).await.map(Some),
            Hands::Busy(why) => return Ok(Some(LeafEnd::Busy(why))), // everything is committed
            Hands::Interrupted(why) => return self.interrupted(why).await.map(Some),
        };
        // Opening may have taken long.
        if let Some(outcome) = self.over_budget() {
            return self.end(outcome).await.map(Some);
        }
        let session = self.lease.session().digest();
        let mut calls = Vec::with_capacity(wave.len());
        for u in wave {
            let (position, incarnation) = match &u.intent {
                Some((position, identity)) => (*position, identity.as_ref().map(|i| i.incarnation.clone())),
                None => (self.stage_intent(&u, hands.identity()), Some(hands.identity().incarnation.clone())),
            };
            let id = CallId { session: session.clone(), position };
            let incarnation = incarnation.unwrap_or_default();
            let (tool, input, trace) = (u.name.clone(), u.input.clone(), Some(self.trace.child()));
            calls.push((sandbox::Call { id, incarnation, tool, input, run: Some(self.run()), trace }, u));
        }
        self.writer.commit().await?; // intent before effect
        self.await_wave(&*hands, calls).await
    }

    fn stage_intent(&mut self, u: &Use, identity: &sandbox::Identity) -> Position {
        self.writer.stage(Body::ToolRequested {
            run: self.run(),
            tool_use: u.id.clone(),
            name: u.name.clone(),
            input: u.input.clone(),
            sandbox: Some(identity.clone()),
        })
    }

    async fn await_wave(&mut self, hands: &dyn sandbox::Sandbox, calls: Vec<(sandbox::Call, Use)>) -> Step {
        let (interrupt, watcher) = (self.interrupt(), self.watcher());
        tokio::pin!(interrupt);
        let mut waiting = calls.iter();
        let start = |(call, u): &'_ (sandbox::Call, Use)| {
            let (call, u) = (call.clone(), u.clone());
            let watched = watcher.call(call.trace.as_ref(), &u);
            async move {
                let position = call.id.position;
                let ended = hands.call(call).await;
                watched.ended(called(&ended));
                (position, u, ended)
            }
        };
        let mut running: FuturesUnordered<_> =
            waiting.by_ref().take(self.deps.settings.parallel_calls).map(start).collect();
        while !running.is_empty() {
            let done = tokio::select! {
                biased;
                why = &mut interrupt => {
                    drop(running);
                    return self.interrupted(why).await.map(Some);
                }
                done = running.next() => done,
            };
            let Some((position, u, ended)) = done else { break };
            running.extend(waiting.next().map(start));
            let (ending, result) = match ended {
                Ok(Ended::Finished(result)) => (ToolEnding::Finished, result),
                Ok(Ended::Lost(why)) => {
                    self.sandbox = None; // the next wave asks for fresh hands
                    (ToolEnding::SandboxLost, ToolResult::error(prompt::lost(&why)))
                }
                Err(sandbox::Error::Fenced { mine, current }) => {
                    return Err(Stopped::Fenced(format!("the hands refused epoch {mine}; current is {current}")));
                }
                // The call's intent stands: whoever goes on later asks for the same call again.
                Err(sandbox::Error::Busy(why)) => {
                    drop(running);
                    self.writer.commit().await?;
                    return Ok(Some(LeafEnd::Busy(why)));
                }
                // A call that the hands will not take is the model's to know, not the run's end.
                Err(sandbox::Error::Refused(why)) => {
                    (ToolEnding::Finished, ToolResult::error(format!("The sandbox refused this call: {why}")))
                }
                Err(e) => {
                    drop(running);
                    return self.end(no_sandbox(&e)).await.map(Some);
                }
            };
            self.stage_end(&u, Some(position), ending, result);
            // The last result travels with the next intent; earlier ones must not wait for slow siblings.
            if !running.is_empty() {
                self.writer.commit().await?;
            }
        }
        Ok(None)
    }

    /// Ends calls at the hands, at this epoch. Best effort: hands that are away have nothing to end, or cannot hear.
    pub(crate) async fn abandon(&mut self, calls: &[Position]) {
        let session = self.lease.session().digest();
        let ids: Vec<CallId> = calls.iter().map(|p| CallId { session: session.clone(), position: *p }).collect();
        let hands = match (&self.sandbox, &self.deps.sandboxes) {
            (Some(hands), _) => hands.clone(),
            (None, None) => return,
            (None, Some(transport)) => match transport.open(self.open_request()).await {
                Ok(hands) => hands,
                Err(e) => return tracing::warn!(run = %self.run(), error = %e, "calls cannot be ended"),
            },
        };
        let cancels = ids.iter().map(|id| hands.cancel(id));
        for failed in futures::future::join_all(cancels).await.into_iter().filter_map(Result::err) {
            tracing::warn!(run = %self.run(), error = %failed, "a call could not be ended");
        }
    }

    fn open_request(&self) -> sandbox::Open {
        sandbox::Open {
            session: self.lease.session().clone(),
            epoch: self.writer.epoch(),
            born: self.lease.born,
            workspace: self.lease.record.spec.workspace_ref.clone(),
        }
    }

    /// The hands, attached at this epoch.
    async fn hands(&mut self) -> Result<Hands, Stopped> {
        if let Some(hands) = &self.sandbox {
            return Ok(Hands::Attached(hands.clone()));
        }
        let Some(transport) = self.deps.sandboxes.clone() else {
            return Ok(Hands::Cannot(Outcome::failed(FailReason::NoSandbox, "no sandbox is configured")));
        };
        self.writer.commit().await?; // opening may take long; an answer that was paid for must not wait for it
        let opened = tokio::select! {
            biased;
            why = self.interrupt() => return Ok(Hands::Interrupted(why)),
            opened = transport.open(self.open_request()) => opened,
        };
        match opened {
            Ok(hands) => {
                self.sandbox = Some(hands.clone());
                match self.went_back(&*hands).await? {
                    Some(outcome) => Ok(Hands::Cannot(outcome)),
                    None => Ok(Hands::Attached(hands)),
                }
            }
            Err(sandbox::Error::Fenced { mine, current }) => {
                Err(Stopped::Fenced(format!("the hands refused epoch {mine}; current is {current}")))
            }
            Err(sandbox::Error::Busy(why)) => Ok(Hands::Busy(why)),
            Err(e) => Ok(Hands::Cannot(no_sandbox(&e))),
        }
    }
}

/// What came of asking for hands.
enum Hands {
    Attached(Arc<dyn sandbox::Sandbox>),
    /// There are none, or none that this log may use; how the run ends without them.
    Cannot(Outcome),
    /// They are taken; later they may not be.
    Busy(String),
    Interrupted(Interrupt),
}

/// How a call that was answered here ended, for those who watch.
fn answered(ending: ToolEnding, result: &ToolResult) -> Called {
    match ending {
        ToolEnding::Finished if result.is_error => Called::Error,
        ToolEnding::Finished => Called::Finished,
        ToolEnding::Refused => Called::Refused,
        ToolEnding::SandboxLost => Called::Lost,
    }
}

/// How a call of the hands ended, for those who watch.
fn called(ended: &Result<Ended, sandbox::Error>) -> Called {
    match ended {
        Ok(Ended::Finished(result)) => answered(ToolEnding::Finished, result),
        Ok(Ended::Lost(_)) => Called::Lost,
        Err(sandbox::Error::Refused(_)) => Called::Refused,
        Err(_) => Called::Left,
    }
}

fn no_sandbox(e: &sandbox::Error) -> Outcome {
    let reason = if matches!(e, sandbox::Error::Refused(_)) { FailReason::BadInputs } else { FailReason::NoSandbox };
    Outcome::failed(reason, e.to_string())
}
