//! One session: its fence, its journal, its calls, its domain.
//!
//! Owns: the promise that a call id runs at most once. Everything that decides about a call happens under one lock, and
//! whatever it decides is in the journal before anybody acts on it. Must not know: connections, or how a call runs.

mod forget;
pub(super) mod watch;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as Plain, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use torpor_core::sandbox::{self, LastCall};
use torpor_core::{Epoch, Position};
use torpor_exec_channel::message::{
    Call as Request, Code, Ended, Exit, Extent, Open, Opened, Refused, State, Workspace,
};

use super::bash::Input;
use super::call::{self, Call};
use super::make_folders;
use super::outputs::Outputs;
use super::sessions::{MAX_RUNNING_OF_SESSION, Shared};
use crate::domain::Domain;
use crate::domain::handle::Gone;
use crate::domain::protocol::Setup;
use crate::journal::{Journal, Known, Past, Record};

/// A domain in which background processes run stays this long after the last call.
const IDLE_BUSY_DOMAIN: Duration = Duration::from_secs(600);

/// What a request attaches to.
pub(super) enum Attached {
    /// A call that runs.
    Live(Arc<Call>),
    /// One that is over. (A live one may end at any time; it then knows its own end.)
    Over(Box<Ended>),
}

struct Inner {
    journal: Journal,
    opened: Option<Option<PathBuf>>, // a workspace of its own, or that one
    fence: Epoch,
    past: HashMap<u64, Known>,
    floor: u64, // the journal has left out calls up to here
    live: HashMap<u64, Arc<Call>>,
    domain: Option<Arc<Domain>>,
    domains: Vec<Gone>, // those that may still be about to end, too
}

/// See the module's page.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    dir: PathBuf,
    inner: Mutex<Inner>,
    used: Plain<Instant>,
    disk: Plain<watch::Disk>,
    pub(super) outputs: Outputs,
    pub(super) turns: Semaphore,
    running: Arc<AtomicUsize>,
}

fn refuse(code: Code, message: impl Into<String>) -> Refused {
    Refused { code, message: message.into(), current: None }
}

fn failed(what: &str) -> impl Fn(io::Error) -> Refused + '_ {
    move |e| refuse(Code::Failed, format!("the hands could not {what}: {e}"))
}

impl Session {
    /// Reads the session from disk; one that is not there is new.
    pub(super) async fn load(
        digest: &str,
        shared: Arc<Shared>,
        running: Arc<AtomicUsize>,
    ) -> Result<Arc<Self>, Refused> {
        let dir = shared.settings.state.join("sessions").join(digest);
        let path = dir.join("journal");
        let loaded = tokio::task::spawn_blocking(move || {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            Journal::load(&path)
        });
        let loaded = loaded.await.map_err(io::Error::other).and_then(|r| r);
        let (journal, past) = loaded.map_err(failed("read the session's journal"))?;
        let Past { opened, fence, calls, floor } = past;
        let opened = opened.map(|w| w.map(PathBuf::from));
        let inner = Inner {
            journal,
            opened,
            fence,
            past: calls,
            floor,
            live: HashMap::new(),
            domain: None,
            domains: Vec::new(),
        };
        let (used, outputs) = (Plain::new(Instant::now()), Outputs::new(&dir, shared.level));
        let turns = Semaphore::new(MAX_RUNNING_OF_SESSION);
        Ok(Arc::new(Self {
            shared,
            dir,
            inner: Mutex::new(inner),
            used,
            disk: Plain::default(),
            outputs,
            turns,
            running,
        }))
    }

    /// Binds the session to its workspace, and raises the fence. Must be driven to its end: a caller that may be dropped
    /// runs it as a task.
    pub(super) async fn open(&self, open: &Open) -> Result<Opened, Refused> {
        if self.is_of_before(open.born).await {
            match self.forget(open.born).await {
                Err(refused) if refused.code != Code::Fenced => return Err(refused),
                _ => {} // forgotten, or somebody was faster: whether we are still the owner is seen below
            }
        }
        let mut inner = self.lock().await;
        self.raise(&mut inner, open.epoch).await?;
        let wanted = open.workspace.as_ref().map(|w| self.allowed(w)).transpose()?;
        match &inner.opened {
            Some(bound) if *bound == wanted => {}
            Some(bound) => {
                let name = |w: &Option<PathBuf>| {
                    w.as_ref().map_or_else(|| "one of its own".into(), |p| p.display().to_string())
                };
                let (bound, wanted) = (name(bound), name(&wanted));
                return Err(refuse(Code::Invalid, format!("the session's workspace is {bound}, not {wanted}")));
            }
            None => {
                let workspace = wanted.as_ref().map(|w| w.display().to_string());
                inner.journal.append(&Record::Opened { workspace }).await.map_err(failed("write the journal"))?;
                inner.opened = Some(wanted);
            }
        }
        let setup = self.setup(&inner)?;
        make_folders(&setup).map_err(failed("make the session's folders"))?;
        let last = inner.past.iter().max_by_key(|(position, _)| **position).map(|(position, known)| LastCall {
            position: Position(*position),
            digest: known.digest().map(str::to_owned),
        });
        Ok(Opened { workdir: setup.inside().workspace.display().to_string(), last })
    }

    /// Attaches to the call, or starts it if it is to be started here and was not. Must be driven to its end: a caller
    /// that may be dropped runs it as a task.
    pub(super) async fn call(self: &Arc<Self>, request: Request, input: Option<Input>) -> Result<Attached, Refused> {
        let mut inner = self.lock().await;
        self.raise(&mut inner, request.epoch).await?;
        let position = request.id.position.0;
        let digest = sandbox::digest(&request.tool, &request.input);
        let before = inner.live.get(&position).map(|c| c.digest());
        if let Some(before) = before.or_else(|| inner.past.get(&position).and_then(Known::digest))
            && before != digest
        {
            let session = &request.id.session;
            let why = format!(
                "call {session}/{position} was used before, for another command: neither is its result this one's, \
                 nor is this one run. The hands' journal belongs to another log of this session"
            );
            return Err(refuse(Code::Conflict, why));
        }
        if let Some(found) = self.find(&inner, position)? {
            return Ok(found);
        }
        let ours = &self.shared.incarnation;
        if request.incarnation != *ours && call::has_effects(&request.tool) {
            let then = &request.incarnation;
            let why = format!("the hands that were asked ({then}) are gone; those here ({ours}) do not know the call");
            return Ok(Attached::Over(Box::new(lost(why))));
        }
        if inner.opened.is_none() {
            return Err(refuse(Code::NotOpen, format!("session {} was not opened here", request.id.session)));
        }
        if call::has_effects(&request.tool) {
            if position <= inner.floor {
                return Ok(Attached::Over(Box::new(lost(left_out(position)))));
            }
            self.compact(&mut inner).await;
            let accepted = Record::Accepted {
                position,
                epoch: request.epoch,
                incarnation: ours.clone(),
                tool: request.tool.clone(),
                digest: digest.clone(),
            };
            inner.journal.append(&accepted).await.map_err(failed("write the journal"))?;
            inner.past.insert(position, Known::Open { incarnation: ours.clone(), digest: digest.clone() });
        }
        let call = Arc::new(Call::new(request, digest, input));
        inner.live.insert(position, call.clone());
        drop(inner);
        self.running.fetch_add(1, Ordering::Relaxed);
        let (session, running) = (self.clone(), call.clone());
        tokio::spawn(async move {
            call::run(&session, &running).await;
            session.running.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(Attached::Live(call))
    }

    /// Attaches to a call, never starts it.
    pub(super) async fn attach(&self, epoch: Epoch, position: u64) -> Result<Attached, Refused> {
        let mut inner = self.lock().await;
        self.raise(&mut inner, epoch).await?;
        if let Some(found) = self.find(&inner, position)? {
            return Ok(found);
        }
        if position <= inner.floor {
            return Ok(Attached::Over(Box::new(lost(left_out(position)))));
        }
        Err(refuse(Code::UnknownCall, format!("call {position} is not known here")))
    }

    /// What is known of a call.
    pub(super) async fn status(&self, epoch: Epoch, position: u64) -> Result<State, Refused> {
        let mut inner = self.lock().await;
        self.raise(&mut inner, epoch).await?;
        if inner.live.contains_key(&position) {
            return Ok(State::Running);
        }
        Ok(match inner.past.get(&position) {
            None if position <= inner.floor => State::Lost,
            None => State::Unknown,
            Some(Known::Ended { .. } | Known::Cancelled) => State::Ended,
            Some(Known::Open { .. }) => State::Lost,
        })
    }

    /// Ends a call and waits until nothing of it runs. One that is not known (its request may still be under way, or be
    /// sent by an owner that does not know better) will never be run.
    pub(super) async fn cancel(&self, epoch: Epoch, position: u64) -> Result<(), Refused> {
        let mut inner = self.lock().await;
        self.raise(&mut inner, epoch).await?;
        let live = inner.live.get(&position).cloned();
        if live.is_none() && !inner.past.contains_key(&position) {
            inner.journal.append(&Record::Cancelled { position }).await.map_err(failed("write the journal"))?;
            inner.past.insert(position, Known::Cancelled);
        }
        drop(inner);
        if let Some(call) = live {
            call.cancel();
            call.wait().await;
        }
        Ok(())
    }

    /// Whether what is known here is of an earlier life of the session's id.
    async fn is_of_before(&self, born: Epoch) -> bool {
        let inner = self.lock().await;
        inner.fence < born && (inner.opened.is_some() || !inner.past.is_empty() || inner.floor > 0)
    }

    async fn lock(&self) -> tokio::sync::MutexGuard<'_, Inner> {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.inner.lock().await
    }

    /// Refuses an epoch below the fence; puts the fence at a higher one, on disk first.
    async fn raise(&self, inner: &mut Inner, epoch: Epoch) -> Result<(), Refused> {
        let current = inner.fence;
        if epoch < current {
            let message = format!("epoch {epoch} is fenced: the session has a newer owner (epoch {current})");
            return Err(Refused { code: Code::Fenced, message, current: Some(current) });
        }
        if epoch > current {
            inner.journal.append(&Record::Fence { epoch }).await.map_err(failed("write the journal"))?;
            inner.fence = epoch;
        }
        Ok(())
    }

    /// Leaves the oldest calls out of a journal that has grown.
    async fn compact(&self, inner: &mut Inner) {
        if !inner.journal.has_grown() {
            return;
        }
        match inner.journal.compact(inner.live.keys().copied().collect()).await {
            Ok(past) => (inner.past, inner.floor) = (past.calls, past.floor),
            Err(e) => eprintln!("torpor-hands: journal: it could not be compacted: {e}"), // it goes on growing
        }
    }

    fn find(&self, inner: &Inner, position: u64) -> Result<Option<Attached>, Refused> {
        if let Some(call) = inner.live.get(&position) {
            return Ok(Some(Attached::Live(call.clone())));
        }
        Ok(match inner.past.get(&position) {
            None => None,
            Some(Known::Ended { place, .. }) => {
                let ended = inner.journal.ended(*place).map_err(failed("read the journal"))?;
                Some(Attached::Over(Box::new(ended)))
            }
            Some(Known::Cancelled) => Some(Attached::Over(Box::new(call::aborted()))),
            Some(Known::Open { incarnation, .. }) => {
                let why = format!("the hands ended while the call was running (they were {incarnation})");
                Some(Attached::Over(Box::new(lost(why))))
            }
        })
    }

    /// Writes the end of a call down and tells everybody who waits.
    pub(super) async fn finish(&self, call: &Call, ended: Ended) {
        let position = call.position();
        let mut inner = self.lock().await;
        if call::has_effects(call.tool()) {
            match inner.journal.append(&Record::Ended { position, ended: ended.clone() }).await {
                Ok(place) => {
                    inner.past.insert(position, Known::Ended { place, digest: call.digest().to_owned() });
                }
                // Its end is told to those who wait now, and later ones learn that it is not known: never a second run.
                Err(e) => eprintln!("torpor-hands: journal: the end of {}: {e}", call.shown()),
            }
        }
        inner.live.remove(&position);
        drop(inner);
        call.finish(ended);
    }

    /// The session's domain; starts one if there is none.
    pub(super) async fn domain(&self) -> Result<Arc<Domain>, String> {
        let mut inner = self.lock().await;
        if let Some(domain) = inner.domain.as_ref().filter(|d| !d.is_dead()) {
            return Ok(domain.clone());
        }
        let setup = self.setup(&inner).map_err(|r| r.message)?;
        make_folders(&setup).map_err(|e| format!("the session's folders could not be made: {e}"))?;
        let domain = Arc::new(Domain::start(setup, self.shared.group()?).await?);
        inner.domains.retain(|d| !d.has_come());
        inner.domains.push(domain.gone());
        inner.domain = Some(domain.clone());
        Ok(domain)
    }

    /// Gives up a domain in which something could not be killed: with it everything inside goes.
    pub(super) async fn drop_domain(&self, domain: &Arc<Domain>) {
        let mut inner = self.lock().await;
        if inner.domain.as_ref().is_some_and(|d| Arc::ptr_eq(d, domain)) {
            inner.domain = None;
        }
        domain.end();
    }

    fn setup(&self, inner: &Inner) -> Result<Setup, Refused> {
        let own = self.dir.join("leaf");
        let workspace = match &inner.opened {
            Some(Some(given)) if self.folder(given)? == *given => given.clone(),
            Some(Some(given)) => {
                let why = format!("workspace `{}` was replaced by a link since it was opened", given.display());
                return Err(refuse(Code::Invalid, why));
            }
            _ => own.join("workspace"),
        };
        let settings = &self.shared.settings;
        Ok(Setup {
            level: self.shared.level,
            staging: settings.state.join("root"),
            workspace,
            tmp: own.join("tmp"),
            home: own.join("home"),
            outputs: self.outputs.folder(),
            network: settings.network,
            readable: settings.readable.clone(),
            path: settings.path.clone(),
            processes: settings.limits.processes,
            file_size: settings.limits.disk,
            cgroup: None,
        })
    }

    /// The folder that a named workspace is, links resolved. It must lie below one of the roots.
    fn allowed(&self, workspace: &Workspace) -> Result<PathBuf, Refused> {
        let real = self.folder(Path::new(&workspace.path))?;
        let below = |root: &String| fs::canonicalize(root).is_ok_and(|root| real.starts_with(root));
        if workspace.roots.iter().any(below) {
            return Ok(real);
        }
        let path = &workspace.path;
        Err(refuse(Code::Invalid, format!("workspace `{path}` is not below an allowed root")))
    }

    /// The folder at `path`, links resolved.
    fn folder(&self, path: &Path) -> Result<PathBuf, Refused> {
        let bad = |what: String| refuse(Code::Invalid, format!("workspace `{}` {what}", path.display()));
        if !path.is_absolute() {
            return Err(bad("must be an absolute path".into()));
        }
        let real = fs::canonicalize(path).map_err(|e| bad(format!("cannot be used: {e}")))?;
        if !real.is_dir() || real.to_str().is_none() {
            return Err(bad("is no folder with a name in UTF-8".into()));
        }
        let state = &self.shared.settings.state;
        if state.starts_with(&real) || real.starts_with(state) {
            return Err(bad(
                "holds, or lies in, the hands' own state (in the data folder); name one apart from it".into()
            ));
        }
        Ok(real)
    }

    /// How long nobody has asked for anything.
    pub(super) fn rested(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// The process below which its domain is, if it has one, as far as that can be told without waiting.
    pub(super) fn domain_process(&self) -> Option<i32> {
        self.inner.try_lock().ok()?.domain.as_ref()?.pid()
    }

    /// Whether it has a domain, as far as that can be told without waiting.
    pub(super) fn has_domain(&self) -> bool {
        self.inner.try_lock().map_or(true, |inner| inner.domain.is_some())
    }

    /// Ends calls that nobody waits for, and a domain that was not used for `rest`.
    pub(super) async fn sweep(&self, rest: Duration) {
        let Ok(mut inner) = self.inner.try_lock() else { return }; // somebody is using it
        let orphan = self.shared.settings.orphan;
        inner.live.values().filter(|c| c.unwatched() >= orphan).for_each(|c| c.cancel());
        let rested = self.rested();
        if !inner.live.is_empty() || rested < rest {
            return;
        }
        let Some(domain) = inner.domain.clone() else { return };
        if rested >= IDLE_BUSY_DOMAIN || domain.processes().await.unwrap_or(0) == 0 {
            inner.domain = None;
        }
    }

    /// Tells every call to end.
    pub(super) fn cancel_all(&self) {
        if let Ok(inner) = self.inner.try_lock() {
            inner.live.values().for_each(|c| c.cancel());
        }
    }

    /// Waits for the end of all calls, then ends the domain.
    pub(super) async fn end(&self) {
        let live: Vec<_> = self.lock().await.live.values().cloned().collect();
        for call in live {
            call.cancel();
            call.wait().await;
        }
        self.lock().await.domain = None;
    }
}

fn left_out(position: u64) -> String {
    format!(
        "the hands remember only the newest calls of a session; what became of call {position} is not known any more"
    )
}

fn lost(why: String) -> Ended {
    Ended { exit: Exit::Lost(why), result: None, output: Extent::default() }
}
