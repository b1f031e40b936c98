//! The daemon's side of a domain.
//!
//! Owns: starting the process, matching answers to requests, and noticing its end. Must not know: calls' meaning.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use super::protocol::{FromDomain, Job, Report, Setup, ToDomain, memory, read_report, receive, send};
use crate::DOMAIN_ARG;
use crate::cgroup::Leaf;

/// How long setting up may take.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Waiting {
    calls: HashMap<u64, oneshot::Sender<()>>,
    counts: Vec<oneshot::Sender<usize>>,
    dead: bool,
}

/// A running domain. Dropping it ends everything inside.
pub(crate) struct Domain {
    socket: Arc<AsyncFd<OwnedFd>>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
    serving: tokio::task::AbortHandle,
    stop: Arc<Notify>,
    gone: watch::Receiver<()>, // closed then
    group: Option<Leaf>,
    pid: Option<i32>,
}

/// A worker under way.
pub(crate) struct Running {
    call: u64,
    report: OwnedFd,
    ended: oneshot::Receiver<()>,
}

/// The end of a domain.
#[derive(Clone)]
pub(crate) struct Gone(watch::Receiver<()>);

impl Gone {
    /// Waits for it. Cancellation safe.
    pub(crate) async fn wait(&mut self) {
        while self.0.changed().await.is_ok() {}
    }

    /// Whether it has come.
    pub(crate) fn has_come(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

impl Running {
    /// Waits until the worker is gone. Cancellation safe.
    pub(crate) async fn ended(&mut self) {
        let _ = (&mut self.ended).await; // an error: the domain is gone, and the worker with it
    }

    /// Its report; `None` if it was killed before it wrote one.
    pub(crate) fn report(&self) -> Option<Report> {
        read_report(&self.report).ok().flatten()
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Domain {
    /// Starts a domain and waits until it is confined. Must be called on the daemon's main thread: the domain dies
    /// with the thread that started it.
    ///
    /// # Errors
    /// A text that names the step that failed.
    pub(crate) async fn start(mut setup: Setup, group: Option<Leaf>) -> Result<Self, String> {
        setup.cgroup = group.as_ref().map(|g| g.path().to_owned());
        let started = Self::start_in(setup, group.clone()).await;
        if let (Err(_), Some(group)) = (&started, group) {
            tokio::spawn(async move { group.end().await });
        }
        started
    }

    async fn start_in(setup: Setup, group: Option<Leaf>) -> Result<Self, String> {
        let failed = |e: io::Error| format!("the sandbox process could not be started: {e}");
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| failed(e.into()))?;
        let child = Command::new("/proc/self/exe")
            .arg(DOMAIN_ARG)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|e| failed(e.into()))?;
        // SAFETY: the descriptor is owned by the object that is registered, which never exchanges it.
        #[allow(unsafe_code)]
        let socket = unsafe { AsyncFd::register(ours) }.map_err(|e| failed(e.into()))?;
        transmit(&socket, &ToDomain::Setup(Box::new(setup)), &[]).await.map_err(failed)?;
        let first = timeout(READY_WITHIN, next(&socket)).await;
        match first.map_err(|_| format!("the sandbox process was not ready within {READY_WITHIN:?}"))? {
            Ok(Some(FromDomain::Ready)) => {}
            Ok(Some(FromDomain::Failed { message })) => return Err(message),
            Ok(other) => return Err(format!("the sandbox process said {other:?} instead of being ready")),
            Err(e) => return Err(failed(e)),
        }
        let (socket, waiting) = (Arc::new(socket), Arc::<Mutex<Waiting>>::default());
        let serving = tokio::spawn(serve(socket.clone(), waiting.clone())).abort_handle();
        let stop = Arc::<Notify>::default();
        let (alive, gone) = watch::channel(());
        let pid = child.id().map(u32::cast_signed);
        let (collected, end) = (collect(child, stop.clone()), group.clone());
        tokio::spawn(async move {
            let _alive = alive;
            collected.await;
            if let Some(group) = end {
                group.end().await;
            }
        });
        Ok(Self { group, pid, socket, waiting, next: AtomicU64::new(1), serving, stop, gone })
    }

    /// Whether it is gone.
    pub(crate) fn is_dead(&self) -> bool {
        lock(&self.waiting).dead
    }

    /// Starts a worker; `streams` are the standard streams of a command, none for a tool.
    ///
    /// # Errors
    /// When the domain is gone or the job cannot be handed over.
    pub(crate) async fn run(&self, job: &Job, streams: &[BorrowedFd<'_>]) -> io::Result<Running> {
        let job = memory("job", &serde_json::to_vec(job)?)?;
        let report = memory("report", &[])?;
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, ended) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.dead {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the sandbox process is gone"));
            }
            waiting.calls.insert(call, tell);
        }
        let mut fds = vec![job.as_fd(), report.as_fd()];
        fds.extend_from_slice(streams);
        transmit(&self.socket, &ToDomain::Start { call }, &fds).await?;
        Ok(Running { call, report, ended })
    }

    /// Asks a worker to end.
    pub(crate) async fn terminate(&self, running: &Running) {
        let _ = transmit(&self.socket, &ToDomain::Term { call: running.call }, &[]).await;
    }

    /// Kills a worker and everything below it.
    pub(crate) async fn kill(&self, running: &Running) {
        let _ = transmit(&self.socket, &ToDomain::Kill { call: running.call }, &[]).await;
    }

    /// Ends everything inside, at once. Calls under way learn that they are gone.
    pub(crate) fn end(&self) {
        self.stop.notify_one();
    }

    /// The process below which everything inside is.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// How many processes the kernel has killed because of the limit on memory; `None` where it does not hold that.
    pub(crate) fn memory_kills(&self) -> Option<u64> {
        self.group.as_ref().map(Leaf::kills)
    }

    /// Tells when nothing inside runs any more, also once this is dropped.
    pub(crate) fn gone(&self) -> Gone {
        Gone(self.gone.clone())
    }

    /// How many processes there are inside, apart from its own; `None` if it does not answer.
    pub(crate) async fn processes(&self) -> Option<usize> {
        let (tell, answer) = oneshot::channel();
        lock(&self.waiting).counts.push(tell);
        transmit(&self.socket, &ToDomain::Count, &[]).await.ok()?;
        timeout(ANSWER_WITHIN, answer).await.ok()?.ok()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        self.serving.abort();
        self.end();
    }
}

async fn transmit(socket: &AsyncFd<OwnedFd>, message: &ToDomain, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    socket.async_io(Interest::WRITABLE, |fd| send(fd.as_fd(), message, fds)).await
}

async fn next(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<FromDomain>> {
    let got = socket.async_io(Interest::READABLE, |fd| receive::<FromDomain>(fd.as_fd())).await?;
    Ok(got.map(|(message, _)| message))
}

async fn serve(socket: Arc<AsyncFd<OwnedFd>>, waiting: Arc<Mutex<Waiting>>) {
    while let Ok(Some(message)) = next(&socket).await {
        match message {
            FromDomain::Ended { call } => {
                if let Some(tell) = lock(&waiting).calls.remove(&call) {
                    let _ = tell.send(());
                }
            }
            FromDomain::Count { processes } => {
                for tell in lock(&waiting).counts.drain(..) {
                    let _ = tell.send(processes);
                }
            }
            FromDomain::Failed { message } => eprintln!("torpor-hands: domain: {message}"),
            FromDomain::Ready => {}
        }
    }
    let mut waiting = lock(&waiting);
    waiting.dead = true;
    waiting.calls.clear();
    waiting.counts.clear();
}

/// Waits for the outer process. Told to stop, it ends the inner one with everything below; that one is outside of the
/// confinement, so nothing inside can keep it from doing so.
async fn collect(mut child: Child, stop: Arc<Notify>) {
    tokio::select! {
        _ = child.wait() => return,
        () = stop.notified() => {}
    }
    // Not collected yet, so the number is still its own.
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let _ = child.wait().await;
}
