//! Telling observers of model and tool calls, also of those that are dropped on their way.
//!
//! Owns: what a call is until its end is told. Must not know: who is told.

use std::sync::Arc;
use std::time::Instant;

use torpor_core::id::{RunId, SessionKey};
use torpor_core::message::{Assistant, StopReason, Usage};
use torpor_core::model::{Error, Ref};
use torpor_core::observe::{Called, Event, Observer, Sent, Span, Work};
use torpor_core::price::Price;
use torpor_core::queue::Lease;
use torpor_core::trace::Context;

use crate::catalogue;
use crate::state::Use;

/// What a call of something that is no tool is told as.
const UNKNOWN_TOOL: &str = "other";

/// Whose work the lease is for.
pub(crate) fn work(lease: &Lease) -> Work<'_> {
    Work { run: &lease.record.run_id, session: lease.session() }
}

/// A call of a model, with all its requests. One that is dropped was interrupted.
pub(crate) struct ModelCall<'a> {
    observer: &'a dyn Observer,
    model: &'a Ref,
    price: Option<Price>,
    lease: &'a Lease,
    context: &'a Context,
    parent: &'a Context,
    began: Instant,
    request: Option<(Instant, bool)>,
    ended: Sent,
    answer: Option<(Usage, StopReason)>,
}

impl<'a> ModelCall<'a> {
    pub(crate) fn new(
        observer: &'a dyn Observer,
        lease: &'a Lease,
        (model, price): (&'a Ref, Option<Price>),
        (context, parent): (&'a Context, &'a Context),
    ) -> Self {
        let (began, ended) = (Instant::now(), Sent::Interrupted);
        Self { observer, model, price, lease, context, parent, began, request: None, ended, answer: None }
    }

    /// A request begins.
    pub(crate) fn send(&mut self, retry: bool) {
        self.request = Some((Instant::now(), retry));
    }

    /// A request ended.
    pub(crate) fn sent(&mut self, result: &Result<Assistant, Error>) {
        self.ended = match result {
            Ok(_) => Sent::Answered,
            Err(e) if e.overflow => Sent::TooLong,
            Err(_) => Sent::Failed,
        };
        self.answer = result.as_ref().ok().map(|a| (a.usage, a.stop));
        self.tell_request();
    }

    fn tell_request(&mut self) {
        if let Some((began, retry)) = self.request.take() {
            let (model, ended, took) = (self.model, self.ended, began.elapsed());
            let usage = self.answer.map(|(usage, _)| usage);
            let cost = usage.and_then(|usage| self.price?.cost(&usage));
            self.observer.observe(&Event::ModelRequest { model, ended, retry, took, usage, cost });
        }
    }
}

impl Drop for ModelCall<'_> {
    fn drop(&mut self) {
        if self.request.is_some() {
            self.ended = Sent::Interrupted;
            self.tell_request();
        }
        let span = Span { context: self.context, parent: Some(self.parent), took: self.began.elapsed() };
        let (work, model, ended, answer) = (work(self.lease), self.model, self.ended, self.answer);
        self.observer.observe(&Event::ModelCall { span, work, model, ended, answer });
    }
}

/// Tells of the tool calls of one leaf.
#[derive(Clone)]
pub(crate) struct Watcher {
    observer: Arc<dyn Observer>,
    run: RunId,
    session: SessionKey,
    parent: Context,
}

impl Watcher {
    pub(crate) fn new(observer: Arc<dyn Observer>, lease: &Lease, parent: &Context) -> Self {
        let (run, session) = (lease.record.run_id.clone(), lease.session().clone());
        Self { observer, run, session, parent: parent.clone() }
    }

    /// A call begins; its span is `context`, or one that nobody else knows.
    pub(crate) fn call(&self, context: Option<&Context>, u: &Use) -> ToolCall {
        ToolCall {
            watcher: self.clone(),
            context: context.cloned().unwrap_or_else(|| self.parent.child()),
            // A model can come up with any name; those that are no tool's are one to whoever counts.
            tool: catalogue::find(&u.name).map_or(UNKNOWN_TOOL, |known| known.tool.spec().name),
            id: u.id.clone(),
            began: Instant::now(),
            ended: Called::Left,
        }
    }
}

/// A tool call. One that is dropped was left: it may go on without this leaf.
pub(crate) struct ToolCall {
    watcher: Watcher,
    context: Context,
    tool: &'static str,
    id: String,
    began: Instant,
    ended: Called,
}

impl ToolCall {
    /// It ended.
    pub(crate) fn ended(mut self, ended: Called) {
        self.ended = ended;
    }
}

impl Drop for ToolCall {
    fn drop(&mut self) {
        let Watcher { observer, run, session, parent } = &self.watcher;
        let span = Span { context: &self.context, parent: Some(parent), took: self.began.elapsed() };
        let (work, tool, id, ended) = (Work { run, session }, self.tool, &*self.id, self.ended);
        observer.observe(&Event::ToolCall { span, work, tool, id, ended });
    }
}
