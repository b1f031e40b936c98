//! Followers by the thousand: each reads its events line by line and keeps their ids alone.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::Server;

/// Longest that a follower waits for its next line; keep-alives come sooner.
const SILENCE: Duration = Duration::from_secs(25);

/// One follower of one run.
pub struct Follower {
    lines: BufReader<TcpStream>,
    /// The ids of the events that came, in order.
    pub ids: Vec<u64>,
    /// The name of the last one.
    pub last: String,
    /// Whether the stream came to its proper end.
    pub ended: bool,
}

impl Follower {
    /// Follows `run` after `after`; returns once the answer has begun.
    pub async fn new(server: &Server, run: &str, after: u64) -> Self {
        let mut socket = server.connect().await.0;
        let request = format!("GET /runs/{run}/events HTTP/1.1\r\nhost: t\r\nlast-event-id: {after}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut it = Self {
            lines: BufReader::with_capacity(1 << 10, socket),
            ids: Vec::new(),
            last: String::new(),
            ended: false,
        };
        let status = it.line().await.expect("an answer");
        assert!(status.starts_with("HTTP/1.1 200 "), "{status}");
        it
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = tokio::time::timeout(SILENCE, self.lines.read_until(b'\n', &mut line)).await.expect("a line");
        // A line without its end is the end of a stream that was cut.
        (read.is_ok() && line.ends_with(b"\n")).then(|| String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Reads until `enough` is true after an event, or the stream ends; false at its end. A chunk's frame is a line of
    /// its own, and an event is one chunk.
    pub async fn until(&mut self, enough: impl Fn(&Self) -> bool) -> bool {
        let mut id: Option<u64> = None;
        while let Some(line) = self.line().await {
            if line == "0" {
                self.ended = true; // the last chunk
                return false;
            } else if let Some(text) = line.strip_prefix("id: ") {
                id = text.parse().ok();
            } else if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut self.last);
            } else if line.starts_with("data: ") {
                self.ids.extend(id.take()); // only what came whole counts
                if enough(self) {
                    return true;
                }
            }
        }
        false
    }
}

impl Follower {
    /// The next event of any kind.
    pub async fn until_event(&mut self) -> bool {
        self.until(|_| true).await
    }
}

/// Allows this process, and those it starts, so many descriptors; answers how many there may be.
pub fn descriptors(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.map_or(wanted, |max| max.min(wanted)).max(limit.current.unwrap_or(wanted));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(wanted)
}
