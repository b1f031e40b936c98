//! Two clients: one that calls the routes in process, one that speaks over a socket byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use torpor_server::{Config, InvalidConfig};
use tower::ServiceExt as _;

use crate::fake::Fake;

/// Longer than anything here takes; a test that meets it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// Checks that this is a problem with that status and code, whole and without internals; answers its detail.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> String {
        let body = self.json();
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert!(!self.header("x-request-id").is_empty());
        assert_eq!(body["error"], body["code"]);
        assert_eq!(body["status"], status);
        assert_eq!(body["type"], format!("urn:torpor:problem:{code}"));
        for member in ["title", "detail", "instance"] {
            assert!(body[member].as_str().is_some_and(|s| !s.is_empty()), "{member} in {body}");
        }
        assert!(!body.to_string().contains("secret"), "{body}");
        body["detail"].as_str().unwrap().to_owned()
    }
}

/// Calls a route in process.
pub(crate) async fn call(
    router: &Router,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

pub(crate) async fn get(router: &Router, path: &str) -> Answer {
    call(router, Method::GET, path, &[], Body::empty()).await
}

pub(crate) async fn post(router: &Router, path: &str, body: &Value) -> Answer {
    call(router, Method::POST, path, &[], body.to_string()).await
}

/// A server on a socket of its own.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) fake: Arc<Fake>,
    stop: Option<oneshot::Sender<()>>,
    done: JoinHandle<Result<(), InvalidConfig>>,
}

impl Served {
    pub(crate) async fn start(config: Config) -> Self {
        let fake = Fake::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let app = fake.app();
        let done = tokio::spawn(torpor_server::serve(listener, app, config, async {
            let _ = stopped.await;
        }));
        Self { address, fake, stop: Some(stop), done }
    }

    pub(crate) async fn connect(&self) -> Wire {
        Wire(TcpStream::connect(self.address).await.unwrap())
    }

    /// Tells the server to stop.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until the server has returned.
    pub(crate) async fn stopped(self) {
        timeout(PATIENCE, self.done).await.expect("the server did not stop").unwrap().unwrap();
    }

    /// Waits until the server has refused to start.
    pub(crate) async fn refused(self) -> InvalidConfig {
        self.done.await.unwrap().expect_err("the server should not have started")
    }

    /// Waits until a further connection is served, where others had every place.
    pub(crate) async fn free_place(&self) {
        let served = async { while self.ask(&getting("/health")).await.status != 200 {} };
        timeout(PATIENCE, served).await.expect("no place became free");
    }

    /// One request over a connection of its own.
    pub(crate) async fn ask(&self, request: &str) -> Answer {
        let mut wire = self.connect().await;
        wire.send(request).await;
        wire.answer().await
    }
}

/// A connection.
pub(crate) struct Wire(pub(crate) TcpStream);

impl Wire {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads one answer with a `Content-Length`.
    pub(crate) async fn answer(&mut self) -> Answer {
        timeout(PATIENCE, self.read_answer()).await.expect("no answer came").expect("the connection closed")
    }

    /// Reads one answer, or `None` if the connection closes before it.
    pub(crate) async fn answer_or_close(&mut self) -> Option<Answer> {
        timeout(PATIENCE, self.read_answer()).await.expect("neither an answer nor the end came")
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse::<StatusCode>().unwrap().as_u16();
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|l| l.split_once(": ")) {
            headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let length = headers.get("content-length").map_or(0, |v| v.to_str().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.ok()?;
        Some(Answer { status, headers, body })
    }

    /// Waits for the server to end the connection.
    pub(crate) async fn closed(&mut self) {
        let mut rest = [0; 1024];
        let end = async { while matches!(self.0.read(&mut rest).await, Ok(n) if n > 0) {} };
        timeout(PATIENCE, end).await.expect("the connection stayed open");
    }
}

/// A request with a JSON body.
pub(crate) fn posting(path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!("POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A request without a body.
pub(crate) fn getting(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: t\r\n\r\n")
}
