//! `GET /openapi.json`: what this server takes and answers, for machines.
//!
//! Owns: the description (`openapi.json` beside the sources), which tests hold against the routes and the parser, and
//! whose schemas a fuzzer holds every answer against. Must not know: any handler.

use std::sync::LazyLock;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::{HeaderValue, header};

/// The description, without the version.
const TEMPLATE: &str = include_str!("../openapi.json");

static DESCRIPTION: LazyLock<Bytes> =
    LazyLock::new(|| Bytes::from(TEMPLATE.replacen("\"VERSION\"", concat!("\"", env!("CARGO_PKG_VERSION"), "\""), 1)));

pub(crate) async fn describe() -> Response {
    let mut response = Response::new(Body::from(DESCRIPTION.clone()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};
    use torpor_core::outcome::Status;
    use torpor_core::{RunId, SessionKey, Timestamp, envelope, webhook};

    use super::*;

    fn description() -> Value {
        serde_json::from_slice(&DESCRIPTION).unwrap()
    }

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let source = include_str!("../routes.rs");
        let mut routes = BTreeSet::new();
        for call in source.split(".route(").skip(1).map(|call| call.split("\n        .").next().unwrap()) {
            let path = call.split('"').nth(1).unwrap();
            for method in ["get", "post", "delete", "put", "patch"] {
                if call.contains(&format!(" {method}(")) || call.contains(&format!(".{method}(")) {
                    routes.insert(format!("{method} {path}"));
                }
            }
        }
        let mut described = BTreeSet::new();
        for (path, item) in description()["paths"].as_object().unwrap() {
            described.extend(item.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
        }
        assert_eq!(described, routes);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(whole: &Value, part: &Value) {
            match part {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        assert!(whole.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                    }
                    map.values().for_each(|v| check(whole, v));
                }
                Value::Array(all) => all.iter().for_each(|v| check(whole, v)),
                _ => {}
            }
        }
        let whole = description();
        check(&whole, &whole);
        assert_eq!(whole["info"]["version"], json!(env!("CARGO_PKG_VERSION")));
    }

    /// What receivers get has the fields that are described, and no others.
    #[test]
    fn a_webhook_is_described_as_it_is_sent() {
        let (run, session) = (RunId::generate(), SessionKey::new("t", "s").unwrap());
        let (kind, status) = (webhook::Kind::Paused, Status::Paused);
        let event = webhook::Event { kind, at: Timestamp(0), run: &run, session: &session, status, gate: Some(0) };
        let body: Value = serde_json::from_str(&event.body(&webhook::Id::generate())).unwrap();
        let described = &description()["components"]["schemas"];
        let names = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        let message = &described["WebhookMessage"]["properties"];
        assert_eq!(names(message), names(&body));
        assert_eq!(names(&message["data"]["properties"]), names(&body["data"]));
        let errors = json!(webhook::Failure::ALL.map(webhook::Failure::as_str));
        assert_eq!(described["WebhookStanding"]["properties"]["lastError"]["enum"], errors);
    }

    /// A field that is described is known to the parser, and the other way round for those it names as missing.
    #[test]
    fn the_envelope_is_described_as_it_is_read() {
        let fields = description()["components"]["schemas"]["Envelope"]["properties"].as_object().unwrap().clone();
        for name in fields.keys() {
            // No field takes this; what is unknown is refused in other words.
            let wrong = json!({ name.as_str(): [[]] });
            let problems = envelope::parse(wrong).map(drop).unwrap_err().to_string();
            assert!(
                !problems.contains("not a known field") && !problems.contains("not supported"),
                "{name}: {problems}"
            );
        }
    }
}
