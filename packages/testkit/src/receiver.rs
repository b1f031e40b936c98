//! A receiver of webhooks on loopback, for tests: it answers as it is told and keeps what it got.
//!
//! Owns: reading one request and writing one scripted answer. Must not know: signatures; a test checks those itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Largest request that is read.
const MAX_BYTES: usize = 64 * 1024;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Got {
    /// The request line.
    pub line: String,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Got {
    /// The value of a header; empty without it.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }
}

/// How a request is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// With this status and these further header lines, each ended by `\r\n`.
    Status(u16, String),
    /// Not at all: the connection stays open.
    Silence,
    /// The connection is cut.
    Cut,
}

struct Shared {
    answers: Mutex<VecDeque<Answer>>,
    got: watch::Sender<Vec<Got>>,
}

/// The receiver, for as long as it lives.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Receiver {
    /// Starts one that gives these answers, then 204 to all that follow.
    ///
    /// # Panics
    /// When loopback cannot be listened on.
    #[allow(clippy::expect_used)] // a test without its receiver has failed
    pub async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let address = listener.local_addr().expect("an address");
        let answers = Mutex::new(answers.into_iter().collect());
        let shared = Arc::new(Shared { answers, got: watch::Sender::default() });
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self { address, shared, serving }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook?capability=canary-url", self.address)
    }

    /// What it got so far.
    #[must_use]
    pub fn got(&self) -> Vec<Got> {
        self.shared.got.borrow().clone()
    }

    /// Waits until it got so many.
    ///
    /// # Panics
    /// When they do not come within 20 seconds.
    #[allow(clippy::expect_used)] // a test that waited in vain has failed
    pub async fn wait_for(&self, n: usize) -> Vec<Got> {
        let mut got = self.shared.got.subscribe();
        let waiting = got.wait_for(|all| all.len() >= n);
        let found = tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await;
        found.expect("the webhooks come").expect("the receiver lives").clone()
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _ = answer(stream, &shared).await; // a client that left has nothing to be told
        });
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let got = loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).await?;
        bytes.extend_from_slice(&piece[..n]);
        if let Some(got) = parse(&bytes) {
            break got;
        }
        if n == 0 || bytes.len() > MAX_BYTES {
            return Ok(());
        }
    };
    let next = shared.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    shared.got.send_modify(|all| all.push(got));
    match next.unwrap_or(Answer::Status(204, String::new())) {
        Answer::Status(status, headers) => {
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{headers}\r\n");
            stream.write_all(head.as_bytes()).await?;
            stream.shutdown().await
        }
        Answer::Silence => std::future::pending().await,
        Answer::Cut => Ok(()),
    }
}

/// The request, once it is whole.
fn parse(bytes: &[u8]) -> Option<Got> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let line = lines.next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
    (body.len() >= length).then(|| Got { line, headers, body: body.to_owned() })
}
