//! Which event is which span.
//!
//! Owns: names, kinds, attributes and status under the OpenTelemetry semantic conventions for HTTP and GenAI. Must not
//! know: how spans travel.

use torpor_core::message::{StopReason, Usage};
use torpor_core::model::Ref;
use torpor_core::observe::{Called, Event, Sent, Span, Work};
use torpor_core::outcome::Outcome;

use crate::wire::Message;

/// Fields of the message `Span`.
mod field {
    pub(super) const TRACE_ID: u32 = 1;
    pub(super) const SPAN_ID: u32 = 2;
    pub(super) const TRACE_STATE: u32 = 3;
    pub(super) const PARENT: u32 = 4;
    pub(super) const NAME: u32 = 5;
    pub(super) const KIND: u32 = 6;
    pub(super) const START: u32 = 7;
    pub(super) const END: u32 = 8;
    pub(super) const ATTRIBUTES: u32 = 9;
    pub(super) const STATUS: u32 = 15;
    pub(super) const FLAGS: u32 = 16;
}

const INTERNAL: u64 = 1;
const SERVER: u64 = 2;
const CLIENT: u64 = 3;

/// `STATUS_CODE_ERROR`, and its field in `Status`.
const ERROR: u64 = 2;
const STATUS_CODE: u32 = 3;

/// The flag of W3C trace context for a trace that is recorded.
const SAMPLED: u32 = 1;

/// Longest name or text of a span, in bytes: what a client or a model came up with is cut there.
const MAX_TEXT: usize = 256;

/// What probes and scrapers ask all day; worth a span only in somebody's trace.
const QUIET: [&str; 4] = ["/health", "/livez", "/readyz", "/metrics"];

/// The event as an encoded span, if it is one and its trace is recorded.
pub(crate) fn encode(event: &Event<'_>, now: impl Fn() -> u64) -> Option<Vec<u8>> {
    let new = |span: &Span<'_>, kind, name: &str| Writer::new(span, kind, name, &now);
    match event {
        Event::Request { span, route, .. } if span.parent.is_none() && route.is_some_and(|r| QUIET.contains(&r)) => {
            None
        }
        Event::Request { span, route, method, status } => {
            let name = route.map_or_else(|| (*method).to_owned(), |route| format!("{method} {route}"));
            let mut w = new(span, SERVER, &name)?;
            w.text("http.request.method", method);
            if let Some(route) = route {
                w.text("http.route", route);
            }
            w.integer("http.response.status_code", (*status).into());
            if *status >= 500 {
                w.failed(&status.to_string());
            }
            Some(w.finish())
        }
        Event::Claimed { work, waited: Some(span), .. } => {
            let mut w = new(span, INTERNAL, "queue wait")?;
            w.work(work);
            Some(w.finish())
        }
        Event::Leaf { span, work, model, outcome } => {
            let mut w = new(span, INTERNAL, "invoke_agent torpor")?;
            w.text("gen_ai.operation.name", "invoke_agent");
            w.text("gen_ai.agent.name", "torpor");
            if let Some(model) = model {
                w.model(model);
            }
            w.work(work);
            if let Some(outcome) = outcome {
                w.text("torpor.run.status", outcome.status().as_str());
            }
            if let Some(Outcome::Failed { reason, .. }) = outcome {
                w.failed(reason.as_str());
            }
            Some(w.finish())
        }
        Event::ModelCall { span, work, model, ended, answer } => {
            let mut w = new(span, CLIENT, &format!("chat {}", shown(model)))?;
            w.text("gen_ai.operation.name", "chat");
            w.model(model);
            w.work(work);
            if let Some((usage, stop)) = answer {
                w.answer(usage, *stop);
            }
            if *ended != Sent::Answered {
                w.failed(ended.as_str());
            }
            Some(w.finish())
        }
        Event::ToolCall { span, work, tool, id, ended } => {
            let mut w = new(span, INTERNAL, &format!("execute_tool {tool}"))?;
            w.text("gen_ai.operation.name", "execute_tool");
            w.text("gen_ai.tool.name", tool);
            w.text("gen_ai.tool.type", "function");
            w.text("gen_ai.tool.call.id", id);
            w.work(work);
            if *ended != Called::Finished {
                w.failed(ended.as_str());
            }
            Some(w.finish())
        }
        _ => None,
    }
}

/// A scripted model is a file; which one is nobody's business.
fn shown(model: &Ref) -> &str {
    if model.provider == "scripted" { "scripted" } else { &model.model }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// The convention's word for why the model stopped.
fn finish_reason(stop: StopReason) -> &'static str {
    match stop {
        StopReason::EndTurn => "stop",
        StopReason::ToolUse => "tool_call",
        StopReason::MaxTokens => "length",
        StopReason::Refusal => "content_filter",
    }
}

struct Writer(Message);

impl Writer {
    /// `None` when nobody wants the trace.
    fn new(span: &Span<'_>, kind: u64, name: &str, now: impl Fn() -> u64) -> Option<Self> {
        if !span.context.is_sampled() {
            return None;
        }
        let end = now();
        let start = end.saturating_sub(u64::try_from(span.took.as_nanos()).unwrap_or(u64::MAX));
        let mut m = Message::default();
        m.bytes(field::TRACE_ID, &span.context.trace_bytes());
        m.bytes(field::SPAN_ID, &span.context.span_bytes());
        if let Some(state) = span.context.tracestate() {
            m.bytes(field::TRACE_STATE, state.as_bytes());
        }
        if let Some(parent) = span.parent {
            m.bytes(field::PARENT, &parent.span_bytes());
        }
        m.bytes(field::NAME, cut(name).as_bytes());
        m.number(field::KIND, kind);
        m.fixed64(field::START, start);
        m.fixed64(field::END, end);
        m.fixed32(field::FLAGS, SAMPLED);
        Some(Self(m))
    }

    fn text(&mut self, key: &str, value: &str) {
        self.0.text(field::ATTRIBUTES, key, cut(value));
    }

    fn integer(&mut self, key: &str, value: u64) {
        // Attributes are signed.
        self.0.integer(field::ATTRIBUTES, key, value.min(i64::MAX as u64));
    }

    fn work(&mut self, work: &Work<'_>) {
        self.text("torpor.run.id", work.run.as_str());
        self.text("gen_ai.conversation.id", &work.session.digest());
    }

    fn model(&mut self, model: &Ref) {
        self.text("gen_ai.provider.name", &model.provider);
        self.text("gen_ai.request.model", shown(model));
    }

    fn answer(&mut self, usage: &Usage, stop: StopReason) {
        // By the convention, cached input is input too.
        let input = usage.total().saturating_sub(usage.output);
        self.integer("gen_ai.usage.input_tokens", input);
        self.integer("gen_ai.usage.output_tokens", usage.output);
        self.integer("gen_ai.usage.cache_read.input_tokens", usage.cache_read);
        self.integer("gen_ai.usage.cache_creation.input_tokens", usage.cache_write);
        self.0.list(field::ATTRIBUTES, "gen_ai.response.finish_reasons", finish_reason(stop));
    }

    /// Marks the span as failed; `kind` is one of a few words.
    fn failed(&mut self, kind: &str) {
        self.text("error.type", kind);
        self.0.message(field::STATUS, |status| status.number(STATUS_CODE, ERROR));
    }

    fn finish(self) -> Vec<u8> {
        self.0.finish()
    }
}
