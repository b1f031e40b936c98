//! One trace from the request to the command, as a collector receives it from the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![cfg(feature = "otlp")]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::json;
use support::{World, bash, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A span as it arrived.
#[derive(Debug, Clone, Default)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: u64,
    start: u64,
    end: u64,
    error: bool,
    attributes: BTreeMap<String, String>,
}

/// The fields of a protobuf message: number, and either a number or bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut n = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().expect("a whole varint");
            *bytes = rest;
            n |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        n
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let (number, length) = match key & 7 {
            0 => (varint(&mut bytes), 0),
            1 => (u64::from_le_bytes(bytes[..8].try_into().unwrap()), 8),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                (0, length)
            }
            5 => (0, 4),
            other => panic!("wire type {other}"),
        };
        let (value, rest) = bytes.split_at(length);
        bytes = rest;
        all.push((key >> 3, number, value));
    }
    all
}

fn inner(message: &[u8], field: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).into_iter().filter(move |(f, ..)| *f == field).map(|(_, _, bytes)| bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An `AnyValue` in words.
fn value(any: &[u8]) -> String {
    let (field, number, bytes) = fields(any).remove(0);
    match field {
        1 => text(bytes),
        3 => number.to_string(),
        5 => inner(bytes, 1).map(value).collect::<Vec<_>>().join(","),
        other => panic!("value {other}"),
    }
}

fn attributes(message: &[u8], field: u64) -> BTreeMap<String, String> {
    inner(message, field)
        .map(|pair| (text(inner(pair, 1).next().unwrap()), value(inner(pair, 2).next().unwrap())))
        .collect()
}

fn span(message: &[u8]) -> Span {
    let mut span = Span { attributes: attributes(message, 9), ..Span::default() };
    for (field, number, bytes) in fields(message) {
        match field {
            1 => span.trace = hex(bytes),
            2 => span.id = hex(bytes),
            4 => span.parent = hex(bytes),
            5 => span.name = text(bytes),
            6 => span.kind = number,
            7 => span.start = number,
            8 => span.end = number,
            15 => span.error = fields(bytes).iter().any(|(f, n, _)| (*f, *n) == (3, 2)),
            _ => {}
        }
    }
    span
}

/// A collector that keeps what it gets; its first answer is 503, so that nothing may be lost by one.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Kept>>);

/// Spans, heads of requests, and their bodies one after the other.
type Kept = (Vec<Span>, Vec<String>, Vec<u8>);

impl Collector {
    async fn start() -> (Self, String) {
        let (collector, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let url = format!("http://{}/prefix", listener.local_addr().unwrap());
        let it = collector.clone();
        tokio::spawn(async move {
            let mut answered = false;
            while let Ok((mut socket, _)) = listener.accept().await {
                let Some((head, body)) = read(&mut socket).await else { continue };
                let status = if answered { "200 OK" } else { "503 Service Unavailable" };
                if answered {
                    it.take(head, &body);
                }
                answered = true;
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        (collector, url)
    }

    fn take(&self, head: String, body: &[u8]) {
        let mut kept = self.0.lock().unwrap();
        for of_resource in inner(body, 1) {
            let resource = attributes(inner(of_resource, 1).next().unwrap(), 1);
            assert_eq!(resource["service.name"], "the-service");
            for of_scope in inner(of_resource, 2) {
                kept.0.extend(inner(of_scope, 2).map(span));
            }
        }
        kept.1.push(head);
        kept.2.extend_from_slice(body);
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().0.clone()
    }
}

async fn read(socket: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        if let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = text(&all[..end]).to_lowercase();
            let length: usize = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
            if all.len() >= end + 4 + length {
                return Some((head, all[end + 4..].to_vec()));
            }
        }
        let mut piece = vec![0; 16 * 1024];
        let n = socket.read(&mut piece).await.ok().filter(|n| *n > 0)?;
        all.extend_from_slice(&piece[..n]);
    }
}

#[tokio::test]
async fn a_collector_receives_one_tree_without_contents() {
    let (collector, url) = Collector::start().await;
    let mut world = World::new().await;
    world.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url);
    world.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20canary-of-the-collector");
    world.env("OTEL_SERVICE_NAME", "the-service");
    let server = world.serve().await;
    let script = format!("usage=100,7;{};{};retry429=1;text", bash("echo canary-argument"), bash("false"));
    let mut envelope = world.prompt(&script);
    envelope["prompt"] = json!(format!("canary-prompt {}", envelope["prompt"].as_str().unwrap()));
    let http = torpor_model::http_client(&torpor_model::config::Http::default()).unwrap();
    let post = http
        .post(format!("{}/runs", server.url))
        .header("content-type", "application/json")
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .body(envelope.to_string());
    let ended = post.send().await.unwrap().text().await.unwrap();
    assert!(ended.contains(r#""status":"done""#), "{ended}");
    // A caller that does not record its trace wants no spans of it; a probe is in nobody's trace.
    let unsampled =
        http.post(format!("{}/turn", server.url)).header("traceparent", format!("00-{}-{CALLER}-00", "1".repeat(32)));
    let unsampled = unsampled.header("content-type", "application/json").body(r#"{"prompt": "x"}"#);
    assert!(unsampled.send().await.unwrap().status().is_success());
    server.get("/health").await;
    // What is left is handed over before the process ends.
    let (code, _) = server.terminate().await;
    assert_eq!(code, Some(0));

    until("the spans", async || (collector.spans().len() >= 8).then_some(())).await;
    let spans = collector.spans();
    let names: Vec<&str> = spans.iter().map(|s| s.name.as_str()).collect();
    assert!(spans.iter().all(|s| s.trace == TRACE), "{spans:?}");
    let find = |name: &str| spans.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no {name} in {names:?}"));
    let (request, leaf, wait) = (find("POST /runs"), find("invoke_agent torpor"), find("queue wait"));
    assert_eq!((request.parent.as_str(), request.kind), (CALLER, 2));
    assert_eq!(
        (&request.attributes["http.route"], &request.attributes["http.response.status_code"]),
        (&"/runs".into(), &"200".into())
    );
    assert_eq!((&leaf.parent, &wait.parent), (&request.id, &request.id));
    assert_eq!(leaf.attributes["gen_ai.operation.name"], "invoke_agent");
    assert_eq!(leaf.attributes["torpor.run.status"], "done");
    let chats: Vec<&Span> = spans.iter().filter(|s| s.name == "chat claude-opus-4-8").collect();
    let tools: Vec<&Span> = spans.iter().filter(|s| s.name == "execute_tool bash").collect();
    assert_eq!((chats.len(), tools.len(), spans.len()), (3, 2, 8), "{names:?}");
    for chat in &chats {
        let of = |key: &str| chat.attributes[key].as_str();
        assert_eq!((chat.parent.as_str(), chat.kind, chat.error), (leaf.id.as_str(), 3, false));
        assert_eq!((of("gen_ai.operation.name"), of("gen_ai.provider.name")), ("chat", "anthropic"));
        assert_eq!((of("gen_ai.usage.input_tokens"), of("gen_ai.usage.output_tokens")), ("100", "7"));
        assert!(chat.start >= leaf.start && chat.end <= leaf.end && chat.start <= chat.end, "{chat:?} in {leaf:?}");
    }
    let reasons: Vec<&str> = chats.iter().map(|c| c.attributes["gen_ai.response.finish_reasons"].as_str()).collect();
    assert_eq!(reasons, ["tool_call", "tool_call", "stop"]);
    assert!(tools.iter().all(|t| t.parent == leaf.id && t.attributes["gen_ai.tool.name"] == "bash"), "{tools:?}");
    assert_eq!(tools.iter().map(|t| t.error).collect::<Vec<_>>(), [false, true]);
    // The provider heard the very span that the collector shows.
    let heard = world.model.recorded()[0].header("traceparent").unwrap().to_owned();
    assert_eq!(&heard[36..52], chats[0].id);

    let kept = collector.0.lock().unwrap();
    assert!(kept.1.iter().all(|head| head.starts_with("post /prefix/v1/traces ")), "{:?}", kept.1);
    assert!(kept.1.iter().all(|head| head.contains("authorization: bearer canary-of-the-collector")));
    let everything = String::from_utf8_lossy(&kept.2);
    for secret in ["canary", "sk-", "echo", "[[s:"] {
        assert!(!everything.contains(secret), "{secret} was sent to the collector");
    }
    assert!(!world.log().contains("canary"), "{}", world.log());
}

/// A collector that is away costs nobody anything: runs go on, and the end of the process is not held up.
#[tokio::test]
async fn a_collector_that_is_away_is_no_fault() {
    let mut world = World::new().await;
    world.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let server = world.serve().await;
    assert_eq!(server.post("/runs", &world.prompt("text")).await.body["status"], "done");
    let (code, took) = server.terminate().await;
    assert_eq!(code, Some(0));
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    assert!(world.log().contains("spans were lost"), "{}", world.log());
}

#[tokio::test]
async fn settings_that_mean_nothing_stop_the_start_and_are_not_repeated() {
    for (endpoint, headers, named) in [
        ("collector:4318", "", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("http://user:canary@host", "", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("http://host", "canary", "OTEL_EXPORTER_OTLP_HEADERS"),
    ] {
        let mut world = World::new().await;
        world.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        world.env("OTEL_EXPORTER_OTLP_HEADERS", headers);
        let out = world.run(&["serve"]).await;
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains(named) && !said.contains("canary"), "{said}");
    }
}
