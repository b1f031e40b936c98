//! Hands behind the exec channel: the real frames, a played daemon. It keeps what the daemon's journal keeps (fences, calls by
//! id, their ends) over its restarts, and an outsider's ledger of what really ran.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use torpor_core::message::ToolResult;
use torpor_core::sandbox::{self, Forgotten, Identity, LastCall, Open, Sandbox, SandboxTransport};
use torpor_core::{CallId, Epoch, Position, SessionKey};
use torpor_exec_channel::frame::{Frame, Kind};
use torpor_exec_channel::message::{
    self as wire, About, Call, Code, Ended, Exit, Extent, Hello, Opened, PROTOCOL, Refused, from_frame, to_frame,
};
use torpor_exec_channel::wire::{Reader, Writer};
use torpor_exec_channel::{Client, Dial, Error, Options, Session, Source, Stream};

use crate::net::{Process, Sky, lock};

/// Bytes that fit into the channel at a time.
const PIPE: usize = 64 * 1024;

/// A command that was started, as the outside world saw it.
#[derive(Debug, Clone)]
pub(crate) struct Ran {
    pub(crate) session: String,
    pub(crate) position: u64,
    pub(crate) tool: String,
    pub(crate) input: Value,
}

enum Stands {
    /// Begun by this incarnation.
    Open(u64),
    Ended(Box<Ended>),
}

struct Known {
    digest: Option<String>,
    stands: Stands,
}

#[derive(Default)]
struct Kept {
    fence: Epoch,
    opened: bool,
    calls: BTreeMap<u64, Known>,
}

#[derive(Default)]
struct State {
    incarnation: u64,
    sessions: BTreeMap<String, Kept>,
    ran: Vec<Ran>,
}

/// What the daemon remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Calls by their ids, as it must.
    Calls,
    /// Nothing: whoever asks for a call starts it.
    None,
}

/// The daemon.
pub(crate) struct Hands {
    sky: Arc<Sky>,
    memory: Memory,
    state: Mutex<State>,
    /// Raised whenever anything changed.
    changed: watch::Sender<u64>,
    /// Raised when every connection breaks.
    restarted: watch::Sender<u64>,
}

/// What a brain may ask.
enum Request {
    Open(wire::Open),
    Call(Call),
    Cancel(About),
}

impl Request {
    fn read(frame: &Frame) -> Option<Self> {
        match frame.kind {
            Kind::Open => from_frame(frame).map(Self::Open).ok(),
            Kind::Call => from_frame(frame).map(Self::Call).ok(),
            Kind::Cancel => from_frame(frame).map(Self::Cancel).ok(),
            _ => None,
        }
    }

    /// The same on every replay: a frame also carries ids that are drawn anew.
    fn name(&self) -> String {
        match self {
            Self::Open(open) => format!("opens {} @{}", open.session, open.epoch),
            Self::Call(call) => format!("calls {} @{}", call.id, call.epoch),
            Self::Cancel(about) => format!("cancels {} @{}", about.id, about.epoch),
        }
    }
}

fn ended(exit: Exit, result: Option<ToolResult>) -> Box<Ended> {
    Box::new(Ended { exit, result, output: Extent::default() })
}

fn lost(why: &str) -> Box<Ended> {
    ended(Exit::Lost(why.into()), None)
}

fn aborted() -> Box<Ended> {
    ended(Exit::Cancelled, Some(ToolResult::error("Command aborted")))
}

fn refuse(code: Code, message: &str) -> Refused {
    Refused { code, message: message.into(), current: None }
}

impl State {
    /// The session, if the epoch is good; one above the fence raises it.
    fn admit(&mut self, session: &str, epoch: Epoch) -> Result<&mut Kept, Refused> {
        let kept = self.sessions.entry(session.to_owned()).or_default();
        if epoch < kept.fence {
            return Err(Refused { current: Some(kept.fence), ..refuse(Code::Fenced, "fenced") });
        }
        kept.fence = epoch;
        Ok(kept)
    }

    /// How a call stands that is known; `None` while it runs.
    fn look(&self, id: &CallId) -> Option<Option<Box<Ended>>> {
        let known = self.sessions.get(&id.session)?.calls.get(&id.position.0)?;
        Some(match &known.stands {
            Stands::Open(by) if *by == self.incarnation => None,
            Stands::Open(_) => Some(lost("the hands ended while the call was running")),
            Stands::Ended(ended) => Some(ended.clone()),
        })
    }
}

impl Hands {
    pub(crate) fn start(sky: &Arc<Sky>, memory: Memory) -> Arc<Self> {
        let raised = || watch::Sender::new(0);
        Arc::new(Self { sky: sky.clone(), memory, state: Mutex::default(), changed: raised(), restarted: raised() })
    }

    pub(crate) fn ran(&self) -> Vec<Ran> {
        lock(&self.state).ran.clone()
    }

    /// Calls that run now.
    pub(crate) fn running(&self) -> Vec<(String, u64)> {
        let state = lock(&self.state);
        let all = state.sessions.iter().flat_map(|(s, kept)| kept.calls.iter().map(move |(p, k)| (s, p, k)));
        let runs = |k: &Known| matches!(k.stands, Stands::Open(by) if by == state.incarnation);
        all.filter(|(_, _, k)| runs(k)).map(|(s, p, _)| (s.clone(), *p)).collect()
    }

    /// Killed and started again. `torn`: the newest end of a call had not reached the disk.
    pub(crate) fn restart(&self, torn: bool) {
        let mut state = lock(&self.state);
        let incarnation = state.incarnation;
        for kept in state.sessions.values_mut().filter(|_| torn) {
            if let Some(mut last) = kept.calls.last_entry()
                && matches!(last.get().stands, Stands::Ended(_))
                && last.get().digest.is_some()
            {
                last.get_mut().stands = Stands::Open(incarnation);
            }
        }
        state.incarnation += 1;
        drop(state);
        self.restarted.send_modify(|n| *n += 1);
        self.changed.send_modify(|n| *n += 1);
    }

    /// A brain's connection.
    async fn serve(self: Arc<Self>, stream: DuplexStream, process: Arc<Process>) {
        let (mut restarted, mut cut) = (self.restarted.subscribe(), process.channel_broken());
        let (read, write) = tokio::io::split(stream);
        let (mut reader, mut writer) = (Reader::new(read), Writer::new(write));
        let hands = wire::Hands {
            incarnation: lock(&self.state).incarnation.to_string(),
            level: "full".into(),
            limits: String::new(),
            pid: 1,
        };
        let hello = Hello { protocol: PROTOCOL, program: "played".into(), settings: None, hands: Some(hands) };
        let Ok(Some(_)) = reader.next().await else { return };
        if writer.push(&to_frame(Kind::Hello, 0, &hello)).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        let (out, queue) = mpsc::channel(64);
        let writing = tokio::spawn(writer.drain_queue(queue));
        loop {
            let frame = tokio::select! {
                biased;
                _ = restarted.changed() => break,
                _ = cut.changed() => break,
                frame = reader.next() => frame,
            };
            let Ok(Some(frame)) = frame else { break };
            match frame.kind {
                Kind::Ping => drop(out.send(Frame::empty(Kind::Pong, 0)).await),
                _ => {
                    if let Some(request) = Request::read(&frame) {
                        tokio::spawn(self.clone().answer(request, frame.stream, out.clone(), process.clone()));
                    }
                }
            }
        }
        writing.abort();
    }

    async fn answer(self: Arc<Self>, request: Request, stream: u32, out: mpsc::Sender<Frame>, process: Arc<Process>) {
        let name = format!("{} {}", process.name, request.name());
        let mut dice = self.sky.dice(&name, process.nth(&name));
        sleep(dice.ms(0, 15)).await;
        process.hands_in_reach().await;
        self.sky.turn(name).await;
        let answer = match &request {
            Request::Open(open) => self.open(open).map(|opened| to_frame(Kind::Opened, stream, &opened)),
            Request::Call(call) => self.call(call).await.map(|ended| to_frame(Kind::Ended, stream, &*ended)),
            Request::Cancel(about) => self.cancel(about).map(|()| to_frame(Kind::Done, stream, &())),
        };
        if self.sky.is_stormy() && dice.one_in(30) {
            self.sky.count("channels broken");
            return process.break_channel();
        }
        process.hands_in_reach().await;
        sleep(dice.ms(0, 15)).await;
        let answer = answer.unwrap_or_else(|refused| to_frame(Kind::Refused, stream, &refused));
        let _ = out.send(answer).await;
    }

    fn open(&self, open: &wire::Open) -> Result<Opened, Refused> {
        let mut state = lock(&self.state);
        let kept = state.admit(&open.session, open.epoch)?;
        kept.opened = true;
        let last = kept
            .calls
            .last_key_value()
            .map(|(position, known)| LastCall { position: Position(*position), digest: known.digest.clone() });
        Ok(Opened { workdir: "/workspace".into(), last })
    }

    async fn call(self: &Arc<Self>, call: &Call) -> Result<Box<Ended>, Refused> {
        let mut changed = self.changed.subscribe();
        if let Some(over) = self.begin(call)? {
            return Ok(over);
        }
        loop {
            match lock(&self.state).look(&call.id) {
                Some(Some(over)) => return Ok(over),
                Some(None) => {}
                None => return Ok(lost("forgotten")),
            }
            let _ = changed.changed().await;
        }
    }

    /// Starts a call that is to be started; its end, if it is over.
    fn begin(self: &Arc<Self>, call: &Call) -> Result<Option<Box<Ended>>, Refused> {
        let (session, position, digest) =
            (&call.id.session, call.id.position.0, sandbox::digest(&call.tool, &call.input));
        let mut state = lock(&self.state);
        let incarnation = state.incarnation;
        let kept = state.admit(session, call.epoch)?;
        let before = kept.calls.get(&position).map(|k| k.digest.clone());
        if before.flatten().is_some_and(|d| d != digest) {
            return Err(refuse(Code::Conflict, "another command"));
        }
        if self.memory == Memory::Calls && kept.calls.contains_key(&position) {
            return Ok(state.look(&call.id).flatten());
        }
        let has_effects = call.tool != "read";
        if call.incarnation != incarnation.to_string() && has_effects {
            return Ok(Some(lost("the hands that were asked are gone")));
        }
        if !kept.opened {
            return Err(refuse(Code::NotOpen, "not opened"));
        }
        if !has_effects {
            return Ok(Some(ended(Exit::Answered, Some(ToolResult::text("x")))));
        }
        kept.calls.insert(position, Known { digest: Some(digest), stands: Stands::Open(incarnation) });
        let ran = Ran { session: session.clone(), position, tool: call.tool.clone(), input: call.input.clone() };
        self.sky.note(format_args!("the hands run {} {}", ran.tool, ran.input));
        state.ran.push(ran);
        let (hands, id) = (self.clone(), call.id.clone());
        let mut dice = self.sky.dice(&id.session, position);
        let takes = if dice.one_in(8) { dice.ms(4_000, 12_000) } else { dice.ms(5, 2_000) };
        tokio::spawn(async move {
            sleep(takes).await;
            hands.end(&id, incarnation, &ended(Exit::Code(0), Some(ToolResult::text("done"))));
        });
        Ok(None)
    }

    /// A call that still runs ends.
    fn end(&self, id: &CallId, incarnation: u64, how: &Ended) {
        let mut state = lock(&self.state);
        let now = state.incarnation;
        let known = state.sessions.get_mut(&id.session).and_then(|kept| kept.calls.get_mut(&id.position.0));
        if let Some(known) = known.filter(|k| matches!(k.stands, Stands::Open(by) if by == incarnation && by == now)) {
            known.stands = Stands::Ended(Box::new(how.clone()));
        }
        drop(state);
        self.changed.send_modify(|n| *n += 1);
    }

    fn cancel(&self, about: &About) -> Result<(), Refused> {
        let mut state = lock(&self.state);
        let incarnation = state.incarnation;
        let kept = state.admit(&about.id.session, about.epoch)?;
        let never = || Known { digest: None, stands: Stands::Ended(aborted()) };
        kept.calls.entry(about.id.position.0).or_insert_with(never);
        drop(state);
        self.end(&about.id, incarnation, &aborted());
        Ok(())
    }
}

/// How a process reaches the hands.
struct Line {
    hands: Arc<Hands>,
    process: Arc<Process>,
}

#[async_trait]
impl Dial for Line {
    async fn dial(&self) -> Result<Box<dyn Stream>, Error> {
        self.process.awake().await;
        if *self.process.hands_cut.borrow() {
            return Err(Error::Unreachable("cut off".into()));
        }
        let (ours, theirs) = tokio::io::duplex(PIPE);
        tokio::spawn(self.hands.clone().serve(theirs, self.process.clone()));
        Ok(Box::new(ours))
    }
}

/// The sandbox as a process uses it: the real client, and nothing reaches a process that sleeps.
pub(crate) struct Reach {
    client: Source,
    process: Arc<Process>,
}

impl Reach {
    pub(crate) fn new(hands: &Arc<Hands>, process: &Arc<Process>) -> Arc<Self> {
        let line = Line { hands: hands.clone(), process: process.clone() };
        let patience = std::time::Duration::from_secs(15);
        let options = Options { program: "sim".into(), name: "played".into(), patience, settings: None };
        Arc::new(Self { client: Client::new(line, options), process: process.clone() })
    }
}

#[async_trait]
impl SandboxTransport for Reach {
    fn workdir(&self, _: &SessionKey, _: Option<&str>) -> Result<String, sandbox::Error> {
        Ok("/workspace".into())
    }

    async fn open(&self, open: Open) -> Result<Arc<dyn Sandbox>, sandbox::Error> {
        self.process.awake().await;
        let open = wire::Open { session: open.session.digest(), epoch: open.epoch, born: open.born, workspace: None };
        let session = self.client.open(open).await;
        self.process.awake().await;
        Ok(Arc::new(Held { session: session?, process: self.process.clone() }))
    }

    async fn forget(&self, _: &SessionKey, _: Epoch) -> Result<Forgotten, sandbox::Error> {
        Ok(Forgotten::default())
    }

    async fn probe(&self) -> Result<String, sandbox::Error> {
        Ok("played hands".into())
    }
}

struct Held {
    session: Session,
    process: Arc<Process>,
}

#[async_trait]
impl Sandbox for Held {
    fn identity(&self) -> &Identity {
        Session::identity(&self.session)
    }

    fn last_call(&self) -> Option<&LastCall> {
        Session::last_call(&self.session)
    }

    async fn call(&self, call: sandbox::Call) -> Result<sandbox::Ended, sandbox::Error> {
        self.process.awake().await;
        let ended = Sandbox::call(&self.session, call).await;
        self.process.awake().await;
        ended
    }

    async fn cancel(&self, id: &CallId) -> Result<(), sandbox::Error> {
        self.process.awake().await;
        let done = Sandbox::cancel(&self.session, id).await;
        self.process.awake().await;
        done
    }
}
