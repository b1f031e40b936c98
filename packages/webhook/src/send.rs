//! One attempt: a signed request to an address that was judged, and what its answer means.

use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use torpor_core::Clock;
use torpor_core::webhook::{Admit, Deliver, Destination, Failed, Failure, Message, Refused, Target};

use crate::allow::Allow;
use crate::resolve::{Judged, Unreachable};
use crate::{DEFAULT_SECRET, Secrets, url};

/// How long one attempt may take in all: the name, the connection, TLS, the request and the head of the answer.
pub const ATTEMPT: Duration = Duration::from_secs(15);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// What a sender needs to know.
#[derive(Clone)]
pub struct Settings {
    /// What is allowed beside the public network.
    pub allow: Allow,
    /// What signs.
    pub secrets: Arc<dyn Secrets>,
    /// How TLS is set up; asked once, at the first attempt. An error is for people.
    pub tls: fn() -> Result<rustls::ClientConfig, String>,
    /// How long one attempt may take in all; [`ATTEMPT`] unless a test is in a hurry.
    pub attempt: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("allow", &self.allow).finish_non_exhaustive()
    }
}

/// Sends messages over HTTP. Nothing is set up before the first one.
pub struct Sender {
    settings: Settings,
    clock: Arc<dyn Clock>,
    client: OnceLock<Result<reqwest::Client, String>>,
}

impl Sender {
    /// A sender with these settings.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Self { settings, clock, client: OnceLock::new() }
    }

    /// The signatures of a message that is sent at this second, separated by spaces.
    fn signatures(&self, message: &Message, target: &Target, seconds: u64) -> Option<String> {
        let name = target.secret_ref.as_deref().unwrap_or(DEFAULT_SECRET);
        let secrets = self.settings.secrets.find(&message.tenant, name);
        let all: Vec<String> = secrets.iter().map(|s| s.sign(message.id.as_str(), seconds, &message.body)).collect();
        (!all.is_empty()).then(|| all.join(" "))
    }

    async fn post(&self, message: &Message, target: &Target, url: Url) -> Result<u16, Failed> {
        let seconds = self.clock.now().0 / 1_000;
        let signatures = self.signatures(message, target, seconds).ok_or_else(|| Failed::new(Failure::Secret))?;
        let client = self.client.get_or_init(|| client(&self.settings)).as_ref().map_err(|e| {
            tracing::error!(error = e, "webhooks cannot be sent");
            Failed::new(Failure::Connection)
        })?;
        let request = client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", message.id.as_str())
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signatures)
            .body(message.body.clone());
        // The body of an answer is never read: dropping the response closes the connection.
        let response = request.send().await.map_err(|e| Failed::new(meaning(&e)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(status.as_u16());
        }
        Err(Failed {
            why: Failure::Status,
            status: Some(status.as_u16()),
            retry_after: retry_after(response.headers()),
            gone: status == StatusCode::GONE,
        })
    }
}

impl Admit for Sender {
    fn check(&self, tenant: &str, target: &Target) -> Result<(), Refused> {
        url::check(&target.url, &self.settings.allow).map_err(|message| Refused { field: "webhook.url", message })?;
        let name = target.secret_ref.as_deref().unwrap_or(DEFAULT_SECRET);
        if self.settings.secrets.find(tenant, name).is_empty() {
            let message = match &target.secret_ref {
                Some(name) => format!("names no secret that the operator has configured for this tenant: {name:?}"),
                None => format!(
                    "is required: webhooks are signed, and no secret named {DEFAULT_SECRET:?} is configured for this \
                     tenant"
                ),
            };
            return Err(Refused { field: "webhook.secretRef", message });
        }
        Ok(())
    }
}

#[async_trait]
impl Deliver for Sender {
    async fn deliver(&self, message: &Message) -> Result<Option<u16>, Failed> {
        let Destination::Webhook(target) = &message.to else { return Err(Failed::new(Failure::Refused)) };
        // What was allowed at the submit may not be any more.
        let url = url::check(&target.url, &self.settings.allow).map_err(|_| Failed::new(Failure::Refused))?;
        let sent = tokio::time::timeout(self.settings.attempt, self.post(message, target, url)).await;
        sent.unwrap_or_else(|_| Err(Failed::new(Failure::Timeout))).map(Some)
    }
}

fn client(settings: &Settings) -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .tls_backend_preconfigured((settings.tls)()?)
        .http1_only()
        .user_agent(concat!("torpor/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy() // a proxy would resolve the name itself
        .dns_resolver(Arc::new(Judged(Arc::new(settings.allow.clone()))))
        .connect_timeout(CONNECT)
        // Every attempt connects anew, so that every connection was judged by the rules of its moment.
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|e| format!("the HTTP client cannot be set up: {}", e.without_url()))
}

fn meaning(e: &reqwest::Error) -> Failure {
    let mut source = e.source();
    while let Some(e) = source {
        match e.downcast_ref::<Unreachable>() {
            Some(Unreachable::NoAddress) => return Failure::Name,
            Some(Unreachable::Refused) => return Failure::Refused,
            None => source = e.source(),
        }
    }
    if e.is_timeout() { Failure::Timeout } else { Failure::Connection }
}

/// `Retry-After` in seconds. A date counts as absent: it would take the receiver's clock to be ours.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
