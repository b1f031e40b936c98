//! The request headers that mean something here.
//!
//! Owns: reading and checking them. Must not know: what the routes do with them.

use http::{HeaderMap, HeaderName, HeaderValue};
use torpor_core::id::check_id;
use torpor_core::problem::Code;
use torpor_core::trace;

use crate::problem::Problem;

/// Names the request in logs; on every answer.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The client's key for a submit.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How the client wants to be answered (RFC 7240).
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// W3C trace context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The longest request id that is taken over from a client, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// The request's id: the client's if it is 1 to [`MAX_REQUEST_ID`] visible ASCII characters, else a fresh one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(REQUEST_ID) {
        Some(id) if (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic) => {
            id.clone()
        }
        _ => {
            let mut buffer = uuid::Uuid::encode_buffer();
            let id = uuid::Uuid::new_v4().simple().encode_lower(&mut buffer);
            HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("none")) // hexadecimal is always valid
        }
    }
}

/// The span of this request, and the caller's that it is a part of if that sent a well-formed `traceparent`; else it is
/// the root of a new trace.
pub(crate) fn trace(headers: &HeaderMap) -> (trace::Context, Option<trace::Context>) {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let state = joined(headers);
    let caller = text(TRACEPARENT).and_then(|parent| trace::Context::parse(parent, state.as_deref()));
    (caller.as_ref().map_or_else(trace::Context::fresh, trace::Context::child), caller)
}

/// `tracestate` may come in several parts, which are one list.
fn joined(headers: &HeaderMap) -> Option<String> {
    let mut parts = headers.get_all(TRACESTATE).iter().filter_map(|v| v.to_str().ok());
    let first = parts.next()?.to_owned();
    Some(parts.fold(first, |all, part| all + "," + part))
}

/// The idempotency key, if there is one.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let invalid = |why: &str| Problem::field(Code::RequestInvalid, "Idempotency-Key", why);
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(first) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(invalid("must be given once"));
    }
    let key = std::str::from_utf8(first.as_bytes()).map_err(|_| invalid("must be UTF-8 text"))?;
    check_id(key).map_err(|e| invalid(&e.to_string()))?;
    Ok(Some(key))
}

/// Whether the client prefers to be answered before the run has ended.
pub(crate) fn prefers_async(headers: &HeaderMap) -> bool {
    headers.get_all(PREFER).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|preference| {
        let token = preference.split(';').next().unwrap_or_default().trim();
        token.eq_ignore_ascii_case("respond-async")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(name: HeaderName, value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_bytes(value).unwrap())])
    }

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        for (sent, kept) in [
            ("abc-123_./~", true),
            (&*"x".repeat(128), true),
            (&*"x".repeat(129), false),
            ("", false),
            ("two words", false),
            ("ümlaut", false),
        ] {
            let got = request_id(&with(REQUEST_ID, sent.as_bytes()));
            assert_eq!(got.as_bytes() == sent.as_bytes(), kept, "{sent}");
            assert!(!got.is_empty());
        }
        assert_eq!(request_id(&HeaderMap::new()).len(), 32);
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn a_request_is_a_span_of_the_callers_trace_or_begins_one() {
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = with(TRACEPARENT, header.as_bytes());
        headers.append(TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(TRACESTATE, HeaderValue::from_static("b=2"));
        let (ours, caller) = trace(&headers);
        assert_eq!(caller.unwrap().traceparent(), header);
        assert_eq!(ours.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(!ours.traceparent().contains("b7ad6b7169203331"), "{}", ours.traceparent());
        assert_eq!(ours.tracestate(), Some("a=1,b=2"));
        for sent in ["nonsense", ""] {
            let (root, caller) = trace(&with(TRACEPARENT, sent.as_bytes()));
            assert!(root.is_sampled() && caller.is_none());
        }
    }

    #[test]
    fn keys_follow_the_rule_for_ids() {
        for (sent, good) in [("k", true), (&*"k".repeat(256), true), (&*"k".repeat(257), false), ("", false)] {
            let headers = with(IDEMPOTENCY_KEY, sent.as_bytes());
            assert_eq!(idempotency_key(&headers).is_ok(), good, "{sent}");
        }
        assert!(idempotency_key(&with(IDEMPOTENCY_KEY, b"\xff")).is_err());
        let mut twice = with(IDEMPOTENCY_KEY, b"a");
        twice.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
        assert!(idempotency_key(&twice).is_err());
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn respond_async_is_found_among_other_preferences() {
        for (value, want) in [
            ("respond-async", true),
            ("wait=10, Respond-Async;foo=1", true),
            ("return=minimal", false),
            ("respond-asynchronously", false),
        ] {
            assert_eq!(prefers_async(&with(PREFER, value.as_bytes())), want, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_header_value_upsets_a_reader(value in proptest::collection::vec(0x20u8..=0xff, 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for name in [REQUEST_ID, TRACEPARENT, IDEMPOTENCY_KEY, PREFER] {
                    let headers = HeaderMap::from_iter([(name, value.clone())]);
                    let id = request_id(&headers);
                    prop_assert!(id.as_bytes().iter().all(u8::is_ascii_graphic));
                    let _ = (trace(&headers), idempotency_key(&headers), prefers_async(&headers));
                }
            }
        }
    }
}
