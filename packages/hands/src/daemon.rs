//! The daemon: one per state folder.
//!
//! Owns: being the only one, the level of confinement, the socket, and the clock that ends what nobody waits for. Must
//! not know: what frames say (`connection`) or how a call runs (`session`, `call`).

mod bash;
mod call;
mod connection;
mod outputs;
mod remove;
mod reserve;
mod session;
mod sessions;
mod usage;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cgroup::Home;
use crate::cli::{ALREADY, READY};
use crate::confine::sys;
use crate::domain::Domain;
use crate::domain::protocol::Setup;
use crate::level::Level;
use crate::settings::Settings;
use crate::socket;
use sessions::Sessions;

/// Connections at once.
const MAX_CONNECTIONS: usize = 1_024;
/// How often idle things are looked at, unless the orphan time is shorter.
const TICK: Duration = Duration::from_secs(1);
/// Pause between two looks at what sessions use.
const WATCH_PAUSE: Duration = Duration::from_millis(500);
/// It is so many times as long as the look before it.
const WATCH_SHARE: u32 = 20;

/// Why a daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another one holds the state folder.
    #[error("{ALREADY}")]
    Already,
    /// The file system or the socket.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Commands cannot be confined as far as they must be.
    #[error("{0}")]
    Level(String),
}

fn io_error(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Error {
    let what = what.to_string();
    |source| Error::Io { what, source }
}

/// Runs a daemon until it is told to end, or idle for long enough where the settings say so. `say` is told one line
/// when it is ready. Must run on a runtime with one thread.
///
/// # Errors
/// [`Error`].
pub async fn run(settings: Settings, say: impl FnOnce(&str)) -> Result<(), Error> {
    let _ = sys::not_dumpable(); // an old kernel's refusal leaves the other walls
    sys::ignore_signal(libc::SIGHUP);
    raise_file_limit();
    let asked = settings.digest();
    let state = prepare(&settings.state)?;
    let settings = Settings { state, ..settings };
    let state = settings.state.as_path();
    let lock = File::create(state.join(socket::LOCK)).map_err(io_error("lock file"))?;
    if let Err(e) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        return if e == rustix::io::Errno::WOULDBLOCK { Err(Error::Already) } else { Err(io_error("lock")(e.into())) };
    }
    let level = choose_level(&settings).await?;
    let groups = groups(&settings, level).await;
    let sessions = Sessions::new(settings.clone(), level, asked, groups);
    let _ = fs::remove_file(state.join(socket::NAME)); // of a predecessor that was killed: the lock says it is gone
    let (address, dir) = socket::address(state).map_err(io_error("socket"))?;
    let listener = UnixListener::bind(&address).map_err(io_error(state.join(socket::NAME).display()))?;
    drop(dir);
    fs::set_permissions(state.join(socket::NAME), fs::Permissions::from_mode(0o600)).map_err(io_error("socket"))?;
    say(READY);

    let served = serve(&listener, &sessions, &settings).await;
    // Nobody may find the socket of a daemon that is ending.
    let _ = fs::remove_file(state.join(socket::NAME));
    drop(listener);
    sessions.end_all().await;
    drop(lock);
    served
}

/// Every running command takes a handful of descriptors. Commands themselves get a limit of their own.
fn raise_file_limit() {
    let now = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
}

/// Tries the levels, best first, down to the one that is allowed.
///
/// # Errors
/// [`Error::Level`] with what failed and what would help.
pub async fn probe(settings: &Settings) -> Result<Level, Error> {
    let state = prepare(&settings.state)?;
    choose_level(&Settings { state, ..settings.clone() }).await
}

fn prepare(state: &Path) -> Result<std::path::PathBuf, Error> {
    let name = || io_error(format!("state folder {}", state.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(name())?;
    fs::set_permissions(state, fs::Permissions::from_mode(0o700)).map_err(name())?;
    state.canonicalize().map_err(name())
}

async fn choose_level(settings: &Settings) -> Result<Level, Error> {
    let mut failures = Vec::new();
    for level in [Level::Full, Level::Reduced, Level::Unconfined] {
        if level < settings.prefer || level > settings.allow {
            continue;
        }
        match Domain::start(probe_setup(settings, level)?, None).await {
            Ok(_) => return Ok(level),
            Err(e) => failures.push(format!("`{level}`: {e}")),
        }
    }
    let allow = settings.allow;
    Err(Error::Level(format!(
        "commands cannot be confined at level `{allow}` or better here. {}. Remedies: for `full`, user namespaces \
         (sysctl kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu, kernel.unprivileged_userns_clone=1 on \
         Debian, user.max_user_namespaces above 0); for `reduced`, Linux 6.12 or later with Landlock, an ordinary user, \
         and allow that level by name",
        failures.join("; ")
    )))
}

/// Where domains get control groups: tried with a domain.
async fn groups(settings: &Settings, level: Level) -> Result<Home, String> {
    let home = Home::find(&settings.limits.cgroup, &Settings::new(settings.state.clone()).digest())?;
    let limits = &settings.limits;
    let group = home.leaf("probe", limits.memory, limits.processes).map_err(|e| e.to_string())?;
    let setup = probe_setup(settings, level).map_err(|e| e.to_string())?;
    Domain::start(setup, Some(group)).await.map(|_| home)
}

fn probe_setup(settings: &Settings, level: Level) -> Result<Setup, Error> {
    let dir = settings.state.join("probe");
    let setup = Setup {
        level,
        staging: dir.join("root"),
        workspace: dir.join("workspace"),
        tmp: dir.join("tmp"),
        home: dir.join("home"),
        outputs: dir.join("outputs"),
        network: settings.network,
        readable: settings.readable.clone(),
        path: settings.path.clone(),
        processes: settings.limits.processes,
        file_size: settings.limits.disk,
        cgroup: None,
    };
    make_folders(&setup).map_err(io_error("probe folder"))?;
    Ok(setup)
}

/// The folders that a domain is made of.
fn make_folders(setup: &Setup) -> io::Result<()> {
    for dir in [&setup.staging, &setup.workspace, &setup.tmp, &setup.home, &setup.outputs] {
        fs::create_dir_all(dir)?;
    }
    Ok(())
}

/// Looks again and again, with pauses. Never comes back.
async fn repeatedly<F: Future<Output = ()>>(look: impl Fn() -> F) {
    loop {
        let begun = Instant::now();
        look().await;
        tokio::time::sleep(WATCH_PAUSE.max(begun.elapsed() * WATCH_SHARE)).await;
    }
}

async fn serve(listener: &UnixListener, sessions: &Arc<Sessions>, settings: &Settings) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(io_error("signals"))?;
    let mut tick = interval(TICK.min(settings.orphan.max(Duration::from_millis(10))));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let connections = sessions.connections();
    let mut idle_since = Instant::now();
    let mut sweep = None;
    // Both end with this future; a look that is under way changes nothing by halves. Apart, because looking at folders may
    // take long, and memory does not wait.
    let memory = repeatedly(|| sessions.watch_memory());
    let disk = repeatedly(|| sessions.watch_disk());
    let watching = async { tokio::join!(memory, disk) };
    tokio::pin!(watching);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = &mut watching => {}
            () = sessions.replaced() => return Ok(()),
            _ = tick.tick() => {
                // Aside: a domain that does not answer holds nobody up. One at a time.
                if sweep.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                    let sessions = sessions.clone();
                    sweep = Some(tokio::spawn(async move { sessions.sweep().await }));
                }
                if connections.load(Ordering::Relaxed) > 0 || sessions.busy() {
                    idle_since = Instant::now();
                } else if settings.exit_when_idle && idle_since.elapsed() >= settings.orphan {
                    return Ok(());
                }
            }
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(50)).await; // out of descriptors, as a rule
                    continue;
                };
                let ours = rustix::process::geteuid();
                let theirs = rustix::net::sockopt::socket_peercred(stream.as_fd()).map(|c| c.uid);
                let allowed = theirs.is_ok_and(|uid| uid == ours || uid.is_root());
                if !allowed || connections.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
                    continue; // hung up
                }
                connections.fetch_add(1, Ordering::Relaxed);
                let (sessions, connections) = (sessions.clone(), connections.clone());
                tokio::spawn(async move {
                    connection::serve(stream, sessions).await;
                    connections.fetch_sub(1, Ordering::Relaxed);
                });
            }
        }
    }
}
