//! A TCP proxy that spoils connections on purpose, by a seed.
//!
//! Owns: what goes wrong between two processes that speak over a socket. Must not know: the protocol they speak.
//!
//! Each connection gets faults of its own, drawn from the seed and the connection's number; which chunk of bytes they meet
//! depends on the machine, as in life. What can go wrong is said by [`Fault`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // the code of tests

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::dice::Dice;

/// Bytes that are looked at in one piece.
const CHUNK: usize = 16 * 1024;

/// How long a connection that is half open stays so.
const HALF_OPEN: Duration = Duration::from_secs(20);

/// What goes wrong with a piece of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed before the piece is passed on.
    Cut,
    /// The request is passed on and carried out; its answer is thrown away and the connection closed.
    LostReply,
    /// Nothing is passed on any more in either direction, and nobody is told.
    HalfOpen,
    /// The piece is passed on later.
    Delay(Duration),
}

/// How often things go wrong: one piece in so many, 0 for never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// One request in so many is cut off.
    pub cut: u64,
    /// One request in so many loses its answer.
    pub lost_reply: u64,
    /// One request in so many is the last that its connection carries.
    pub half_open: u64,
    /// One piece in so many is delayed, by up to `delay_ms`.
    pub delay: u64,
    /// The longest delay, in milliseconds.
    pub delay_ms: u64,
}

/// A proxy on a loopback port. Dropping it closes its connections.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    rates: Rates,
    seed: u64,
    armed: AtomicBool,
    connections: AtomicU64,
    faults: AtomicU64,
}

impl FaultProxy {
    /// Starts a proxy for `target` that passes everything on until it is armed.
    pub async fn start(target: SocketAddr, seed: u64, rates: Rates) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port");
        let address = listener.local_addr().expect("it has an address");
        let shared = Arc::new(Shared {
            target,
            rates,
            seed,
            armed: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on things go wrong, or nothing does any more.
    pub fn arm(&self, armed: bool) {
        self.shared.armed.store(armed, Ordering::SeqCst);
    }

    /// How many faults there were, delays left out.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the proxy.
    let mut open = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&shared);
                open.spawn(async move {
                    if let Ok(server) = TcpStream::connect(shared.target).await {
                        let dice = Dice::new(shared.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9)));
                        let _ = pass(client, server, &shared, dice).await; // a broken end ends it
                    }
                });
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, shared: &Shared, mut dice: Dice) -> std::io::Result<()> {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut up, mut down) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut lose_reply = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let n = read?;
                if n == 0 {
                    return Ok(());
                }
                match draw(shared, &mut dice) {
                    Some(Fault::Cut) => return Ok(()),
                    Some(Fault::LostReply) => lose_reply = true,
                    Some(Fault::HalfOpen) => {
                        tokio::time::sleep(HALF_OPEN).await;
                        return Ok(());
                    }
                    Some(Fault::Delay(by)) => tokio::time::sleep(by).await,
                    None => {}
                }
                server.write_all(&up[..n]).await?;
            }
            read = server.read(&mut down) => {
                let n = read?;
                if n == 0 || lose_reply {
                    return Ok(());
                }
                client.write_all(&down[..n]).await?;
            }
        }
    }
}

fn draw(shared: &Shared, dice: &mut Dice) -> Option<Fault> {
    if !shared.armed.load(Ordering::SeqCst) {
        return None;
    }
    let Rates { cut, lost_reply, half_open, delay, delay_ms } = shared.rates;
    let mut hit = |one_in: u64| one_in > 0 && dice.below(one_in) == 0;
    let fault = if hit(cut) {
        Fault::Cut
    } else if hit(lost_reply) {
        Fault::LostReply
    } else if hit(half_open) {
        Fault::HalfOpen
    } else if hit(delay) {
        return Some(Fault::Delay(Duration::from_millis(dice.below(delay_ms.max(1)))));
    } else {
        return None;
    };
    shared.faults.fetch_add(1, Ordering::SeqCst);
    Some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = socket.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn ask(proxy: &FaultProxy) -> std::io::Result<usize> {
        let mut socket = TcpStream::connect(proxy.address()).await?;
        socket.write_all(b"hello").await?;
        let mut answer = [0; 5];
        socket.read(&mut answer).await
    }

    #[tokio::test]
    async fn an_armed_proxy_spoils_what_passes_and_one_at_rest_does_not() {
        let target = echo().await;
        for rates in [Rates { cut: 1, ..Rates::default() }, Rates { lost_reply: 1, ..Rates::default() }] {
            let proxy = FaultProxy::start(target, 1, rates).await;
            assert_eq!(ask(&proxy).await.unwrap(), 5);
            proxy.arm(true);
            assert!(!matches!(ask(&proxy).await, Ok(1..)), "no answer comes");
            assert_eq!(proxy.faults(), 1);
            proxy.arm(false);
            assert_eq!(ask(&proxy).await.unwrap(), 5);
        }
    }
}
