//! The leaf: one claimed run, from its lease to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use torpor_core::clock::{Clock, Timestamp};
use torpor_core::entry::Body;
use torpor_core::envelope::{Budget, Work};
use torpor_core::id::RunId;
use torpor_core::live::Hub;
use torpor_core::log::SessionLog;
use torpor_core::model;
use torpor_core::observe::{Event, Observer, Span};
use torpor_core::outcome::{FailReason, Outcome};
use torpor_core::queue::Lease;
use torpor_core::sandbox::{Sandbox, SandboxTransport};
use torpor_core::store;
use torpor_core::trace;
use torpor_core::volume::Volume;

use crate::approval::Policy;
use crate::catalogue;
use crate::finish::Finish;
use crate::inputs;
use crate::output::Output;
use crate::prompt;
use crate::settings::Settings;
use crate::state::State;
use crate::watch::work;
use crate::writer::{Patience, Stopped, Writer};

/// What a leaf works with.
#[derive(Clone)]
pub struct Deps {
    /// The session log.
    pub log: Arc<dyn SessionLog>,
    /// The models.
    pub models: Arc<dyn model::ModelClient>,
    /// Where tools run; `None` when no sandbox is configured.
    pub sandboxes: Option<Arc<dyn SandboxTransport>>,
    /// Where files of inputs are; `None` when no shared volume is configured.
    pub volume: Option<Arc<dyn Volume>>,
    /// Where pieces of answers are shown while they stream.
    pub live: Hub,
    /// Who is told what happens.
    pub observer: Arc<dyn Observer>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Settings.
    pub settings: Arc<Settings>,
}

/// How a leaf came to its end.
#[derive(Debug, Clone, PartialEq)]
pub enum LeafEnd {
    /// The run ended; its record is settled.
    Ended(Outcome),
    /// It was asked to stop and stopped at a safe point: release the lease. Running commands go on.
    HandedBack,
    /// There are hands, but they cannot take this session now, or only a newer build can read its log: release the lease to wait, burning no attempt.
    Busy(String),
    /// It waits for people, and nobody owns it: do nothing more.
    Parked,
    /// Another brain owns the session: do nothing more.
    Fenced,
    /// The log could not be read or written: release the lease for a later attempt, if that can be said.
    Store(String),
}

/// How long a leaf that ends may take to make sure that nothing of it runs on.
const ABANDON_LIMIT: Duration = Duration::from_secs(5);

/// A command under way earns patience: a run whose brains died while it ran is given up only after this many times
/// the usual attempts.
const PATIENCE_WITH_CALLS: u32 = 4;

/// Asks a leaf to stop. Clones share the signal.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Signal>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    Go,
    HandBack,
    Cancel,
    Lost,
}

/// The other end of [`Stop`].
#[derive(Debug)]
pub struct StopHandle(watch::Sender<Signal>);

impl Stop {
    /// A signal that says "go on", and the handle that changes it.
    #[must_use]
    pub fn new() -> (StopHandle, Self) {
        let (tx, rx) = watch::channel(Signal::Go);
        (StopHandle(tx), Self(rx))
    }

    /// Whether something other than "go on" was said.
    fn is_said(&self) -> bool {
        *self.0.borrow() != Signal::Go
    }

    /// Waits until something other than "go on" is said. Pending for ever when the handle is gone.
    async fn said(&mut self) -> Signal {
        let said = self.0.wait_for(|s| *s != Signal::Go).await.ok().map(|s| *s);
        match said {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

impl StopHandle {
    /// Stop at the next safe point and give the run back.
    pub fn hand_back(&self) {
        self.0.send_if_modified(|s| *s == Signal::Go && std::mem::replace(s, Signal::HandBack) == Signal::Go);
    }

    /// The run is to be cancelled: end it, and everything of it that runs.
    pub fn cancel(&self) {
        self.0.send_if_modified(|s| {
            let changes = matches!(s, Signal::Go | Signal::HandBack);
            if changes {
                *s = Signal::Cancel;
            }
            changes
        });
    }

    /// The lease is lost: stop at once and touch nothing.
    pub fn lost(&self) {
        self.0.send_replace(Signal::Lost);
    }
}

/// Works on a claimed run until it ends, is handed back, or is overtaken.
///
/// Crash-only: dropping the future at any point is the same as a crash; the next claim goes on from the log.
pub async fn run_leaf(deps: &Deps, lease: Lease, stop: Stop) -> LeafEnd {
    let run = lease.record.run_id.clone();
    let began = Instant::now();
    match Leaf::open(deps, lease, stop).await {
        Ok(mut leaf) => {
            let end = leaf.drive().await.unwrap_or_else(|stopped| end_of(&run, stopped));
            let span = Span { context: &leaf.trace, parent: leaf.lease.record.trace.as_ref(), took: began.elapsed() };
            let outcome = if let LeafEnd::Ended(outcome) = &end { Some(outcome) } else { None };
            let model = leaf.state().started.as_ref().and_then(|s| model::Ref::parse(&s.model).ok());
            let model = model.as_ref();
            deps.observer.observe(&Event::Leaf { span, work: work(&leaf.lease), model, outcome });
            end
        }
        Err(stopped) => end_of(&run, stopped),
    }
}

/// Whether a run has burned its attempts: asked before [`run_leaf`], answered from the log where a command is under
/// way, which is no poison however often its brain dies.
pub async fn is_exhausted(deps: &Deps, lease: &Lease, max_attempts: u32) -> bool {
    if lease.attempt <= max_attempts {
        return false;
    }
    if lease.attempt > max_attempts.saturating_mul(PATIENCE_WITH_CALLS) {
        return true;
    }
    match deps.log.open(lease.session()).await {
        Ok(Some(opened)) => State::replay(lease.record.run_id.clone(), &opened.tail).calls_under_way().is_empty(),
        _ => true,
    }
}

/// Ends a run that has burned its attempts, without running it.
///
/// What it spent and what still runs is taken from the log where that can be read; the append itself needs only what
/// the lease carries.
pub async fn give_up(deps: &Deps, lease: Lease, message: String) -> LeafEnd {
    let run = lease.record.run_id.clone();
    let head = lease.head.position;
    let (state, message) = match deps.log.open(lease.session()).await {
        Ok(Some(opened)) => (State::replay(run.clone(), &opened.tail), message),
        Ok(None) => (State::new(run.clone()), message),
        Err(e) => (State::new(run.clone()), format!("{message}; {e}")),
    };
    let mut leaf = Leaf::new(deps, lease, head, state, Stop::new().1);
    match leaf.end(Outcome::failed(FailReason::DeadLetter, message)).await {
        Ok(end) => end,
        Err(stopped) => end_of(&run, stopped),
    }
}

fn end_of(run: &RunId, stopped: Stopped) -> LeafEnd {
    match stopped {
        Stopped::Fenced(why) => {
            tracing::warn!(%run, why, "this brain was overtaken; it stops here");
            LeafEnd::Fenced
        }
        // Builds of two versions share a store while one replaces the other: a run that the newer one went on with is its to end.
        Stopped::Store(store::Error::Newer(e)) => LeafEnd::Busy(format!("a newer build has to go on with it: {e}")),
        Stopped::Store(e) => {
            tracing::error!(%run, error = %e, "the leaf stops: the log is out of reach");
            LeafEnd::Store(e.to_string())
        }
    }
}

/// What made an effect end early.
pub(crate) enum Interrupt {
    Deadline,
    HandBack,
    Cancel,
    Lost,
}

/// How a step left things: `Some` ends the leaf.
pub(crate) type Step = Result<Option<LeafEnd>, Stopped>;

pub(crate) struct Leaf<'a> {
    pub(crate) deps: &'a Deps,
    pub(crate) lease: Lease,
    pub(crate) writer: Writer,
    pub(crate) budget: Budget,
    /// The span of this leaf: the parent of its calls.
    pub(crate) trace: trace::Context,
    /// What needs approval, or why that cannot be said.
    policy: Result<Policy, String>,
    /// What it must deliver, if that is more than words; or why that cannot be said.
    pub(crate) output: Result<Option<Box<Output>>, String>,
    pub(crate) sandbox: Option<Arc<dyn Sandbox>>,
    /// Whether the conversation was shortened because the provider refused its length.
    pub(crate) shortened: bool,
    /// Whether images are left out because the provider refused them.
    pub(crate) blind: bool,
    stop: Stop,
}

impl<'a> Leaf<'a> {
    fn new(deps: &'a Deps, mut lease: Lease, head: torpor_core::Position, state: State, stop: Stop) -> Self {
        if let Some(started) = &state.started {
            let work = &mut lease.record.spec.work;
            *work = inputs::as_started(work.clone(), started);
        }
        let owner = (lease.session().clone(), lease.epoch);
        let patience = deps.settings.store_patience;
        let writer = Writer::new(deps.log.clone(), deps.clock.clone(), owner, head, state, patience);
        let budget = deps.settings.budget(&lease.record.spec);
        let trace = lease.record.trace.as_ref().map_or_else(trace::Context::fresh, trace::Context::child);
        let policy = deps.settings.policy(&lease.record.spec);
        let output = lease.record.spec.output_schema.as_ref().map(Output::new).transpose().map(|o| o.map(Box::new));
        Self { deps, lease, writer, budget, trace, policy, output, sandbox: None, shortened: false, blind: false, stop }
    }

    /// Reads the tail and derives the state. A session without entries costs no read.
    async fn open(deps: &'a Deps, lease: Lease, stop: Stop) -> Result<Self, Stopped> {
        let run = lease.record.run_id.clone();
        if lease.head.position.0 == 0 {
            return Ok(Self::new(deps, lease, torpor_core::Position(0), State::new(run), stop));
        }
        let session = lease.session().clone();
        let mut patience = Patience::new(&*deps.clock, deps.settings.store_patience);
        let opened = loop {
            match deps.log.open(&session).await {
                Ok(opened) => break opened,
                Err(e) => patience.wait(e).await.map_err(Stopped::Store)?,
            }
        };
        let opened = opened.ok_or_else(|| Stopped::Store(store::Error::Failed("the session's log is gone".into())))?;
        if opened.head.epoch != lease.epoch {
            return Err(Stopped::Fenced(format!("the session is at epoch {}", opened.head.epoch)));
        }
        let state = State::replay(run, &opened.tail);
        Ok(Self::new(deps, lease, opened.head.position, state, stop))
    }

    async fn drive(&mut self) -> Result<LeafEnd, Stopped> {
        if let Some(outcome) = &self.state().outcome {
            return Ok(LeafEnd::Ended(outcome.clone()));
        }
        if self.lease.cancel {
            return self.end(Outcome::Cancelled {}).await;
        }
        if self.state().started.is_some() {
            let body = Body::Takeover { run: self.run(), worker: self.lease.worker.clone() };
            self.writer.stage(body);
        } else if let Some(end) = self.start().await? {
            return Ok(end);
        }
        if let Err(e) = &self.output {
            // It was good when the run began; another build may see it otherwise.
            let outcome = Outcome::failed(FailReason::BadInputs, format!("`outputSchema` {e}"));
            return self.end(outcome).await;
        }
        loop {
            if let Some(end) = self.step().await? {
                return Ok(end);
            }
        }
    }

    /// The next step, as the state demands it.
    async fn step(&mut self) -> Step {
        let state = self.state();
        if state.open.is_empty() {
            match self.finish() {
                Finish::Not => {}
                Finish::Remind(text) => {
                    self.writer.stage(Body::Reminded { run: self.run(), text: text.to_owned() });
                    return Ok(None);
                }
                Finish::End(outcome) => return self.end(outcome).await.map(Some),
            }
        }
        if state.is_aborted() {
            return self.end(Outcome::Aborted {}).await.map(Some);
        }
        if self.stop.is_said() {
            let why = self.interrupt().await;
            return self.interrupted(why).await.map(Some);
        }
        if let Some(outcome) = self.over_budget() {
            return self.end(outcome).await.map(Some);
        }
        if self.state().open.is_empty() { self.model_step().await } else { self.tool_step().await }
    }

    async fn start(&mut self) -> Step {
        let from_file = matches!(self.lease.record.spec.work, Work::Inputs { .. });
        if let Some(end) = self.take_inputs().await? {
            return Ok(Some(end));
        }
        let spec = &self.lease.record.spec;
        let model = match self.deps.settings.resolve(spec) {
            Ok(model) => model,
            Err(e) => return self.end(Outcome::failed(FailReason::BadInputs, e.to_string())).await.map(Some),
        };
        let offered = catalogue::offered(self.deps.sandboxes.is_some(), spec);
        if let Err(refused) = crate::check::check(spec, &self.deps.settings, self.deps.sandboxes.as_deref()) {
            return self.end(Outcome::failed(refused.reason(), refused.to_string())).await.map(Some);
        }
        let has_hands = offered.iter().any(|k| k.tool.place() == torpor_core::tool::Place::Sandbox);
        let workdir = match &self.deps.sandboxes {
            Some(s) if has_hands => s.workdir(self.lease.session(), spec.workspace_ref.as_deref()).ok(),
            _ => None,
        };
        let item = match &spec.work {
            Work::Review { item } if from_file => Some(item.clone()),
            _ => None,
        };
        let body = Body::RunStarted {
            run: self.run(),
            prompt: prompt::opening(&spec.work),
            model: model.to_string(),
            workdir,
            tools: offered.iter().map(|k| k.tool.spec().name.to_owned()).collect(),
            item,
        };
        self.writer.stage(body);
        Ok(None)
    }

    /// Whether a call needs approval. Rules that cannot be read hold everything.
    pub(crate) fn needs_approval(&self, tool: &str, input: &serde_json::Value) -> bool {
        let workdir = self.state().started.as_ref().and_then(|s| s.workdir.as_deref());
        self.policy.as_ref().is_ok_and(|p| p.holds(tool, input, workdir)) || self.policy.is_err()
    }

    /// Checked before every model call and every tool call.
    pub(crate) fn over_budget(&self) -> Option<Outcome> {
        let (spent, budget) = (&self.state().spent, &self.budget);
        let calling_model = self.state().open.is_empty();
        if let Some(max) = budget.max_turns.filter(|max| calling_model && spent.turns >= *max) {
            return Some(self.reached(format_args!("{max} model calls")));
        }
        // Reaching the limit exactly still lets the calls of the last answer run; the next model call does not.
        if let Some(outcome) = self.spent_beyond(u64::from(!calling_model)) {
            return Some(outcome);
        }
        if let Some(max) = budget.max_cost.filter(|_| spent.unpriced > 0) {
            let unknown = format!("nobody can say what {} of its model calls cost", spent.unpriced);
            return Some(Outcome::failed(
                FailReason::Budget,
                format!("limit of {max} cannot be kept: {unknown}; {}", self.spent_so_far()),
            ));
        }
        self.time_left().filter(Duration::is_zero).map(|_| self.timed_out())
    }

    /// Whether more was spent than the run may. What took it there is paid for, and comes to nothing: its calls do not
    /// run, and an answer does not count. `least` is how much above a limit counts: 0 is reaching it.
    pub(crate) fn spent_beyond(&self, least: u64) -> Option<Outcome> {
        let (spent, budget) = (&self.state().spent, &self.budget);
        let beyond = |is: u64, max: u64| is.checked_sub(max).is_some_and(|over| over >= least);
        let tokens = spent.usage.total();
        if let Some(max) = budget.max_tokens.filter(|max| beyond(tokens, *max)) {
            return Some(self.reached(format_args!("{max} tokens")));
        }
        let cost = spent.priced.unwrap_or_default();
        budget.max_cost.filter(|max| beyond(cost.0, max.0)).map(|max| self.reached(format_args!("{max}")))
    }

    fn reached(&self, limit: std::fmt::Arguments<'_>) -> Outcome {
        Outcome::failed(FailReason::Budget, format!("limit of {limit} reached; {}", self.spent_so_far()))
    }

    fn spent_so_far(&self) -> String {
        let spent = &self.state().spent;
        let cost = spent.cost().map(|cost| format!(", {cost}")).unwrap_or_default();
        format!("spent: {} model calls, {} tokens{cost}", spent.turns, spent.usage.total())
    }

    fn timed_out(&self) -> Outcome {
        let max = self.budget.max_seconds.unwrap_or_default();
        Outcome::failed(FailReason::Timeout, format!("limit of {max} seconds reached"))
    }

    fn time_left(&self) -> Option<Duration> {
        let max = Duration::from_secs(self.budget.max_seconds?);
        let since: Timestamp = self.state().started.as_ref()?.at;
        // Time in which it waited for people counts for nothing.
        Some(max.saturating_sub(self.deps.clock.now().since(since).saturating_sub(self.state().parked)))
    }

    /// Ends the run. Calls that nobody has heard the end of are ended first, at this epoch, so that nothing of a run
    /// that is over runs on, and no earlier brain can start what it had only announced.
    pub(crate) async fn end(&mut self, outcome: Outcome) -> Result<LeafEnd, Stopped> {
        let under_way = self.state().calls_under_way();
        if !under_way.is_empty() {
            self.writer.commit().await?; // what is known so far must not wait for the hands
            let limit = self.deps.clock.sleep(ABANDON_LIMIT);
            tokio::select! {
                () = self.abandon(&under_way) => {}
                () = limit => tracing::warn!(run = %self.run(), "the hands are away; calls of an ended run may go on"),
            }
        }
        let spent = self.state().spent.clone();
        self.writer.stage(Body::RunEnded { run: self.run(), outcome: outcome.clone(), spent });
        self.writer.commit().await?;
        Ok(LeafEnd::Ended(outcome))
    }

    /// What an interrupt makes of the leaf. Nothing may be in flight any more.
    pub(crate) async fn interrupted(&mut self, interrupt: Interrupt) -> Result<LeafEnd, Stopped> {
        match interrupt {
            Interrupt::Deadline => {
                let outcome = self.timed_out();
                self.end(outcome).await
            }
            Interrupt::Cancel => self.end(Outcome::Cancelled {}).await,
            Interrupt::HandBack => {
                self.writer.commit().await?;
                Ok(LeafEnd::HandedBack)
            }
            Interrupt::Lost => Ok(LeafEnd::Fenced),
        }
    }

    /// A future that is done when the leaf must let go of what it waits for. Cancellation safe.
    pub(crate) fn interrupt(&self) -> impl Future<Output = Interrupt> + Send + use<> {
        let (mut stop, clock, left) = (self.stop.clone(), self.deps.clock.clone(), self.time_left());
        async move {
            let deadline = async {
                match left {
                    Some(left) => clock.sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                signal = stop.said() => match signal {
                    Signal::HandBack => Interrupt::HandBack,
                    Signal::Cancel => Interrupt::Cancel,
                    Signal::Go | Signal::Lost => Interrupt::Lost,
                },
                () = deadline => Interrupt::Deadline,
            }
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.writer.state
    }

    pub(crate) fn run(&self) -> RunId {
        self.lease.record.run_id.clone()
    }
}
