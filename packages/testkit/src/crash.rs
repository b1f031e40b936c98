//! Dying at every single step, and choosing who takes the next one: wrappers that stop the world before and after each
//! call over a seam.
//!
//! A brain under test runs on wrapped seams that share one [`Fuse`]. When the fuse blows, the call that met it never
//! returns, as in a process that was killed there; the test drops the brain and starts another on the plain seams. A
//! fuse made by [`Fuse::stepped`] holds every step until the test lets it go on, so that a seed decides how several
//! brains and their callers interleave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, watch};
use torpor_core::entry::Entry;
use torpor_core::id::{CallId, Epoch, Position, SessionKey};
use torpor_core::log::{Append, AppendError, Opened, SessionLog};
use torpor_core::message::Assistant;
use torpor_core::model::{self, Delta, ModelClient, Prepared, Request};
use torpor_core::sandbox::{self, Call, Ended, Forgotten, Identity, LastCall, Open, Sandbox, SandboxTransport};
use torpor_core::schedule::{Begin, Begun, Fire, FireId, Report, ScheduleStore, State};
use torpor_core::{Timestamp, store};

mod files;

/// Counts steps and dies at a chosen one.
#[derive(Debug)]
pub struct Fuse {
    at: u64,
    taken: AtomicU64,
    blown: watch::Sender<bool>,
    /// Steps that may be taken; `None` for as many as come.
    allowed: Option<Semaphore>,
    /// Steps that wait or were taken.
    arrived: watch::Sender<u64>,
}

impl Fuse {
    /// Dies at step `at`, counted from 1; 0 never dies.
    #[must_use]
    pub fn at(at: u64) -> Arc<Self> {
        Arc::new(Self::new(at, None))
    }

    /// Never dies, and takes no step that was not allowed.
    #[must_use]
    pub fn stepped() -> Arc<Self> {
        Arc::new(Self::new(0, Some(Semaphore::new(0))))
    }

    fn new(at: u64, allowed: Option<Semaphore>) -> Self {
        let (blown, arrived) = (watch::Sender::new(false), watch::Sender::new(0));
        Self { at, taken: AtomicU64::new(0), blown, allowed, arrived }
    }

    /// Lets one step be taken.
    pub fn allow_one(&self) {
        if let Some(allowed) = &self.allowed {
            allowed.add_permits(1);
        }
    }

    /// Waits until a step stands here that was not allowed yet. Cancellation safe.
    pub async fn stands(&self) {
        let mut arrived = self.arrived.subscribe();
        let _ = arrived.wait_for(|n| *n > self.taken()).await;
    }

    /// Steps taken so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Waits until the fuse has blown. Cancellation safe.
    pub async fn blown(&self) {
        let mut blown = self.blown.subscribe();
        let _ = blown.wait_for(|b| *b).await;
    }

    /// One step: returns, or never does.
    async fn step(&self) {
        if let Some(allowed) = &self.allowed {
            self.arrived.send_modify(|n| *n += 1);
            // The semaphore is never closed.
            if let Ok(permit) = allowed.acquire().await {
                permit.forget();
            }
        }
        let n = self.taken.fetch_add(1, Ordering::SeqCst) + 1;
        if self.at != 0 && n >= self.at {
            self.blown.send_replace(true);
            std::future::pending::<()>().await;
        }
    }

    /// A call with a step before it (nothing has happened yet) and one after it (it happened, nobody knows).
    pub async fn around<T>(&self, call: impl Future<Output = T>) -> T {
        self.step().await;
        let done = call.await;
        self.step().await;
        done
    }
}

/// A seam with a fuse.
pub struct Fused<T: ?Sized> {
    inner: Arc<T>,
    fuse: Arc<Fuse>,
}

impl<T: ?Sized> Fused<T> {
    /// Wraps a seam.
    pub fn new(inner: Arc<T>, fuse: &Arc<Fuse>) -> Arc<Self> {
        Arc::new(Self { inner, fuse: fuse.clone() })
    }
}

#[async_trait]
impl SessionLog for Fused<dyn SessionLog> {
    async fn append(&self, append: Append) -> Result<Position, AppendError> {
        self.fuse.around(self.inner.append(append)).await
    }

    async fn open(&self, session: &SessionKey) -> Result<Option<Opened>, store::Error> {
        self.fuse.around(self.inner.open(session)).await
    }

    async fn wait_beyond(
        &self,
        session: &SessionKey,
        after: Position,
        max: Duration,
    ) -> Result<Position, store::Error> {
        self.inner.wait_beyond(session, after, max).await
    }

    async fn read(&self, session: &SessionKey, from: Position, limit: usize) -> Result<Vec<Entry>, store::Error> {
        self.fuse.around(self.inner.read(session, from, limit)).await
    }
}

#[async_trait]
impl ModelClient for Fused<dyn ModelClient> {
    fn prepare(&self, request: &Request<'_>) -> Result<Prepared, model::Error> {
        self.inner.prepare(request)
    }

    async fn send(&self, p: &Prepared, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<Assistant, model::Error> {
        self.fuse.around(self.inner.send(p, deltas)).await
    }
}

#[async_trait]
impl SandboxTransport for Fused<dyn SandboxTransport> {
    fn workdir(&self, session: &SessionKey, workspace: Option<&str>) -> Result<String, sandbox::Error> {
        self.inner.workdir(session, workspace)
    }

    async fn open(&self, open: Open) -> Result<Arc<dyn Sandbox>, sandbox::Error> {
        let inner = self.fuse.around(self.inner.open(open)).await?;
        Ok(Arc::new(FusedHands { inner, fuse: self.fuse.clone() }))
    }

    async fn forget(&self, session: &SessionKey, epoch: Epoch) -> Result<Forgotten, sandbox::Error> {
        self.fuse.around(self.inner.forget(session, epoch)).await
    }

    async fn probe(&self) -> Result<String, sandbox::Error> {
        self.inner.probe().await
    }
}

#[async_trait]
impl ScheduleStore for Fused<dyn ScheduleStore> {
    async fn states(&self) -> Result<Vec<State>, store::Error> {
        self.fuse.around(self.inner.states()).await
    }

    async fn state(&self, name: &str) -> Result<Option<State>, store::Error> {
        self.fuse.around(self.inner.state(name)).await
    }

    async fn watch(&self, name: &str, plan: &str, at: Timestamp) -> Result<State, store::Error> {
        self.fuse.around(self.inner.watch(name, plan, at)).await
    }

    async fn begin(&self, name: &str, begin: &Begin) -> Result<Begun, store::Error> {
        self.fuse.around(self.inner.begin(name, begin)).await
    }

    async fn finish(&self, name: &str, fire: &FireId, report: &Report) -> Result<bool, store::Error> {
        self.fuse.around(self.inner.finish(name, fire, report)).await
    }

    async fn pass(&self, name: &str, upto: Timestamp) -> Result<(), store::Error> {
        self.fuse.around(self.inner.pass(name, upto)).await
    }

    async fn pause(&self, name: &str, at: Timestamp) -> Result<Option<State>, store::Error> {
        self.fuse.around(self.inner.pause(name, at)).await
    }

    async fn resume(&self, name: &str, at: Timestamp) -> Result<Option<State>, store::Error> {
        self.fuse.around(self.inner.resume(name, at)).await
    }

    async fn take_over(&self, name: &str, by: &str) -> Result<Vec<Fire>, store::Error> {
        self.fuse.around(self.inner.take_over(name, by)).await
    }
}

struct FusedHands {
    inner: Arc<dyn Sandbox>,
    fuse: Arc<Fuse>,
}

#[async_trait]
impl Sandbox for FusedHands {
    fn identity(&self) -> &Identity {
        self.inner.identity()
    }

    fn last_call(&self) -> Option<&LastCall> {
        self.inner.last_call()
    }

    async fn call(&self, call: Call) -> Result<Ended, sandbox::Error> {
        self.fuse.around(self.inner.call(call)).await
    }

    async fn cancel(&self, id: &CallId) -> Result<(), sandbox::Error> {
        self.fuse.around(self.inner.cancel(id)).await
    }
}
