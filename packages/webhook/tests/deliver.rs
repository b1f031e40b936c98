//! One attempt, over real connections: what is sent, and what every answer means.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use torpor_core::webhook::{Admit as _, Deliver as _, Destination, Failed, Failure, Id, Message, Target};
use torpor_core::{RunId, SystemClock};
use torpor_testkit::receiver::{Answer, Receiver};
use torpor_webhook::{Allow, Secret, Secrets, Sender, Settings};

const CURRENT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PREVIOUS: &str = "the one before, which has its own bytes";

/// `acme` has `billing`, and one before it; nobody has anything else.
struct Two;

impl Secrets for Two {
    fn find(&self, tenant: &str, name: &str) -> Vec<Secret> {
        match (tenant, name) {
            ("acme", "billing") => [CURRENT, PREVIOUS].map(|s| Secret::parse(s).unwrap()).into(),
            _ => Vec::new(),
        }
    }
}

fn tls() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(|e| e.to_string())?.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

fn sender(allow: &str, attempt: Duration) -> Sender {
    let allow = Allow::parse(allow).unwrap();
    Sender::new(Settings { allow, secrets: Arc::new(Two), tls, attempt }, Arc::new(SystemClock))
}

fn target(url: &str, secret: Option<&str>) -> Target {
    Target { url: url.into(), secret_ref: secret.map(Into::into) }
}

fn message(url: &str, secret: Option<&str>) -> Message {
    Message {
        id: Id::generate(),
        run: RunId::generate(),
        tenant: "acme".into(),
        to: Destination::Webhook(target(url, secret)),
        body: "{\"type\":\"run.ended\"}".into(),
        ended_at: None,
    }
}

async fn deliver(sender: &Sender, url: &str) -> Result<u16, Failed> {
    sender.deliver(&message(url, Some("billing"))).await.map(|status| status.expect("a receiver gives one"))
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_message_arrives_signed_by_every_secret_of_its_name() {
    let receiver = Receiver::start([]).await;
    let message = message(&receiver.url(), Some("billing"));
    assert_eq!(sender("127.0.0.1", LONG).deliver(&message).await, Ok(Some(204)));
    let got = &receiver.got()[0];
    assert_eq!(got.line, "POST /hook?capability=canary-url HTTP/1.1");
    assert_eq!((got.header("content-type"), &got.body), ("application/json", &message.body));
    assert_eq!(got.header("webhook-id"), message.id.as_str());
    let seconds: u64 = got.header("webhook-timestamp").parse().unwrap();
    assert!(seconds > 1_700_000_000 && seconds < 10_000_000_000, "seconds, not milliseconds: {seconds}");
    let want = [CURRENT, PREVIOUS].map(|s| Secret::parse(s).unwrap().sign(message.id.as_str(), seconds, &message.body));
    assert_eq!(got.header("webhook-signature"), want.join(" "));
}

#[tokio::test]
async fn every_answer_means_something() {
    let status = |status, headers: &str| Answer::Status(status, headers.to_owned());
    let failed = |why, status, retry_after: Option<u64>| Failed {
        why,
        status,
        retry_after: retry_after.map(Duration::from_secs),
        gone: status == Some(410),
    };
    for (answer, want) in [
        (status(200, ""), Ok(200)),
        (status(302, "location: http://127.0.0.1:1/stolen\r\n"), Err(failed(Failure::Status, Some(302), None))),
        (status(400, ""), Err(failed(Failure::Status, Some(400), None))),
        (status(410, ""), Err(failed(Failure::Status, Some(410), None))),
        (status(429, "retry-after: 120\r\n"), Err(failed(Failure::Status, Some(429), Some(120)))),
        (status(503, "retry-after: soon\r\n"), Err(failed(Failure::Status, Some(503), None))),
        (Answer::Cut, Err(failed(Failure::Connection, None, None))),
    ] {
        let receiver = Receiver::start([answer.clone()]).await;
        assert_eq!(deliver(&sender("127.0.0.1", LONG), &receiver.url()).await, want, "{answer:?}");
        assert_eq!(receiver.got().len(), 1, "{answer:?}: no redirect is followed, nothing is repeated");
    }
}

#[tokio::test]
async fn silence_ends_in_time() {
    let receiver = Receiver::start([Answer::Silence]).await;
    let began = Instant::now();
    let sent = deliver(&sender("127.0.0.1", Duration::from_millis(200)), &receiver.url()).await;
    assert_eq!(sent, Err(Failed::new(Failure::Timeout)));
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_a_failed_connection() {
    let gone = Receiver::start([]).await.url(); // dropped at once
    assert_eq!(deliver(&sender("127.0.0.1", LONG), &gone).await, Err(Failed::new(Failure::Connection)));
}

/// Nothing reaches what is not allowed, however it is written, and a name that leads there is judged when it is used.
#[tokio::test]
async fn private_places_are_not_reached() {
    let receiver = Receiver::start([]).await;
    let port = receiver.address().port();
    for (allow, url) in [
        ("", format!("http://127.0.0.1:{port}/")),
        ("", format!("https://127.0.0.1:{port}/")),
        ("", format!("https://[::ffff:127.0.0.1]:{port}/")),
        ("", format!("https://2130706433:{port}/")),
        ("", format!("https://localhost:{port}/")),
        ("10.0.0.0/8", format!("https://localhost:{port}/")),
        ("", "https://169.254.169.254/latest/meta-data".into()),
    ] {
        let sent = deliver(&sender(allow, LONG), &url).await;
        assert_eq!(sent, Err(Failed::new(Failure::Refused)), "{allow} {url}");
    }
    assert!(receiver.got().is_empty());
    assert_eq!(deliver(&sender("localhost", LONG), &format!("http://localhost:{port}/")).await, Ok(204));
}

#[tokio::test]
async fn targets_are_checked_before_a_run_is_accepted() {
    let sender = sender("", LONG);
    let refused = |tenant: &str, url: &str, secret: Option<&str>| {
        sender.check(tenant, &target(url, secret)).map_err(|e| e.to_string())
    };
    let good = "https://hooks.example/canary-url";
    assert_eq!(refused("acme", good, Some("billing")), Ok(()));
    for (tenant, url, secret, want) in [
        ("acme", "http://hooks.example/canary-url", Some("billing"), "`webhook.url` must begin with https://"),
        ("acme", good, Some("other"), "`webhook.secretRef` names no secret"),
        ("globex", good, Some("billing"), "`webhook.secretRef` names no secret"),
        ("acme", good, None, "`webhook.secretRef` is required"),
    ] {
        let e = refused(tenant, url, secret).unwrap_err();
        assert!(e.starts_with(want) && !e.contains("canary"), "{e}");
    }
    let lost = message(good, Some("other"));
    assert_eq!(sender.deliver(&lost).await, Err(Failed::new(Failure::Secret)), "and it is not sent unsigned");
}
