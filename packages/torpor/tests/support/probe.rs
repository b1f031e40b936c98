//! Looking at a process from outside, and speaking HTTP to it byte by byte.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::{LIMIT, Server, World};

/// A process whose memory is watched. Figures are in MiB.
#[derive(Debug, Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// What is resident now.
    pub fn rss(self) -> f64 {
        self.status("VmRSS:")
    }

    /// The most that was resident since the start or the last [`Process::forget_peak`].
    pub fn peak(self) -> f64 {
        self.status("VmHWM:")
    }

    /// From here on the peak counts anew.
    pub fn forget_peak(self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.0), "5").unwrap();
    }

    pub fn descriptors(self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0)).map_or(0, Iterator::count)
    }

    /// Sockets on which it takes connections over TCP.
    pub fn listeners(self) -> usize {
        const LISTEN: &str = "0A";
        let table = ["tcp", "tcp6"].map(|name| std::fs::read_to_string(format!("/proc/{}/net/{name}", self.0)));
        let table = table.map(Result::unwrap_or_default).concat();
        let listening: Vec<String> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|columns| columns.get(3) == Some(&LISTEN))
            .filter_map(|columns| Some(format!("socket:[{}]", columns.get(9)?)))
            .collect();
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.0)).unwrap();
        open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .filter(|target| listening.iter().any(|socket| target.as_os_str() == socket.as_str()))
            .count()
    }

    pub fn signal(self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.0).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn status(self, key: &str) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl World {
    /// The hands, found by their command line.
    pub fn hands(&self) -> Option<Process> {
        let dir = self.data().join("hands");
        let hands = std::fs::read_dir("/proc").unwrap().filter_map(|e| {
            let pid: u32 = e.ok()?.file_name().to_str()?.parse().ok()?;
            let line = String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).ok()?).into_owned();
            (line.contains("__hands-daemon") && line.contains(dir.to_str()?)).then_some(Process(pid))
        });
        // Domains are forked from the daemon and share its command line; the daemon is the oldest.
        hands.min_by_key(|p| p.0)
    }
}

impl Server {
    pub fn process(&self) -> Process {
        Process(self.pid())
    }

    pub fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    pub async fn connect(&self) -> Wire {
        // What this side keeps is small, so that not reading is noticed soon.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        Wire(socket.connect(self.address()).await.unwrap())
    }

    /// How long `/health` takes.
    pub async fn health(&self) -> Duration {
        let begun = Instant::now();
        assert_eq!(self.get("/health").await.status, 200);
        begun.elapsed()
    }
}

/// A connection whose bytes the test chooses.
pub struct Wire(pub TcpStream);

/// An answer as it came.
#[derive(Debug)]
pub struct Raw {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Raw {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Status and code of a problem.
    pub fn problem(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap_or_default().to_owned())
    }
}

impl Wire {
    /// Sends; false if the other side has closed.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.write_all(bytes.as_ref()).await.is_ok()
    }

    /// The next answer, by its content length; `None` if the connection ends without one.
    pub async fn answer(&mut self) -> Option<Raw> {
        tokio::time::timeout(LIMIT, self.read_answer(false)).await.expect("an answer or an end")
    }

    /// As [`Wire::answer`], for a request whose answer has no body.
    pub async fn answer_to_head(&mut self) -> Option<Raw> {
        tokio::time::timeout(LIMIT, self.read_answer(true)).await.expect("an answer or an end")
    }

    async fn read_answer(&mut self, bodyless: bool) -> Option<Raw> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; if bodyless { 0 } else { length }];
        self.0.read_exact(&mut body).await.ok()?;
        Some(Raw { status, head, body })
    }

    /// Reads and throws away until the other side ends the connection; how long that took.
    pub async fn until_closed(&mut self) -> Duration {
        let begun = Instant::now();
        let mut waste = vec![0; 64 << 10];
        let end = async { while matches!(self.0.read(&mut waste).await, Ok(n) if n > 0) {} };
        tokio::time::timeout(LIMIT, end).await.expect("the server closes");
        begun.elapsed()
    }
}

/// A request with a JSON body, as bytes.
pub fn posting(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
