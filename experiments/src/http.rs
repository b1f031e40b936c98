//! A small keep-alive HTTP/1.1 client that costs little beside what it measures.
//!
//! Owns: raw requests over one connection, and closed loops of many. Must not know: what is asked.
//!
//! It reads answers with a `content-length` only, which all servers here send.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest that one answer may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest head of an answer.
const MAX_HEAD: usize = 64 << 10;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body, where the status is as expected.
    pub(crate) fn json(&self, status: u16) -> anyhow::Result<Value> {
        if self.status != status {
            bail!("expected status {status}, got {}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        serde_json::from_slice(&self.body).context("the answer is no JSON")
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// GET.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await
    }

    /// POST of JSON.
    pub(crate) async fn post(&mut self, path: &str, body: &str) -> anyhow::Result<Answer> {
        self.send(&post(path, body)).await
    }

    async fn send(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        timeout(PATIENCE, self.exchange(request)).await.with_context(|| format!("no answer within {PATIENCE:?}"))?
    }

    async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let (mut end, mut searched) = (None, 0);
        while end.is_none() {
            if self.buffer.len() > MAX_HEAD || self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server hung up, or its head is longer than {MAX_HEAD} bytes");
            }
            end = memchr::memmem::find(&self.buffer[searched..], b"\r\n\r\n").map(|at| searched + at);
            searched = self.buffer.len().saturating_sub(3);
        }
        let head_end = end.unwrap_or_default();
        let head = std::str::from_utf8(&self.buffer[..head_end]).context("head of the answer")?;
        let status = head.get(9..12).and_then(|s| s.parse().ok()).context("no status line")?;
        let length = content_length(head).with_context(|| format!("no content-length in {head:?}"))?;
        let want = head_end + 4 + length;
        while self.buffer.len() < want {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server hung up within an answer");
            }
        }
        Ok(Answer { status, body: self.buffer[head_end + 4..want].to_vec() })
    }
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let head = "HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length:";
    format!("POST {path} {head} {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|l| {
        let (name, value) = l.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}

/// When a closed loop ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// After so many requests in all.
    Count(u64),
    /// When no request begins after this time.
    Elapsed(Duration),
}

/// What a closed loop saw.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) latencies_ms: Vec<f64>,
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) wall: Duration,
}

impl Load {
    /// Answers per second.
    pub(crate) fn rate(&self) -> f64 {
        self.latencies_ms.len() as f64 / self.wall.as_secs_f64()
    }

    /// The statuses in words.
    pub(crate) fn statuses(&self) -> String {
        self.statuses.iter().map(|(s, n)| format!("{s}×{n}")).collect::<Vec<_>>().join(" ")
    }
}

/// `clients` connections, each of which posts `body(number)` again as soon as it is answered.
pub(crate) async fn closed_loop(
    address: SocketAddr,
    clients: usize,
    until: Until,
    path: &'static str,
    body: impl Fn(u64) -> String + Send + Sync + 'static,
) -> anyhow::Result<Load> {
    let (next, body) = (Arc::new(AtomicU64::new(0)), Arc::new(body));
    let mut connections = Vec::with_capacity(clients);
    for _ in 0..clients {
        connections.push(Http::connect(address).await?);
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut http in connections {
        let (next, body) = (next.clone(), body.clone());
        tasks.spawn(async move {
            let mut seen: Vec<(u16, f64)> = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let over = match until {
                    Until::Count(n) => number >= n,
                    Until::Elapsed(d) => began.elapsed() >= d,
                };
                if over {
                    return Ok::<_, anyhow::Error>(seen);
                }
                let text = body(number);
                let sent = Instant::now();
                let answer = http.post(path, &text).await?;
                seen.push((answer.status, ms(sent.elapsed())));
            }
        });
    }
    let mut load = Load::default();
    while let Some(done) = tasks.join_next().await {
        for (status, latency) in done?? {
            *load.statuses.entry(status).or_default() += 1;
            load.latencies_ms.push(latency);
        }
    }
    load.wall = began.elapsed();
    Ok(load)
}

/// Milliseconds.
pub(crate) fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles;

    #[tokio::test]
    async fn a_closed_loop_asks_as_often_as_it_is_told() {
        let (address, server) = roles::hello().await.unwrap();
        let load = closed_loop(address, 3, Until::Count(50), "/", |n| n.to_string()).await.unwrap();
        assert_eq!(load.latencies_ms.len(), 50);
        assert_eq!(load.statuses(), "200×50");
        let mut http = Http::connect(address).await.unwrap();
        assert_eq!(http.get("/").await.unwrap().json(200).unwrap(), serde_json::json!({"ok": true}));
        assert!(http.get("/").await.unwrap().json(404).is_err());
        server.abort();
    }

    #[test]
    fn the_length_is_found_whatever_the_case() {
        assert_eq!(content_length("HTTP/1.1 200 OK\r\nContent-Length: 12"), Some(12));
        assert_eq!(content_length("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"), None);
    }
}
