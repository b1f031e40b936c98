//! Pieces of answers on their way from the process where a run works to those where somebody follows it.
//!
//! Owns: who follows what, as far as it was published, and what goes to whom. Must not know: what a piece says.
//!
//! Every process listens to two channels: `<prefix>:live`, on which processes say which runs they follow, and one of its own,
//! to which the others publish pieces of these. So what nobody follows costs nothing, and no channel comes and goes with a run.
//! Nothing is stored; all of it may be lost.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use redis::{Cmd, ErrorKind, RedisError};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use torpor_core::live::{Piece, Relay};
use torpor_core::model::Delta;
use torpor_core::{Position, RunId};

use crate::Store;
use crate::link::{Conn, Link};

/// How often what is followed is said again, and how long it is believed: whoever missed it once hears the next.
const SAY_AGAIN: Duration = Duration::from_secs(5);
const BELIEVED: Duration = Duration::from_secs(15);
/// Runs in one message, and runs of others that are remembered at once; more are not carried.
const MAX_SAID: usize = 256;
const MAX_WANTED: usize = 65_536;
/// Pieces that wait to be sent or to be shown; more are dropped.
const QUEUE: usize = 4_096;
/// Pieces are gathered for so long, so that a model that speaks in single words costs a few messages a second.
const GATHER: Duration = Duration::from_millis(20);
/// Bytes of text from which nothing more is added to a piece, or to a message.
const MAX_PIECE: usize = 16 * 1024;
const MAX_MESSAGE: usize = 256 * 1024;
/// Wait before the next attempt after a failure, and so long one message may take to be taken.
const AGAIN: Duration = Duration::from_millis(500);
const TAKEN: Duration = Duration::from_secs(2);
/// So long nothing may come before the server is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(10);

/// What is carried for one process. Dropping it closes its connections.
#[derive(Debug)]
pub(crate) struct Live {
    shared: Arc<Shared>,
    arrived: tokio::sync::Mutex<mpsc::Receiver<(RunId, Piece)>>,
    tasks: [JoinHandle<()>; 3],
}

#[derive(Debug)]
struct Shared {
    link: Arc<Link>,
    /// On which processes say what they follow.
    everybody: String,
    /// This process.
    node: String,
    here: Mutex<Here>,
    /// There is something new to say.
    news: Notify,
    /// Who follows what elsewhere, and until when that is believed.
    elsewhere: Mutex<HashMap<RunId, HashMap<String, Instant>>>,
    to_send: mpsc::Sender<(RunId, Piece)>,
    to_show: mpsc::Sender<(RunId, Piece)>,
}

/// What is followed here.
#[derive(Debug, Default)]
struct Here {
    followed: HashSet<RunId>,
    /// Not said yet.
    fresh: Vec<RunId>,
    /// Somebody asked for all of it.
    asked: bool,
}

/// What a process says to all.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    node: String,
    /// Runs that it follows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    follows: Vec<RunId>,
    /// It has just come, and has not heard what the others follow.
    #[serde(default)]
    asks: bool,
}

/// A piece on its way.
#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    run: RunId,
    request: Position,
    attempt: u32,
    #[serde(default)]
    thinking: bool,
    text: String,
}

impl Wire {
    fn of(run: RunId, piece: Piece) -> Self {
        let Piece { request, attempt, delta } = piece;
        let (thinking, text) = match delta {
            Delta::Text(text) => (false, text),
            Delta::Thinking(text) => (true, text),
        };
        Self { run, request, attempt, thinking, text }
    }

    fn piece(self) -> (RunId, Piece) {
        let delta = if self.thinking { Delta::Thinking(self.text) } else { Delta::Text(self.text) };
        (self.run, Piece { request: self.request, attempt: self.attempt, delta })
    }

    /// Whether `next` goes on with what this says.
    fn goes_on(&self, next: &Self) -> bool {
        let of = |wire: &Self| (wire.run.clone(), wire.request, wire.attempt, wire.thinking);
        of(self) == of(next) && self.text.len() < MAX_PIECE
    }
}

impl Store {
    /// What carries pieces of answers between the processes that use this store; one for each process. It has connections of
    /// its own, so that nothing else waits for it.
    #[must_use]
    pub fn relay(&self) -> Arc<dyn Relay> {
        Arc::new(Live::start(&self.link, &self.options.prefix))
    }
}

impl Live {
    fn start(link: &Arc<Link>, prefix: &str) -> Self {
        let (to_send, sent) = mpsc::channel(QUEUE);
        let (to_show, arrived) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            link: Arc::clone(link),
            everybody: format!("{prefix}:live"),
            node: uuid::Uuid::new_v4().simple().to_string(),
            here: Mutex::default(),
            news: Notify::new(),
            elsewhere: Mutex::default(),
            to_send,
            to_show,
        });
        let tasks = [
            tokio::spawn(say(Arc::clone(&shared))),
            tokio::spawn(send(Arc::clone(&shared), sent)),
            tokio::spawn(listen(Arc::clone(&shared))),
        ];
        Self { shared, arrived: tokio::sync::Mutex::new(arrived), tasks }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[async_trait]
impl Relay for Live {
    fn follow(&self, run: &RunId, yes: bool) {
        let mut here = lock(&self.shared.here);
        if !yes {
            here.followed.remove(run);
        } else if here.followed.insert(run.clone()) {
            here.fresh.push(run.clone());
            drop(here);
            self.shared.news.notify_one();
        }
    }

    fn offer(&self, run: &RunId, piece: &Piece) {
        if lock(&self.shared.elsewhere).contains_key(run) {
            let _ = self.shared.to_send.try_send((run.clone(), piece.clone())); // full: dropped
        }
    }

    async fn arrived(&self) -> (RunId, Piece) {
        match self.arrived.lock().await.recv().await {
            Some(arrived) => arrived,
            None => std::future::pending().await, // the sender lives as long as this
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn own(&self) -> String {
        self.channel_of(&self.node)
    }

    fn channel_of(&self, node: &str) -> String {
        format!("{}:{node}", self.everybody)
    }

    /// What has not been said yet; with `all`, or if somebody asked, everything.
    fn to_say(&self, all: bool) -> Vec<RunId> {
        let mut here = lock(&self.here);
        let fresh = std::mem::take(&mut here.fresh);
        if all || std::mem::take(&mut here.asked) {
            return here.followed.iter().cloned().collect();
        }
        fresh.into_iter().filter(|run| here.followed.contains(run)).collect()
    }

    /// Hears what another process says.
    fn hear(&self, said: Said) {
        if said.node == self.node {
            return;
        }
        if said.asks {
            lock(&self.here).asked = true;
            self.news.notify_one();
        }
        if said.follows.is_empty() {
            return;
        }
        let (now, mut elsewhere) = (Instant::now(), lock(&self.elsewhere));
        elsewhere.retain(|_, nodes| {
            nodes.retain(|_, until| *until > now);
            !nodes.is_empty()
        });
        for run in said.follows {
            if elsewhere.len() < MAX_WANTED || elsewhere.contains_key(&run) {
                elsewhere.entry(run).or_default().insert(said.node.clone(), now + BELIEVED);
            }
        }
    }

    /// The processes that follow this run.
    fn followers(&self, run: &RunId) -> Vec<String> {
        let (now, elsewhere) = (Instant::now(), lock(&self.elsewhere));
        let nodes = elsewhere.get(run).into_iter().flatten();
        nodes.filter(|(_, until)| **until > now).map(|(node, _)| node.clone()).collect()
    }

    /// Publishes on a connection that is made when it is needed. What cannot be is lost.
    async fn publish(&self, conn: &mut Option<Conn>, channel: &str, message: &impl Serialize) {
        let Ok(message) = serde_json::to_vec(message) else { return }; // strings and numbers always serialise
        let published = async {
            if conn.is_none() {
                *conn = Some(self.link.connect(Some(TAKEN)).await?);
            }
            let mut publish = Cmd::new();
            publish.arg("PUBLISH").arg(channel).arg(message);
            match conn {
                Some(conn) => conn.send(&publish).await.map(|_| ()),
                None => Ok(()),
            }
        };
        if let Err(e) = published.await {
            tracing::debug!(error = %e, "what was to be shown elsewhere is lost");
            *conn = None;
            sleep(AGAIN).await;
        }
    }
}

/// Says which runs are followed here: those that are new at once, all of them from time to time.
async fn say(shared: Arc<Shared>) {
    let (mut conn, mut all_at) = (None, Instant::now());
    loop {
        let all = Instant::now() >= all_at;
        if all {
            all_at = Instant::now() + SAY_AGAIN;
        }
        for some in shared.to_say(all).chunks(MAX_SAID) {
            let said = Said { node: shared.node.clone(), follows: some.to_vec(), asks: false };
            shared.publish(&mut conn, &shared.everybody, &said).await;
        }
        tokio::select! {
            () = shared.news.notified() => {}
            () = tokio::time::sleep_until(all_at) => {}
        }
    }
}

/// Sends pieces to those who follow their runs, a few times a second.
async fn send(shared: Arc<Shared>, mut sent: mpsc::Receiver<(RunId, Piece)>) {
    let mut conn = None;
    while let Some((run, piece)) = sent.recv().await {
        sleep(GATHER).await;
        let mut gathered = vec![Wire::of(run, piece)];
        while let Ok((run, piece)) = sent.try_recv() {
            let next = Wire::of(run, piece);
            // Of the same answer; answers of other runs may have come between.
            match gathered.iter_mut().rev().find(|wire| wire.run == next.run) {
                Some(last) if last.goes_on(&next) => last.text.push_str(&next.text),
                _ => gathered.push(next),
            }
        }
        for (node, wires) in by_node(&gathered, |run| shared.followers(run)) {
            for message in messages(&wires) {
                shared.publish(&mut conn, &shared.channel_of(&node), &message).await;
            }
        }
    }
}

fn by_node(wires: &[Wire], followers: impl Fn(&RunId) -> Vec<String>) -> HashMap<String, Vec<&Wire>> {
    let mut all: HashMap<String, Vec<&Wire>> = HashMap::new();
    for wire in wires {
        for node in followers(&wire.run) {
            all.entry(node).or_default().push(wire);
        }
    }
    all
}

/// Pieces in messages of a bounded size. One that is larger by itself has a message of its own.
fn messages<'a, 'b>(wires: &'b [&'a Wire]) -> Vec<&'b [&'a Wire]> {
    let (mut all, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (at, wire) in wires.iter().enumerate() {
        if at > begin && bytes + wire.text.len() > MAX_MESSAGE {
            all.push(&wires[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += wire.text.len();
    }
    if begin < wires.len() {
        all.push(&wires[begin..]);
    }
    all
}

/// Hears what others follow, and what is sent to this process.
async fn listen(shared: Arc<Shared>) {
    let mut conn = None;
    loop {
        if let Err(e) = hear(&shared, &mut conn).await {
            tracing::debug!(error = %e, "the connection for pieces of answers broke");
        }
        sleep(AGAIN).await;
    }
}

async fn hear(shared: &Shared, conn: &mut Option<Conn>) -> Result<(), RedisError> {
    let (mut sink, mut stream) = shared.link.listen().await?.split();
    let own = shared.own();
    in_time(sink.subscribe(&[&shared.everybody, &own])).await?;
    shared.publish(conn, &shared.everybody, &Said { node: shared.node.clone(), follows: Vec::new(), asks: true }).await;
    loop {
        tokio::select! {
            message = stream.next() => {
                let Some(message) = message else { return Ok(()) };
                let payload = message.get_payload_bytes();
                // What cannot be read is of another version: its pieces are not needed.
                if message.get_channel_name() == own {
                    let wires: Vec<Wire> = serde_json::from_slice(payload).unwrap_or_default();
                    for wire in wires {
                        let _ = shared.to_show.try_send(wire.piece()); // full: dropped
                    }
                } else if let Ok(said) = serde_json::from_slice(payload) {
                    shared.hear(said);
                }
            }
            () = sleep(SILENCE) => in_time(sink.ping()).await?,
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    let late = || RedisError::from((ErrorKind::Io, "the server did not answer in time"));
    timeout(TAKEN, answer).await.map_err(|_| late())?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn wire(run: &RunId, text: &str) -> Wire {
        let piece = Piece { request: Position(3), attempt: 1, delta: Delta::Text(text.into()) };
        Wire::of(run.clone(), piece)
    }

    #[test]
    fn a_message_is_bounded_and_loses_nothing() {
        let run = RunId::generate();
        let big = "x".repeat(MAX_MESSAGE / 2);
        let wires: Vec<Wire> =
            [&big, "a", &big, &big, "b", &"y".repeat(MAX_MESSAGE * 2)].map(|text| wire(&run, text)).into();
        let all: Vec<&Wire> = wires.iter().collect();
        let split: Vec<usize> = messages(&all).iter().map(|m| m.len()).collect();
        assert_eq!(split, [2, 2, 1, 1]);
        assert!(messages(&[]).is_empty());
    }

    #[test]
    fn each_process_gets_what_it_follows() {
        let (a, b) = (RunId::generate(), RunId::generate());
        let wires = [wire(&a, "1"), wire(&b, "2"), wire(&a, "3")];
        let sent = by_node(&wires, |run| if *run == a { vec!["x".into(), "y".into()] } else { vec!["y".into()] });
        let texts = |node: &str| sent[node].iter().map(|w| w.text.as_str()).collect::<String>();
        assert_eq!((texts("x"), texts("y")), ("13".to_owned(), "123".to_owned()));
    }
}
