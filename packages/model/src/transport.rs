//! The one way out: HTTP requests whose answers are read piece by piece.
//!
//! Owns: connections, TLS, timeouts, limits, and what a status code or a broken connection means for a retry.
//! Must not know: any provider, any wire format, any credential by name.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use torpor_core::model::{Error, Retry};
use torpor_core::trace;

use crate::config::Http;

mod retry_after;

/// W3C trace context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Idle connections kept for one provider; more than a process has model calls ending within a moment.
const MAX_IDLE_CONNECTIONS: usize = 256;
/// How long an idle connection is kept. Below the usual 60 s of load balancers, so that they rarely close first.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// Finds peers that vanished without a word while an answer is awaited.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// How much of an error's body is read.
const MAX_ERROR_BODY: usize = 64 << 10;
/// How long a finished answer may take to end its body, so that the connection can be used again.
const DRAIN: Duration = Duration::from_millis(50);

/// Sends requests. Cheap to make: nothing is set up before the first call.
#[derive(Debug)]
pub(crate) struct Transport {
    settings: Http,
    client: OnceLock<Result<reqwest::Client, String>>,
}

/// A request to send.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    /// Makes the call part of a trace. A value that cannot be a header is left out.
    pub(crate) fn follow(&mut self, trace: &trace::Context) {
        let headers = [(TRACEPARENT, Some(trace.traceparent())), (TRACESTATE, trace.tracestate().map(str::to_owned))];
        for (name, value) in headers {
            if let Some(value) = value.and_then(|v| HeaderValue::try_from(v).ok()) {
                self.headers.insert(name, value);
            }
        }
    }
}

/// An answer with a status of success whose body is yet to be read.
pub(crate) struct Reply {
    response: reqwest::Response,
    idle: Duration,
    read: usize,
    max: usize,
}

/// The headers of every call: JSON goes out, a stream of events comes back.
pub(crate) fn headers() -> HeaderMap {
    HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (ACCEPT, HeaderValue::from_static("text/event-stream")),
    ])
}

/// What an answer without success said.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    /// The provider's wish, cut down to the configured limit.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// The refusal in a sentence; `what` is the provider's own message.
    pub(crate) fn words(&self, what: &str) -> String {
        format!("the model's endpoint answered {}: {what}", self.status)
    }

    /// The start of a body that is no error object, for people.
    pub(crate) fn excerpt(&self) -> String {
        const LENGTH: usize = 300;
        let text: String = String::from_utf8_lossy(&self.body).trim().chars().take(LENGTH).collect();
        if text.is_empty() { "an empty body".into() } else { text }
    }
}

/// How a call that got no good status ended.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No answer, or one that broke off.
    Broken(Error),
    /// An answer that says no.
    Refused(Refusal),
}

impl Transport {
    pub(crate) fn new(settings: Http) -> Self {
        Self { settings, client: OnceLock::new() }
    }

    pub(crate) fn max_event_bytes(&self) -> usize {
        self.settings.max_event_bytes
    }

    /// Posts, once, and waits for the head of the answer. Dropping the future closes the connection.
    pub(crate) async fn post(&self, call: Call) -> Result<Reply, Failure> {
        let idle = self.settings.idle_timeout;
        let client = match self.client.get_or_init(|| http_client(&self.settings)) {
            Ok(client) => client,
            Err(e) => return Err(Failure::Broken(Error::new(Retry::Never, e.clone()))),
        };
        let sending = client.post(call.url).headers(call.headers).body(call.body).send();
        let mut response = match tokio::time::timeout(idle, sending).await {
            Ok(Ok(response)) => response,
            Ok(Err(e)) => return Err(Failure::Broken(broken(e))),
            Err(_) => return Err(Failure::Broken(silent("before its answer began", idle))),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(Reply { response, idle, read: 0, max: self.settings.max_answer_bytes });
        }
        let retry_after = retry_after::parse(
            header(response.headers(), "retry-after-ms"),
            header(response.headers(), RETRY_AFTER.as_str()),
            header(response.headers(), DATE.as_str()),
        );
        let retry_after = retry_after.map(|wait| wait.min(self.settings.max_retry_after));
        let mut body = Vec::new();
        // Best effort: the status alone is enough to go by.
        while let Ok(Ok(Some(piece))) = tokio::time::timeout(idle, response.chunk()).await {
            body.extend_from_slice(&piece);
            if body.len() >= MAX_ERROR_BODY {
                body.truncate(MAX_ERROR_BODY);
                break;
            }
        }
        Err(Failure::Refused(Refusal { status, body: body.into(), retry_after }))
    }
}

impl Reply {
    /// The media type, without parameters, in lower case; empty when there is none.
    pub(crate) fn media_type(&self) -> String {
        let value = header(self.response.headers(), CONTENT_TYPE.as_str()).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(Some(piece))) => {
                self.read += piece.len();
                if self.read > self.max {
                    let text = format!("the model's answer is larger than the limit of {} bytes", self.max);
                    return Err(Error::new(Retry::Never, text));
                }
                Ok(Some(piece))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(e)) => Err(broken(e)),
            Err(_) => Err(silent("in the middle of its answer", self.idle)),
        }
    }

    /// Gives the connection back if the body ends at once, as it does after a complete answer.
    pub(crate) async fn finish(mut self) {
        let _ = tokio::time::timeout(DRAIN, async { while let Ok(Some(_)) = self.response.chunk().await {} }).await;
    }
}

/// Whether an answer of this status is worth another try.
pub(crate) fn retry_for(status: u16, retry_after: Option<Duration>) -> Retry {
    match status {
        408 | 409 | 425 | 429 | 500.. => retry_after.map_or(Retry::Backoff, Retry::After),
        _ => Retry::Never,
    }
}

/// A client with this crate's TLS setup: ring, embedded roots, HTTP/1.1, no redirects, no repeats. For the CLI too, so
/// that there is one place where TLS is decided.
///
/// # Errors
/// A sentence that says what could not be set up.
pub fn http_client(settings: &Http) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls()?)
        .http1_only()
        .user_agent(concat!("torpor/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        // A call is paid for: whether to repeat it is decided above, with a record of it.
        .retry(reqwest::retry::never())
        .referer(false)
        .tcp_nodelay(true)
        .tcp_keepalive(TCP_KEEPALIVE)
        .connect_timeout(settings.connect_timeout)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .pool_idle_timeout(POOL_IDLE);
    if !settings.system_proxy {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| format!("the HTTP client cannot be set up: {}", chain(&e)))
}

/// How TLS is set up: ring, embedded roots, HTTP/1.1. For everything in the program that connects somewhere.
///
/// # Errors
/// A sentence that says what could not be set up.
pub fn tls() -> Result<rustls::ClientConfig, String> {
    // The provider is named here and not left to the process-wide default, which another crate may have set;
    // it is installed as that default too, for whoever asks for it. A second installation is no error.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let _ = rustls::crypto::CryptoProvider::install_default((*provider).clone());
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // One connection a call: a server's limit on streams, or one stalled connection, then delays no other run.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn silent(when: &str, idle: Duration) -> Error {
    Error::new(Retry::Backoff, format!("the model was silent for {} ms {when}", idle.as_millis()))
}

fn broken(e: reqwest::Error) -> Error {
    // Without the URL: a path prefix of a gateway can be a secret of its own.
    let e = e.without_url();
    let what = if e.is_connect() { "no connection to the model" } else { "the connection to the model broke" };
    Error::new(Retry::Backoff, format!("{what}: {}", chain(&e)))
}

fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        text.push_str(": ");
        text.push_str(&e.to_string());
        source = e.source();
    }
    text
}
