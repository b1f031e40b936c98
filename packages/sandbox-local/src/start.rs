//! Starting the daemon, and connecting to it.
//!
//! Owns: what the daemon inherits (nothing), how its readiness is learned (one line on a pipe), and the note of its
//! level. Must not know: sessions.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;
use torpor_core::sandbox;
use torpor_exec_channel::message::{Code, Refused};
use torpor_exec_channel::{Dial, Error, Stream};
use torpor_hands::{DAEMON_ARG, Level, PROBE_ARG, cli, socket};

use crate::Config;

/// How long a daemon may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Name of the file that notes the level.
const NOTE: &str = "probed";
/// Longest text read from a daemon or probe that failed, in bytes.
const MAX_SAID: u64 = 16 * 1024;
/// Size from which the daemon's own log is begun anew at its next start, in bytes.
const MAX_LOG: u64 = 1024 * 1024;

/// Connects to the daemon of one state folder; starts it where there is none.
#[derive(Debug)]
pub struct Dialer {
    config: Arc<Config>,
}

impl Dialer {
    /// Dials for this configuration.
    #[must_use]
    pub fn new(config: Arc<Config>) -> Self {
        Self { config }
    }
}

#[async_trait]
impl Dial for Dialer {
    async fn dial(&self) -> Result<Box<dyn Stream>, Error> {
        let state = &self.config.state_dir;
        if let Ok(stream) = socket::connect(state).await {
            return Ok(Box::new(stream));
        }
        start(&self.config).await?;
        match socket::connect(state).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(e) => Err(Error::Unreachable(format!("the hands at {}: {e}", state.display()))),
        }
    }
}

/// Starts a daemon and waits until it is ready. One that finds another in its place is fine.
async fn start(config: &Config) -> Result<(), Error> {
    let failed = |what: String| Error::Unreachable(format!("the hands could not be started: {what}"));
    let log = log_file(&config.state_dir).map_err(|e| failed(format!("their log: {e}")))?;
    let mut command = Command::new(&config.program);
    command.arg(DAEMON_ARG).args(config.settings().to_args());
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    detach(&mut command);
    let mut child = command.spawn().map_err(|e| failed(format!("{}: {e}", config.program.display())))?;
    let Some(out) = child.stdout.take() else { return Err(failed("no pipe".into())) };
    // The child outlives this; when both live on, the runtime collects it.
    let mut line = String::new();
    let said = timeout(READY_WITHIN, BufReader::new(out).read_line(&mut line)).await;
    said.map_err(|_| failed(format!("not ready within {READY_WITHIN:?}")))?.map_err(|e| failed(e.to_string()))?;
    match line.trim() {
        cli::READY => {
            tracing::debug!(pid = child.id(), "hands started");
            Ok(())
        }
        cli::ALREADY => Err(failed(cli::ALREADY.into())), // it is starting or ending: worth another try
        "" => Err(failed(format!("they said nothing; see {}", config.state_dir.join("hands.log").display()))),
        why => {
            let message = format!("the hands did not start: {why}");
            Err(Error::Refused(Refused { code: Code::Failed, message, current: None }))
        }
    }
}

/// A session of its own, so that no terminal's or group's signal reaches it, and no descriptor of this process: the
/// store's lock must end with the brain.
#[allow(unsafe_code)] // code between fork and exec
fn detach(command: &mut Command) {
    // SAFETY: both calls are safe between fork and exec: they neither allocate nor take locks.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() == -1 {
                return Err(io::Error::last_os_error());
            }
            if libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

fn log_file(state: &Path) -> io::Result<File> {
    let path = state.join("hands.log");
    let fresh = fs::metadata(&path).is_ok_and(|m| m.len() > MAX_LOG);
    File::options().create(true).write(true).append(!fresh).truncate(fresh).open(path)
}

/// The level: as noted by the last daemon on this kernel that is allowed still, or found out by trying.
pub(crate) fn level(config: &Config) -> Result<Level, sandbox::Error> {
    let none = |why: String| sandbox::Error::None(why);
    let note = config.state_dir.join(NOTE);
    let question = question(config);
    if let Ok(text) = fs::read_to_string(&note)
        && let Some((level, asked)) = text.split_once('\n')
        && asked == question
        && let Ok(level) = level.parse()
    {
        return Ok(level);
    }
    let mut probe = std::process::Command::new(&config.program);
    probe.arg(PROBE_ARG).args(config.settings().to_args());
    probe.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |e: io::Error| none(format!("{} could not be run: {e}", config.program.display()));
    let mut child = probe.spawn().map_err(failed)?;
    let mut said = [String::new(), String::new()];
    if let Some(out) = child.stdout.take() {
        let _ = out.take(MAX_SAID).read_to_string(&mut said[0]);
    }
    if let Some(err) = child.stderr.take() {
        let _ = err.take(MAX_SAID).read_to_string(&mut said[1]);
    }
    child.wait().map_err(failed)?;
    let level: Level = said[0].trim().parse().map_err(|_| none(said[1].trim().to_owned()))?;
    let _ = fs::write(note, format!("{level}\n{question}")); // without the note it is tried again
    Ok(level)
}

/// Removes the note of the level.
pub(crate) fn forget(config: &Config) {
    let _ = fs::remove_file(config.state_dir.join(NOTE)); // if it stays, the next start says the same again
}

/// What the answer depends on: the kernel's start, the program, and what is asked for.
fn question(config: &Config) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let settings = config.settings();
    let (version, allow, network) = (env!("CARGO_PKG_VERSION"), settings.allow, settings.network);
    let readable = settings.readable;
    format!("{} {version} {allow} {network} {readable:?} {}", boot.trim(), settings.path)
}
