//! A call while it runs.
//!
//! Owns: who waits for it, its cancellation, and running file tools ([`super::bash`] runs commands). Must not know:
//! the journal, connections.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use torpor_core::message::ToolResult;
use torpor_core::{RunId, trace};
use torpor_exec_channel::message::{Call as Request, Ended, Exit, Extent};

use super::bash;
use super::session::Session;
use crate::domain::protocol::{Job, Report};
use crate::output::Output;

/// Time between asking a call to end and killing it.
pub(super) const TERM_GRACE: Duration = Duration::from_millis(500);
/// Time a killed call has to be gone; then its whole domain goes.
pub(super) const KILL_GRACE: Duration = Duration::from_millis(1_000);

/// Whether a tool changes anything. Those that do are journaled.
pub(super) fn has_effects(tool: &str) -> bool {
    !matches!(tool, "read" | "ls" | "grep" | "find")
}

/// See the module's page.
pub(super) struct Call {
    request: Request,
    digest: String,
    output: watch::Sender<Option<Arc<Output>>>,
    ended: watch::Sender<Option<Arc<Ended>>>,
    cancelled: watch::Sender<bool>,
    over: Mutex<Option<String>>,
    watchers: AtomicU32,
    unwatched: Mutex<Instant>,
    input: Mutex<Option<bash::Input>>,
}

/// Somebody waits for the call, as long as this exists.
pub(super) struct Watching(Arc<Call>);

impl Drop for Watching {
    fn drop(&mut self) {
        *self.0.unwatched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Call {
    pub(super) fn new(request: Request, digest: String, input: Option<bash::Input>) -> Self {
        Self {
            input: Mutex::new(input),
            request,
            digest,
            output: watch::Sender::new(None),
            ended: watch::Sender::new(None),
            cancelled: watch::Sender::new(false),
            over: Mutex::new(None),
            watchers: AtomicU32::new(0),
            unwatched: Mutex::new(Instant::now()),
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.request.id.position.0
    }

    /// Stands for tool and arguments.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn tool(&self) -> &str {
        &self.request.tool
    }

    pub(super) fn input(&self) -> &Value {
        &self.request.input
    }

    /// The trace that it is part of.
    pub(super) fn trace(&self) -> Option<&trace::Context> {
        self.request.trace.as_ref()
    }

    /// Names it in the daemon's log: its id, its run and its trace.
    pub(super) fn shown(&self) -> String {
        let trace = self.trace().map_or_else(|| "none".to_owned(), |t| t.trace_id().to_string());
        let run = self.request.run.as_ref().map_or("none", RunId::as_str);
        format!("call {} run={run} trace_id={trace}", self.request.id)
    }

    /// What is to be fed to the command, once.
    pub(super) fn take_input(&self) -> Option<bash::Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Counts the caller among those who wait.
    pub(super) fn watch(self: &Arc<Self>) -> Watching {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watching(self.clone())
    }

    /// How long nobody has waited for it.
    pub(super) fn unwatched(&self) -> Duration {
        if self.watchers.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        self.unwatched.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Asks it to end.
    pub(super) fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Asks it to end because its session went beyond a limit.
    pub(super) fn end_over(&self, why: &str) {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_owned());
        self.cancel();
    }

    /// How it ends when it is asked to.
    pub(super) fn cut(&self) -> Exit {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner).clone();
        over.map_or(Exit::Cancelled, Exit::Over)
    }

    /// Waits until somebody asks it to end. Cancellation safe.
    pub(super) async fn cancelled(&self) {
        if self.cancelled.subscribe().wait_for(|c| *c).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits for its end. Cancellation safe.
    pub(super) async fn wait(&self) -> Arc<Ended> {
        let mut ended = self.ended.subscribe();
        loop {
            if let Some(ended) = ended.borrow_and_update().clone() {
                return ended;
            }
            if ended.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn finish(&self, ended: Ended) {
        self.ended.send_replace(Some(Arc::new(ended)));
    }

    pub(super) fn set_output(&self, output: Arc<Output>) {
        self.output.send_replace(Some(output));
    }

    /// Its output, once there is one; `None` if it ended without. Cancellation safe.
    pub(super) async fn output(&self) -> Option<Arc<Output>> {
        let mut output = self.output.subscribe();
        tokio::select! {
            biased;
            found = output.wait_for(Option::is_some) => found.ok().and_then(|o| o.clone()),
            _ = self.wait() => self.output.borrow().clone(),
        }
    }
}

/// Runs the call to its end, which is journaled before anybody hears of it.
pub(super) async fn run(session: &Arc<Session>, call: &Arc<Call>) {
    // The session's own first: who waits for that holds none of everybody's.
    let turns = async { (session.turns.acquire().await.ok(), session.shared.turns.acquire().await.ok()) };
    let turn = tokio::select! {
        turn = turns => Some(turn),
        () = call.cancelled() => None,
    };
    let ended = match (&turn, call.tool()) {
        (None, _) => aborted(),
        (_, "bash") => bash::run(session, call).await,
        (_, name) if torpor_tools::NAMES.contains(&name) => run_tool(session, call).await,
        (_, name) => tool_end(format!("Unknown tool: {name}"), true, Exit::NotStarted),
    };
    session.finish(call, ended).await;
}

/// The end of a call that was cancelled and has nothing to show.
pub(super) fn aborted() -> Ended {
    tool_end("Operation aborted".into(), true, Exit::Cancelled)
}

/// An end without output.
pub(super) fn tool_end(text: String, is_error: bool, exit: Exit) -> Ended {
    answered(if is_error { ToolResult::error(text) } else { ToolResult::text(text) }, exit)
}

fn answered(result: ToolResult, exit: Exit) -> Ended {
    Ended { exit, result: Some(result), output: Extent::default() }
}

async fn run_tool(session: &Session, call: &Call) -> Ended {
    let not_started = |e: String| tool_end(e, true, Exit::NotStarted);
    if has_effects(call.tool())
        && let Err(why) = session.may_write(call.tool()).await
    {
        return not_started(why);
    }
    let domain = match session.domain().await {
        Ok(domain) => domain,
        Err(e) => return not_started(e),
    };
    let job = Job::Tool { name: call.tool().to_owned(), input: call.input().clone() };
    let mut running = match domain.run(&job, &[]).await {
        Ok(running) => running,
        Err(e) => return not_started(format!("the tool could not be started: {e}")),
    };
    let limit = session.shared.settings.tool_limit;
    let seconds = limit.as_secs_f64().ceil() as u64;
    let cut = tokio::select! {
        () = running.ended() => None,
        () = sleep(limit) => Some(Exit::Timeout(seconds)),
        () = call.cancelled() => Some(call.cut()),
    };
    if cut.is_some() {
        domain.terminate(&running).await;
        if timeout(TERM_GRACE, running.ended()).await.is_err() {
            domain.kill(&running).await;
            if timeout(KILL_GRACE, running.ended()).await.is_err() {
                session.drop_domain(&domain).await;
            }
        }
    }
    match (running.report(), cut) {
        // It was done when it was told to end.
        (Some(Report::Answer(result)), Some(Exit::Timeout(_))) if !result.is_error => answered(result, Exit::Answered),
        (_, Some(Exit::Timeout(_))) => {
            let why = format!("The tool was ended: it had no answer after {seconds} s. Try fewer files, or bash");
            tool_end(why, true, Exit::Timeout(seconds))
        }
        (Some(Report::Answer(result)), cut) => answered(result, cut.unwrap_or(Exit::Answered)),
        (Some(Report::NotStarted(why)), _) => not_started(why),
        (None, Some(Exit::Over(why))) => tool_end(format!("{why} The tool was ended."), true, Exit::Over(why)),
        (_, Some(_)) => aborted(),
        (_, None) => tool_end("The tool was killed before it had an answer".into(), true, Exit::Signal(libc::SIGKILL)),
    }
}
