//! The trace that a piece of work belongs to: W3C trace context, from the request that asked for it to the command it
//! ran.
//!
//! Owns: reading and writing `traceparent` and `tracestate`, and making ids. Must not know: who records spans, or
//! whether anybody does.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest `tracestate` that is carried, in bytes; the standard asks for at least 512. A longer one is left out, which
/// the standard allows, and the trace goes on without it.
pub const MAX_STATE_BYTES: usize = 1_024;

/// The flag that says that the caller may record this trace.
const SAMPLED: u8 = 1;

/// A place in a trace: the trace and the span that is the parent of whatever comes next. Cheap to clone.
///
/// Where an earlier part of the work is repeated or taken over, the trace stays the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Wire", try_from = "Wire")]
pub struct Context {
    trace: NonZeroU128,
    span: NonZeroU64,
    flags: u8,
    state: Option<Arc<str>>,
}

/// Why a stored or received context was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`traceparent` must be 00-<32 hexadecimal digits>-<16 hexadecimal digits>-<2 hexadecimal digits>")]
pub struct Invalid;

/// The form in which a context crosses a process boundary that we own.
#[derive(Serialize, Deserialize)]
struct Wire {
    traceparent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
}

impl Context {
    /// The root of a new trace. Marked as sampled: whoever wants fewer traces says so in the ones that it begins, or
    /// where they are collected.
    #[must_use]
    pub fn fresh() -> Self {
        Self { trace: trace_id(), span: span_id(), flags: SAMPLED, state: None }
    }

    /// Reads the two headers. `None` for a malformed `traceparent`, which is then as if it were not there, as the
    /// standard asks. A `tracestate` that is too long or not printable is left out.
    #[must_use]
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !(hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2)) || version == "ff" {
            return None;
        }
        // A later version may have more parts; this one must not.
        if version == "00" && parts.next().is_some() {
            return None;
        }
        let usable =
            |s: &&str| (1..=MAX_STATE_BYTES).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        Some(Self {
            trace: NonZeroU128::new(u128::from_str_radix(trace, 16).ok()?)?,
            span: NonZeroU64::new(u64::from_str_radix(span, 16).ok()?)?,
            // What later versions may say with the other flags is not ours to repeat.
            flags: u8::from_str_radix(flags, 16).ok()? & SAMPLED,
            state: tracestate.map(str::trim).filter(usable).map(Into::into),
        })
    }

    /// A span below this one: the same trace, a new span id.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: span_id(), ..self.clone() }
    }

    /// The `traceparent` header.
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }

    /// The `tracestate` header, if there is one: what other vendors said, passed on as it came.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The trace's id: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> impl fmt::Display + use<> {
        TraceId(self.trace)
    }

    /// The trace's id as bytes.
    #[must_use]
    pub fn trace_bytes(&self) -> [u8; 16] {
        self.trace.get().to_be_bytes()
    }

    /// The span's id as bytes.
    #[must_use]
    pub fn span_bytes(&self) -> [u8; 8] {
        self.span.get().to_be_bytes()
    }

    /// Whether the trace is to be recorded.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

struct TraceId(NonZeroU128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Context> for Wire {
    fn from(context: Context) -> Self {
        Self { traceparent: context.traceparent(), tracestate: context.state.as_deref().map(str::to_owned) }
    }
}

impl TryFrom<Wire> for Context {
    type Error = Invalid;

    fn try_from(wire: Wire) -> Result<Self, Invalid> {
        Self::parse(&wire.traceparent, wire.tracestate.as_deref()).ok_or(Invalid)
    }
}

fn trace_id() -> NonZeroU128 {
    // A random UUID is never zero: it carries its version.
    NonZeroU128::new(uuid::Uuid::new_v4().as_u128()).unwrap_or(NonZeroU128::MIN)
}

fn span_id() -> NonZeroU64 {
    // The fixed bits of one half meet random ones of the other.
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    NonZeroU64::new(high ^ low).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn traceparent_is_read_as_the_standard_says() {
        for (value, good) in [
            (format!("00-{TRACE}-b7ad6b7169203331-01"), true),
            (format!("00-{TRACE}-b7ad6b7169203331-00"), true),
            (format!("cc-{TRACE}-b7ad6b7169203331-01-what-ever"), true),
            (format!("00-{TRACE}-b7ad6b7169203331-01-more"), false),
            (format!("ff-{TRACE}-b7ad6b7169203331-01"), false),
            (format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()), false),
            (format!("00-{TRACE}-0000000000000000-01"), false),
            (format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), false),
            (format!("00-{TRACE}-b7ad6b7169203331"), false),
            ("nonsense".to_owned(), false),
            (String::new(), false),
        ] {
            let read = Context::parse(&value, None).map(|c| c.trace_id().to_string());
            assert_eq!(read.as_deref(), good.then_some(TRACE), "{value}");
        }
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace() {
        let header = format!("00-{TRACE}-b7ad6b7169203331-00");
        let caller = Context::parse(&header, Some("vendor=1")).unwrap();
        assert_eq!(caller.traceparent(), header);
        let child = caller.child();
        assert_eq!(child.trace_bytes(), caller.trace_bytes());
        assert_ne!(child.span_bytes(), caller.span_bytes());
        assert_eq!((child.tracestate(), child.is_sampled()), (Some("vendor=1"), false));
        assert_ne!(Context::fresh().trace_bytes(), Context::fresh().trace_bytes());
    }

    #[test]
    fn what_others_say_is_carried_within_bounds() {
        let header = format!("00-{TRACE}-b7ad6b7169203331-01");
        for (state, kept) in [
            ("a=1,b=2".to_owned(), true),
            ("x".repeat(MAX_STATE_BYTES), true),
            ("x".repeat(MAX_STATE_BYTES + 1), false),
            ("a=\u{7f}".to_owned(), false),
            ("a=1\r\nx: y".to_owned(), false),
            (" ".to_owned(), false),
        ] {
            let read = Context::parse(&header, Some(&state)).unwrap();
            assert_eq!(read.tracestate(), kept.then_some(&*state));
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same_and_garbage_upsets_nobody(value in "\\PC{0,80}", state in "\\PC{0,40}") {
            if let Some(read) = Context::parse(&value, Some(&state)) {
                prop_assert_eq!(Context::parse(&read.traceparent(), read.tracestate()), Some(read));
            }
        }

        #[test]
        fn contexts_survive_a_process_boundary(trace in 1_u128.., span in 1_u64.., flags in 0_u8..=1) {
            let header = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
            let read = Context::parse(&header, None).unwrap();
            prop_assert_eq!(read.traceparent(), header);
            let json = serde_json::to_string(&read).unwrap();
            prop_assert_eq!(serde_json::from_str::<Context>(&json).unwrap(), read);
        }
    }
}
