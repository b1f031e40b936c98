//! The client against hands that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::io::DuplexStream;
use torpor_core::sandbox;
use torpor_core::{CallId, Epoch, Position};
use torpor_exec_channel::frame::{Frame, Kind, MAX_PAYLOAD};
use torpor_exec_channel::message::{
    Code, Ended, Exit, Extent, Hands, Hello, Open, Opened, PROTOCOL, Refused, to_frame,
};
use torpor_exec_channel::wire::{Reader, Writer};
use torpor_exec_channel::{Chunk, Client, Dial, Error, Options, Source, Stream};

/// Gives each dial the next stream; then there are no more.
struct Streams(Mutex<Vec<DuplexStream>>);

#[async_trait]
impl Dial for Streams {
    async fn dial(&self) -> Result<Box<dyn Stream>, Error> {
        match self.0.lock().unwrap().pop() {
            Some(stream) => Ok(Box::new(stream)),
            None => Err(Error::Unreachable("nobody there".into())),
        }
    }
}

/// The other end of a dial.
struct Peer(Reader<tokio::io::ReadHalf<DuplexStream>>, Writer<tokio::io::WriteHalf<DuplexStream>>);

impl Peer {
    async fn next(&mut self) -> Frame {
        self.0.next().await.unwrap().unwrap()
    }

    async fn send(&mut self, frame: Frame) {
        self.1.push(&frame).await.unwrap();
        self.1.flush().await.unwrap();
    }

    async fn greet(&mut self) {
        assert_eq!(self.next().await.kind, Kind::Hello);
        let hands = Some(Hands { incarnation: "i".into(), level: "full".into(), limits: String::new(), pid: 1 });
        let hello = Hello { protocol: PROTOCOL, program: "peer".into(), settings: None, hands };
        self.send(to_frame(Kind::Hello, 0, &hello)).await;
    }

    async fn answer_open(&mut self) {
        let open = self.next().await;
        assert_eq!(open.kind, Kind::Open);
        self.send(to_frame(Kind::Opened, open.stream, &Opened { workdir: "/w".into(), last: None })).await;
    }
}

/// A client and the ends of the streams it will dial, in order.
fn pair(dials: usize) -> (Source, Vec<Peer>) {
    patient(dials, Duration::from_millis(100))
}

/// The same, with a client of this patience.
fn patient(dials: usize, patience: Duration) -> (Source, Vec<Peer>) {
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..dials).map(|_| tokio::io::duplex(1 << 16)).unzip();
    let peers = theirs.into_iter().map(tokio::io::split).map(|(r, w)| Peer(Reader::new(r), Writer::new(w)));
    let options = Options { program: "test".into(), name: "test".into(), patience, settings: None };
    (Client::new(Streams(Mutex::new(ours.into_iter().rev().collect())), options), peers.collect())
}

fn open() -> Open {
    Open { session: "0".repeat(32), epoch: Epoch(1), born: Epoch(0), workspace: None }
}

fn call() -> (CallId, &'static str, serde_json::Value) {
    (CallId { session: "0".repeat(32), position: Position(1) }, "bash", json!({ "command": "x" }))
}

fn output(stream: u32, offset: u64, data: &[u8]) -> Frame {
    let payload = [&offset.to_be_bytes()[..], data].concat().into();
    Frame { kind: Kind::Stdout, stream, payload }
}

fn ended(stream: u32) -> Frame {
    let ended = Ended { exit: Exit::Code(0), result: None, output: Extent::default() };
    to_frame(Kind::Ended, stream, &ended)
}

#[tokio::test]
async fn another_protocol_is_refused_by_name_on_either_side() {
    let (client, mut peers) = pair(2);
    let (mut says_so, mut refuses) = (peers.remove(0), peers.remove(0));
    let (first, ()) = tokio::join!(client.hands(), async {
        says_so.next().await;
        let hello = Hello { protocol: 99, program: "other 9.9".into(), settings: None, hands: None };
        says_so.send(to_frame(Kind::Hello, 0, &hello)).await;
    });
    assert_eq!(first.unwrap_err().to_string(), "other 9.9 speaks exec channel 99, this side speaks 2");
    let (second, ()) = tokio::join!(client.hands(), async {
        refuses.next().await;
        let refused = Refused { code: Code::Version, message: "too old".into(), current: None };
        refuses.send(to_frame(Kind::Refused, 0, &refused)).await;
    });
    assert!(matches!(second, Err(Error::Version(why)) if why == "too old"));
}

#[tokio::test]
async fn a_broken_stream_is_resumed_at_the_next_byte() {
    let (client, mut peers) = pair(2);
    let (mut first, mut second) = (peers.remove(0), peers.remove(0));
    let hands = async {
        first.greet().await;
        first.answer_open().await;
        let asked = first.next().await;
        first.send(output(asked.stream, 0, b"abc")).await;
        drop(first);
        second.greet().await;
        let again = second.next().await;
        assert_eq!((again.kind, asked.kind), (Kind::Call, Kind::Call));
        let from =
            |f: &Frame| serde_json::from_slice::<serde_json::Value>(&f.payload).unwrap()["watch"]["from"].clone();
        assert_eq!((from(&asked), from(&again)), (json!(0), json!(3)));
        second.send(output(again.stream, 3, b"def")).await;
        second.send(ended(again.stream)).await;
        second
    };
    let brain = async {
        let session = client.open(open()).await.unwrap();
        let (id, tool, input) = call();
        let mut exec = session.exec_stream(id, tool, input, 0).await.unwrap();
        let mut got = Vec::new();
        while let Chunk::Stdout { data, .. } = exec.next().await.unwrap() {
            got.extend_from_slice(&data);
        }
        assert_eq!(got, b"abcdef");
    };
    tokio::join!(hands, brain);
}

#[tokio::test]
async fn hands_that_send_more_than_was_granted_are_hung_up_on() {
    let (client, mut peers) = pair(1);
    let mut peer = peers.remove(0);
    let hands = async {
        peer.greet().await;
        peer.answer_open().await;
        let asked = peer.next().await;
        let data = vec![0; 128 * 1024];
        for i in 0..9u64 {
            let _ = peer.1.push(&output(asked.stream, i * data.len() as u64, &data)).await;
        }
        let _ = peer.1.flush().await;
        peer
    };
    let brain = async {
        let session = client.open(open()).await.unwrap();
        let (id, tool, input) = call();
        let mut exec = session.exec_stream(id, tool, input, 0).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await; // reads nothing: no credit is given
        loop {
            match exec.next().await {
                Ok(_) => {}
                Err(e) => break assert!(matches!(e, Error::Unreachable(_)), "{e}"),
            }
        }
    };
    tokio::join!(hands, brain);
}

#[tokio::test(start_paused = true)]
async fn silent_hands_are_asked_and_then_given_up() {
    let (client, mut peers) = pair(1);
    let mut peer = peers.remove(0);
    let hands = async {
        peer.greet().await;
        peer.answer_open().await;
        assert_eq!(peer.next().await.kind, Kind::Call);
        assert_eq!(peer.next().await.kind, Kind::Ping);
        peer.send(Frame::empty(Kind::Pong, 0)).await;
        assert_eq!(peer.next().await.kind, Kind::Ping);
        peer // says nothing more
    };
    let brain = async {
        let session = client.open(open()).await.unwrap();
        let (id, tool, input) = call();
        session.call(id, "i".into(), tool.into(), input).await
    };
    let (_peer, result) = tokio::join!(hands, brain);
    assert!(matches!(result, Err(Error::Unreachable(_))), "{result:?}");
}

/// Takes its time for every attempt, counts them, and reaches nobody.
struct Nobody(Arc<AtomicU32>);

#[async_trait]
impl Dial for Nobody {
    async fn dial(&self) -> Result<Box<dyn Stream>, Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        Err(Error::Unreachable("nobody there".into()))
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_one_attempt_and_its_failure() {
    let patience = Duration::from_secs(15);
    let options = Options { program: "test".into(), name: "test".into(), patience, settings: None };
    let dials = Arc::new(AtomicU32::new(0));
    let client = Client::new(Nobody(dials.clone()), options);
    let begun = tokio::time::Instant::now();
    let wait = || {
        let client = client.clone();
        tokio::spawn(async move { client.hands().await })
    };
    let (gives_up, waiting) = (wait(), [wait(), wait(), wait(), wait()]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    gives_up.abort(); // it came first: the others' attempt must not end with it
    for waiter in waiting {
        assert!(matches!(waiter.await.unwrap(), Err(Error::Unreachable(_))));
        assert!(begun.elapsed() <= patience + Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    let together = dials.load(Ordering::Relaxed);
    assert!(together <= 15, "{together} dials, one after the other, took {patience:?}");
    // Who comes after the failure is not told the old one.
    assert!(wait().await.unwrap().is_err());
    assert!(dials.load(Ordering::Relaxed) > together);
    // And nobody goes on trying for a client that is gone.
    let last = wait();
    tokio::time::sleep(Duration::from_secs(2)).await;
    last.abort();
    drop(client);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = dials.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(dials.load(Ordering::Relaxed), after);
}

fn refused(stream: u32, code: Code) -> Frame {
    to_frame(Kind::Refused, stream, &Refused { code, message: format!("{code:?}"), current: None })
}

#[tokio::test(start_paused = true)]
async fn hands_that_are_in_use_are_named_soon_as_busy() {
    let (client, peers) = patient(20, Duration::from_secs(15));
    let begun = tokio::time::Instant::now();
    let hands = async {
        let mut kept = Vec::new();
        for mut peer in peers {
            if peer.0.next().await.ok().flatten().is_some() {
                peer.send(refused(0, Code::Busy)).await;
            }
            kept.push(peer);
        }
        kept
    };
    let brain = async {
        let opened = client.open(open()).await.unwrap_err();
        assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(matches!(&opened, Error::Busy(why) if why == "Busy"), "{opened:?}");
        assert!(matches!(sandbox::Error::from(opened), sandbox::Error::Busy(_)));
    };
    tokio::select! { _ = hands => panic!("all dials were used up"), () = brain => {} }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_repeated_while_the_hands_are_busy_within_bounds() {
    let patience = Duration::from_secs(15);
    let (client, mut peers) = patient(1, patience);
    let mut peer = peers.remove(0);
    let asked = AtomicU32::new(0);
    let hands = async {
        peer.greet().await;
        peer.answer_open().await;
        loop {
            let frame = peer.next().await;
            match asked.fetch_add(1, Ordering::Relaxed) {
                2 => peer.send(ended(frame.stream)).await,
                _ => peer.send(refused(frame.stream, Code::Busy)).await,
            }
        }
    };
    let brain = async {
        let session = client.open(open()).await.unwrap();
        let (id, tool, input) = call();
        let first = session.call(id.clone(), "i".into(), tool.into(), input.clone()).await;
        assert_eq!((first.unwrap().exit, asked.load(Ordering::Relaxed)), (Exit::Code(0), 3));
        let begun = tokio::time::Instant::now();
        let second = session.call(id, "i".into(), tool.into(), input).await;
        assert!(matches!(second, Err(Error::Busy(_))), "{second:?}");
        assert!(begun.elapsed() <= patience && begun.elapsed() > patience / 2, "{:?}", begun.elapsed());
    };
    tokio::select! { () = hands => {}, () = brain => {} }
}

#[tokio::test]
async fn hands_that_forgot_the_session_are_told_of_it_once() {
    let (client, mut peers) = pair(1);
    let mut peer = peers.remove(0);
    let hands = async {
        peer.greet().await;
        peer.answer_open().await;
        let first = peer.next().await;
        peer.send(refused(first.stream, Code::NotOpen)).await;
        peer.answer_open().await;
        let again = peer.next().await;
        assert_eq!((again.kind, &again.payload), (Kind::Call, &first.payload));
        peer.send(ended(again.stream)).await;
        // Once: hands that forget it again are not to be trusted with it.
        let second = peer.next().await;
        peer.send(refused(second.stream, Code::NotOpen)).await;
        peer.answer_open().await;
        let again = peer.next().await;
        peer.send(refused(again.stream, Code::NotOpen)).await;
        peer
    };
    let brain = async {
        let session = client.open(open()).await.unwrap();
        let (id, tool, input) = call();
        let first = session.call(id.clone(), "i".into(), tool.into(), input.clone()).await;
        assert_eq!(first.unwrap().exit, Exit::Code(0));
        session.call(id, "i".into(), tool.into(), input).await
    };
    let (_peer, second) = tokio::join!(hands, brain);
    assert!(matches!(second, Err(Error::Refused(r)) if r.code == Code::NotOpen));
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_and_harms_nobody_else() {
    let (client, mut peers) = pair(1);
    let mut peer = peers.remove(0);
    let hands = async {
        peer.greet().await;
        peer.answer_open().await;
        let asked = peer.next().await;
        peer.send(ended(asked.stream)).await;
        peer
    };
    let brain = async {
        let session = client.open(open()).await.unwrap();
        let (id, tool, input) = call();
        let large = json!({ "command": "x".repeat(MAX_PAYLOAD) });
        let refused = session.call(id.clone(), "i".into(), tool.into(), large).await.unwrap_err();
        assert!(matches!(sandbox::Error::from(refused), sandbox::Error::Refused(why) if why.contains("carries")));
        assert_eq!(session.call(id, "i".into(), tool.into(), input).await.unwrap().exit, Exit::Code(0));
    };
    tokio::join!(hands, brain);
}
