//! In-memory stand-ins for the model, the hands and the keys, for tests of what runs on top of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Notify;
use torpor_core::id::{CallId, Epoch, SessionKey};
use torpor_core::message::{Assistant, Block, Content, StopReason, ToolResult, Usage};
use torpor_core::model::{self, Delta, Message, ModelClient, Prepared, Request};
use torpor_core::sandbox::{self, Call, Ended, Forgotten, Identity, LastCall, Open, Sandbox, SandboxTransport};

mod keys;
mod schedules;

pub use keys::FakeKeys;
pub use schedules::FakeSchedules;

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer that calls tools: (name, arguments) each, with ids `u0`, `u1`, ….
#[must_use]
pub fn calls(uses: &[(&str, Value)]) -> Assistant {
    let block = |(i, (name, input)): (usize, &(&str, Value))| Block::ToolUse {
        id: format!("u{i}"),
        name: (*name).into(),
        input: input.clone(),
    };
    answer(uses.iter().enumerate().map(block).collect(), StopReason::ToolUse)
}

/// An answer that only says something.
#[must_use]
pub fn says(text: &str) -> Assistant {
    answer(vec![Block::Text { text: text.into() }], StopReason::EndTurn)
}

fn answer(blocks: Vec<Block>, stop: StopReason) -> Assistant {
    Assistant { blocks, stop, usage: Usage { input: 10, output: 5, ..Usage::default() } }
}

/// A step of a [`FakeModel`].
pub type Said = Result<Assistant, model::Error>;

/// A model that follows a list: the answer depends only on how many answers the conversation holds since the last
/// user message. Requests are recorded.
#[derive(Default)]
pub struct FakeModel {
    steps: Vec<Said>,
    /// Whether answers carry their number, so that a summary can carry it on.
    numbered: bool,
    /// Errors to answer with first, one per request.
    stumbles: Mutex<Vec<model::Error>>,
    stumble_at: Mutex<Option<(usize, model::Error)>>,
    seen: Mutex<Vec<Vec<Message>>>,
    /// Input tokens that fit; 0 stands for no limit.
    room: AtomicU64,
}

impl FakeModel {
    /// A model with these answers; past the end it says "done".
    #[must_use]
    pub fn new(steps: Vec<Said>) -> Arc<Self> {
        Arc::new(Self { steps, ..Self::default() })
    }

    /// As [`FakeModel::new`], for conversations that are summarised on the way: each answer carries its number, a
    /// summary carries the highest on, and the next answer is the one after it.
    #[must_use]
    pub fn numbered(steps: Vec<Said>) -> Arc<Self> {
        let number = |(n, mut said): (usize, Said)| {
            if let Ok(answer) = &mut said {
                answer.blocks.insert(0, Block::Text { text: format!("[{n}]") });
            }
            said
        };
        let steps = steps.into_iter().enumerate().map(number).collect();
        Arc::new(Self { steps, numbered: true, ..Self::default() })
    }

    fn step(&self, messages: &[Message]) -> usize {
        if self.numbered {
            let text = format!("{messages:?}");
            let numbers = text.split('[').filter_map(|s| s.split(']').next()?.parse::<usize>().ok());
            return numbers.max().map_or(0, |n| n + 1);
        }
        let since_user = messages.iter().rev().take_while(|m| !matches!(m, Message::User(_)));
        since_user.filter(|m| matches!(m, Message::Assistant(_))).count()
    }

    /// Answers the next requests with these errors.
    pub fn stumble(&self, errors: Vec<model::Error>) {
        lock(&self.stumbles).extend(errors);
    }

    /// Answers one request after `answers` answers of this turn with an error.
    pub fn stumble_at(&self, answers: usize, error: model::Error) {
        *lock(&self.stumble_at) = Some((answers, error));
    }

    /// From now on only so many input tokens fit.
    pub fn set_room(&self, tokens: u64) {
        self.room.store(tokens, Ordering::SeqCst);
    }

    /// The conversations that were prepared, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Vec<Message>> {
        lock(&self.seen).clone()
    }
}

#[async_trait]
impl ModelClient for FakeModel {
    fn prepare(&self, request: &Request<'_>) -> Result<Prepared, model::Error> {
        lock(&self.seen).push(request.messages.to_vec());
        let step = self.step(request.messages);
        let summary = matches!(request.messages.last(), Some(Message::User(t)) if t.contains("Write a summary"));
        let body = Bytes::from(json!({"step": step, "summary": summary}).to_string());
        let length: usize = request.messages.iter().map(|m| format!("{m:?}").len()).sum();
        let room = match self.room.load(Ordering::SeqCst) {
            0 => u64::MAX,
            room => room,
        };
        let fingerprint = format!("step-{step}");
        Ok(Prepared { model: request.model.clone(), fingerprint, body, estimate: length as u64 / 4, room, trace: None })
    }

    async fn send(&self, prepared: &Prepared, _deltas: &mut (dyn FnMut(Delta) + Send)) -> Said {
        if let Some(e) = lock(&self.stumbles).pop() {
            return Err(e);
        }
        let body: Value = serde_json::from_slice(&prepared.body).unwrap_or_default();
        if body["summary"] == json!(true) {
            return Ok(says(&format!("[{}]", body["step"].as_u64().unwrap_or(0).saturating_sub(1))));
        }
        let due = lock(&self.stumble_at).take_if(|(at, _)| body["step"] == *at);
        if let Some((_, e)) = due {
            return Err(e);
        }
        let step = body["step"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        self.steps.get(step).cloned().unwrap_or_else(|| Ok(says("done")))
    }
}

/// Hands in memory that keep their promise: a call id runs once, whoever asks. What ran is recorded.
pub struct FakeHands {
    state: Mutex<State>,
    /// Told whenever a call was cancelled or the hands were lost.
    changed: Notify,
}

#[derive(Default)]
struct State {
    incarnation: u64,
    fences: HashMap<String, Epoch>,
    /// Calls that were started.
    calls: HashMap<CallId, Known>,
    ran: Vec<(String, Value)>,
    cancelled: Vec<CallId>,
    absent: Option<String>,
    busy: bool,
}

/// A call that was started.
struct Known {
    digest: String,
    result: Option<ToolResult>,
}

impl State {
    fn last_call(&self, session: &str) -> Option<LastCall> {
        let known = self.calls.iter().filter(|(id, _)| id.session == session).max_by_key(|(id, _)| id.position)?;
        Some(LastCall { position: known.0.position, digest: Some(known.1.digest.clone()) })
    }
}

impl FakeHands {
    /// Hands that have just started.
    #[must_use]
    pub fn start() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Notify::new() })
    }

    /// The tool calls that really ran, in order: name and arguments.
    #[must_use]
    pub fn ran(&self) -> Vec<(String, Value)> {
        lock(&self.state).ran.clone()
    }

    /// The calls that were cancelled.
    #[must_use]
    pub fn cancelled(&self) -> Vec<CallId> {
        lock(&self.state).cancelled.clone()
    }

    /// As if the hands had been killed and started again: another incarnation that knows nothing.
    pub fn lose(&self) {
        let mut s = lock(&self.state);
        s.incarnation += 1;
        s.calls.clear();
        drop(s);
        self.changed.notify_waiters();
    }

    /// No sandbox can be had from now on.
    pub fn vanish(&self, why: &str) {
        lock(&self.state).absent = Some(why.into());
    }

    /// From now on they are taken (`true`) or free.
    pub fn set_busy(&self, busy: bool) {
        lock(&self.state).busy = busy;
    }

    fn identity(&self) -> Identity {
        Identity { name: "fake".into(), incarnation: lock(&self.state).incarnation.to_string() }
    }
}

/// The transport over shared [`FakeHands`].
pub struct FakeSandbox(pub Arc<FakeHands>);

#[async_trait]
impl SandboxTransport for FakeSandbox {
    fn workdir(&self, _session: &SessionKey, workspace: Option<&str>) -> Result<String, sandbox::Error> {
        Ok(workspace.unwrap_or("/workspace").to_owned())
    }

    async fn open(&self, open: Open) -> Result<Arc<dyn Sandbox>, sandbox::Error> {
        let mut s = lock(&self.0.state);
        if let Some(why) = &s.absent {
            return Err(sandbox::Error::None(why.clone()));
        }
        if s.busy {
            return Err(sandbox::Error::Busy("all hands are taken".into()));
        }
        let session = open.session.digest();
        let fence = s.fences.entry(session.clone()).or_default();
        if open.epoch < *fence {
            return Err(sandbox::Error::Fenced { mine: open.epoch, current: *fence });
        }
        let is_of_before = *fence < open.born;
        *fence = open.epoch;
        if is_of_before {
            s.calls.retain(|id, _| id.session != session);
            self.0.changed.notify_waiters();
        }
        let last = s.last_call(&session);
        drop(s);
        Ok(Arc::new(Attached { identity: self.0.identity(), hands: self.0.clone(), epoch: open.epoch, last }))
    }

    async fn forget(&self, session: &SessionKey, epoch: Epoch) -> Result<Forgotten, sandbox::Error> {
        let mut s = lock(&self.0.state);
        if let Some(why) = &s.absent {
            return Err(sandbox::Error::None(why.clone()));
        }
        let session = session.digest();
        let fence = s.fences.entry(session.clone()).or_default();
        if epoch < *fence {
            return Err(sandbox::Error::Fenced { mine: epoch, current: *fence });
        }
        *fence = epoch;
        let before = s.calls.len();
        s.calls.retain(|id, _| id.session != session);
        let calls = (before - s.calls.len()) as u64;
        drop(s);
        self.0.changed.notify_waiters();
        Ok(Forgotten { calls, ..Forgotten::default() })
    }

    async fn probe(&self) -> Result<String, sandbox::Error> {
        Ok("fake hands".into())
    }
}

struct Attached {
    identity: Identity,
    hands: Arc<FakeHands>,
    epoch: Epoch,
    last: Option<LastCall>,
}

#[async_trait]
impl Sandbox for Attached {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn last_call(&self) -> Option<&LastCall> {
        self.last.as_ref()
    }

    /// `bash` with the command `hang` ends only by cancel or loss; `fail` is an error; the path `picture.png` is a
    /// picture; everything else echoes its arguments.
    async fn call(&self, call: Call) -> Result<Ended, sandbox::Error> {
        loop {
            let changed = self.hands.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(ended) = self.try_call(&call)? {
                return Ok(ended);
            }
            changed.await;
        }
    }

    async fn cancel(&self, id: &CallId) -> Result<(), sandbox::Error> {
        let mut s = lock(&self.hands.state);
        s.cancelled.push(id.clone());
        if let Some(call) = s.calls.get_mut(id) {
            call.result.get_or_insert_with(|| ToolResult::error("Command aborted"));
        }
        drop(s);
        self.hands.changed.notify_waiters();
        Ok(())
    }
}

fn picture() -> ToolResult {
    let image = Content::Image { media_type: "image/png".into(), data: "iVBORw0KGgo=".into() };
    ToolResult { content: vec![Content::Text { text: "[picture.png]".into() }, image], is_error: false }
}

impl Attached {
    /// Starts the call or looks at it; `None` while it runs.
    fn try_call(&self, call: &Call) -> Result<Option<Ended>, sandbox::Error> {
        let mut s = lock(&self.hands.state);
        let fence = s.fences.get(&call.id.session).copied().unwrap_or_default();
        if self.epoch < fence {
            return Err(sandbox::Error::Fenced { mine: self.epoch, current: fence });
        }
        if let Some(known) = s.calls.get(&call.id) {
            return Ok(known.result.clone().map(Ended::Finished));
        }
        if s.incarnation.to_string() != call.incarnation {
            return Ok(Some(Ended::Lost("other hands".into())));
        }
        s.ran.push((call.tool.clone(), call.input.clone()));
        let result = match call.input["command"].as_str() {
            Some("hang") => None,
            Some("fail") => Some(ToolResult::error("Command exited with code 1")),
            _ if call.input["path"] == "picture.png" => Some(picture()),
            _ => Some(ToolResult::text(format!("{} {}", call.tool, call.input))),
        };
        let known = Known { digest: sandbox::digest(&call.tool, &call.input), result: result.clone() };
        s.calls.insert(call.id.clone(), known);
        Ok(result.map(Ended::Finished))
    }
}
