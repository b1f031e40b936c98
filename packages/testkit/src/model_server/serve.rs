//! Connections, routes, and playing a step.
//!
//! Owns: HTTP. Must not know: the language of scripts, the wire format.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Options;
use super::answer::{Answer, End};
use super::record::Record;
use super::render::{Content, Head, Wire};
use super::script::{self, Fault, Script, Step, ToolCall};

/// Largest request body.
const MAX_BODY: usize = 512 << 20;
/// Scripts kept parsed, and retry counts kept; when there are more, all are forgotten.
const MAX_CACHED: usize = 100_000;
/// Where the model's name stands in a body.
const HEAD_OF_BODY: usize = 4_096;

const SSE: &str = "text/event-stream";
const JSON: &str = "application/json";

type Reply = Response<Answer>;

#[derive(Debug)]
pub(crate) struct State {
    options: Options,
    pub(crate) record: Arc<Record>,
    numbers: AtomicU64,
    scripts: Mutex<HashMap<String, Arc<Script>>>,
    failures: Mutex<HashMap<(String, usize), u64>>,
    released: Mutex<HashSet<String>>,
    release: Notify,
}

impl State {
    pub(crate) fn new(options: Options) -> Self {
        let record = Arc::new(Record::new(options.record));
        Self {
            options,
            record,
            numbers: AtomicU64::new(0),
            scripts: Mutex::default(),
            failures: Mutex::default(),
            released: Mutex::default(),
            release: Notify::new(),
        }
    }

    pub(crate) fn release(&self, name: &str) {
        lock(&self.released).insert(name.into());
        self.release.notify_waiters();
    }

    pub(crate) fn reset(&self) {
        self.record.reset();
        lock(&self.failures).clear();
        lock(&self.released).clear();
    }

    async fn held(&self, name: &str) {
        loop {
            let release = self.release.notified();
            tokio::pin!(release);
            release.as_mut().enable();
            if lock(&self.released).contains(name) {
                return;
            }
            release.await;
        }
    }

    fn script(&self, text: &str) -> Arc<Script> {
        let mut scripts = lock(&self.scripts);
        if let Some(known) = scripts.get(text) {
            return known.clone();
        }
        if scripts.len() >= MAX_CACHED {
            scripts.clear();
        }
        let script = Arc::new(Script::parse(text));
        scripts.insert(text.into(), script.clone());
        script
    }

    /// How often this step has failed before; counts one more.
    fn failed(&self, script: &str, step: usize) -> u64 {
        let mut failures = lock(&self.failures);
        if failures.len() >= MAX_CACHED {
            failures.clear();
        }
        let count = failures.entry((script.into(), step)).or_default();
        *count += 1;
        *count - 1
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accepts until it is aborted; the connections go with it.
pub(crate) async fn run(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error here concerns one connection, or passes.
                let Ok((stream, _)) = accepted else {
                    tokio::task::yield_now().await;
                    continue;
                };
                state.record.connection();
                connections.spawn(connection(stream, state.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(route(&state, request).await) }
    });
    // A client that goes away, or a scripted cut, ends here as an error; that is what it is for.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn route(state: &State, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    match (&head.method, path) {
        (&Method::GET, "/health") => return reply(200, "text/plain", "ok"),
        (_, "/__stats") => return reply(200, JSON, json!(state.record.stats()).to_string()),
        (_, "/__gaps") => return reply(200, JSON, json!(state.record.gaps()).to_string()),
        (_, "/__reset") => {
            state.reset();
            return reply(200, "text/plain", "ok");
        }
        _ => {}
    }
    if let Some(name) = path.strip_prefix("/__release/") {
        state.release(name);
        return reply(200, "text/plain", "ok");
    }
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return reply(413, "text/plain", "the body is too large or was cut off");
    };
    let body = body.to_bytes();
    let full_path = head.uri.path_and_query().map_or(path, |p| p.as_str());
    let guard = state.record.request(full_path, &head.headers, &body);
    let mut reply = match Wire::of(path) {
        Some(wire) => answer(state, wire, path, &head.headers, &body).await,
        None => reply(404, JSON, Wire::Anthropic.error(404, "scripted 404")),
    };
    let body = std::mem::replace(reply.body_mut(), Answer::whole(Bytes::new()));
    *reply.body_mut() = body.guarded(guard);
    reply
}

async fn answer(state: &State, wire: Wire, path: &str, headers: &HeaderMap, body: &Bytes) -> Reply {
    let found = script::find(body, wire.result_mark());
    let from_path = path.strip_prefix("/s/").and_then(|p| p.split_once('/')).map(|(s, _)| percent_decode(s));
    let text = found.script.or(from_path.as_deref()).unwrap_or(&state.options.default_script);
    let script = state.script(text);
    let delay = script.delay.unwrap_or(state.options.delay);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let number = state.numbers.fetch_add(1, Ordering::Relaxed) + 1;
    let head = Head { number, model: model(body), usage: has(body, &["\"include_usage\":true"]) };
    let say = |content: Content| Content { usage: script.usage, ..content };
    let text = |text: String| say(Content { text: Some(text), stop: "end_turn", ..Content::default() });
    let tools = |mut calls: Vec<ToolCall>| {
        for call in calls.iter_mut().filter(|c| c.input.is_null()) {
            let id = script::item_id(body).unwrap_or_else(|| "item".into());
            call.input = json!({"item_id": id, "verdict": "CLEAR", "reason": "scripted"});
        }
        say(Content { calls, stop: "tool_use", ..Content::default() })
    };
    let content = match script.step(found.results, |step| state.failed(text_key(&found, path), step)) {
        Step::Text(0) => text("done".into()),
        Step::Text(n) => text("x".repeat(n)),
        Step::Drip(n, pause) => return drip(wire, &head, n, pause),
        Step::Thinking(None) => Content { thinking: true, ..text("done".into()) },
        Step::Thinking(Some(call)) => Content { thinking: true, ..tools(vec![call]) },
        Step::Tools(calls) | Step::Again(calls, _) => tools(calls),
        Step::SameId(calls) => Content { same_id: true, ..tools(calls) },
        Step::EndTurn(call) => Content { stop: "end_turn", ..tools(vec![call]) },
        Step::MaxTokens(call) => Content { stop: "max_tokens", ..tools(vec![call]) },
        Step::Refusal => Content { stop: "refusal", ..text("I cannot help with that.".into()) },
        Step::Hold(name) => {
            state.held(&name).await;
            text("done".into())
        }
        Step::Fault(fault) | Step::Retry(fault, _) => {
            state.record.fault();
            return fail(wire, &head, &fault, headers).await;
        }
    };
    if !script.json && has(body, &["\"stream\":true", "\"stream\": true"]) {
        reply(200, SSE, wire.stream(&head, &content).concat())
    } else {
        reply(200, JSON, wire.whole(&head, &content))
    }
}

/// What retries are counted under: the script as it was named.
fn text_key<'a>(found: &script::Found<'a>, path: &'a str) -> &'a str {
    found.script.unwrap_or(path)
}

async fn fail(wire: Wire, head: &Head, fault: &Fault, headers: &HeaderMap) -> Reply {
    let content = Content { text: Some("partial".into()), stop: "end_turn", ..Content::default() };
    let partial = |end| {
        let mut events = wire.stream(head, &content);
        events.truncate(wire.events_before_text() + 1);
        stream([events.concat()], end, Duration::ZERO)
    };
    match fault {
        Fault::Status(status) => reply(*status, JSON, wire.error(*status, &format!("scripted {status}"))),
        Fault::RateLimited => {
            let mut limited = reply(429, JSON, wire.error(429, "scripted 429"));
            limited.headers_mut().insert("retry-after", HeaderValue::from_static("0"));
            limited
        }
        Fault::Overflow => reply(400, JSON, wire.overflow()),
        Fault::Leak => {
            let seen = ["x-api-key", "authorization"].map(|h| headers.get(h).and_then(|v| v.to_str().ok()));
            let seen: Vec<&str> = seen.into_iter().flatten().collect();
            reply(401, JSON, wire.error(401, &format!("invalid credential: {}", seen.join(" "))))
        }
        Fault::Hang => std::future::pending().await,
        Fault::HangMid => partial(End::Hang),
        Fault::Cut => partial(End::Cut),
        Fault::Garbled => {
            let garbage =
                b"event: message_start\ndata: {\"type\":\"mess\x00\xff{{{\n\ndata: not json\n\nevent: ???\n\n";
            reply(200, SSE, Bytes::from_static(garbage))
        }
        Fault::Html => reply(200, "text/html", "<html>proxy error</html>"),
        Fault::Empty => reply(200, SSE, ""),
        Fault::BadJson => reply(200, SSE, wire.with_arguments(head, "{\"command\": tru")),
        Fault::TruncatedJson(command) => {
            let whole = json!({"command": command}).to_string();
            reply(200, SSE, wire.with_arguments(head, whole.trim_end_matches("\"}")))
        }
        Fault::Overloaded => reply(200, SSE, wire.error_event(529, "scripted 529")),
        Fault::NoStop => {
            let call = ToolCall { name: "bash".into(), input: json!({"command": "true"}) };
            let content = Content { calls: vec![call], stop: "tool_use", ..Content::default() };
            reply(200, SSE, wire.without_end(head, &content))
        }
        Fault::NoBlocks => {
            let nothing = Content { stop: "end_turn", ..Content::default() };
            reply(200, SSE, wire.stream(head, &nothing).concat())
        }
    }
}

fn drip(wire: Wire, head: &Head, pieces: usize, pause: Duration) -> Reply {
    let content = Content { text: Some("drip ".into()), stop: "end_turn", ..Content::default() };
    let mut events = wire.stream(head, &content);
    let at = wire.events_before_text();
    if let Some(piece) = events.get(at).cloned() {
        events.splice(at..=at, std::iter::repeat_n(piece, pieces));
    }
    stream(events, End::Proper, pause)
}

fn stream(pieces: impl IntoIterator<Item = String>, end: End, pause: Duration) -> Reply {
    let pieces: VecDeque<Bytes> = pieces.into_iter().map(Bytes::from).collect();
    with_head(200, SSE, Answer::new(pieces, end, pause))
}

fn reply(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    with_head(status, content_type, Answer::whole(body))
}

fn with_head(status: u16, content_type: &'static str, answer: Answer) -> Reply {
    let mut response = Response::new(answer);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Whether a body holds one of these.
fn has(body: &[u8], any: &[&str]) -> bool {
    any.iter().any(|s| memchr::memmem::find(body, s.as_bytes()).is_some())
}

fn model(body: &[u8]) -> String {
    let head = String::from_utf8_lossy(&body[..body.len().min(HEAD_OF_BODY)]);
    let value = head.split_once("\"model\"").and_then(|(_, rest)| rest.split('"').nth(1));
    value.unwrap_or("fake").to_owned()
}

fn percent_decode(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match hex {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = &tail[2..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
