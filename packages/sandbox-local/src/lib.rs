//! The local sandbox: finds the hands' daemon of a state folder, or starts it.
//!
//! Owns: the daemon's start (detached, with an empty environment and no inherited files) and its level. Must not know:
//! frames, or how commands are confined.

mod start;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use torpor_core::sandbox::{Error, Forgotten, Open, Sandbox, SandboxTransport};
use torpor_core::{Epoch, SessionKey};
use torpor_exec_channel::{Client, Options, Session, Source, message};
use torpor_hands::{Level, Limits, Settings};

pub use start::Dialer;

/// The name of this sandbox in [`torpor_core::sandbox::Identity`].
pub const NAME: &str = "local";
/// How long a connection to the daemon, and its start, may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the local sandbox is.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the daemon: socket, journals, workspaces. One daemon a folder.
    pub state_dir: PathBuf,
    /// The least confinement that will do.
    pub allow: Level,
    /// Folders below which a session may name a workspace.
    pub workspace_roots: Vec<PathBuf>,
    /// Further folders and files that commands may read and execute.
    pub readable: Vec<PathBuf>,
    /// Whether commands may use the network.
    pub network: bool,
    /// How long commands go on without a brain; an idle daemon ends after the same time.
    pub orphan: Duration,
    /// Search path of commands; `None` for the usual one.
    pub path: Option<String>,
    /// What a session may use.
    pub limits: Limits,
    /// The program that becomes the daemon when its first argument is [`torpor_hands::DAEMON_ARG`].
    pub program: PathBuf,
}

impl Config {
    /// The defaults, for a state folder and a program.
    #[must_use]
    pub fn new(state_dir: PathBuf, program: PathBuf) -> Self {
        let Settings { allow, orphan, .. } = Settings::new(PathBuf::new());
        Self {
            state_dir,
            allow,
            workspace_roots: Vec::new(),
            readable: Vec::new(),
            network: false,
            orphan,
            path: None,
            limits: Limits::default(),
            program,
        }
    }

    fn settings(&self) -> Settings {
        let defaults = Settings::new(self.state_dir.clone());
        Settings {
            allow: self.allow,
            network: self.network,
            orphan: self.orphan,
            exit_when_idle: true,
            readable: self.readable.clone(),
            limits: self.limits.clone(),
            path: self.path.clone().unwrap_or(defaults.path),
            ..defaults
        }
    }
}

/// The local sandbox. Cheap to clone; clones share one connection.
#[derive(Debug, Clone)]
pub struct Local {
    client: Source,
    config: Arc<Config>,
    level: Level,
}

impl Local {
    /// Finds out at which level commands will be confined: from the running daemon's note, or by trying. Blocking, a
    /// few milliseconds; starts no daemon.
    ///
    /// # Errors
    /// [`Error::None`] with the remedy, if commands cannot be confined as far as the configuration wants.
    pub fn new(config: Config) -> Result<Self, Error> {
        std::fs::create_dir_all(&config.state_dir)
            .map_err(|e| Error::None(format!("state folder {}: {e}", config.state_dir.display())))?;
        let state_dir = config.state_dir.canonicalize();
        let state_dir = state_dir.map_err(|e| Error::None(format!("{}: {e}", config.state_dir.display())))?;
        let config = Arc::new(Config { state_dir, ..config });
        let level = start::level(&config)?;
        let program = format!("torpor {}", env!("CARGO_PKG_VERSION"));
        let settings = Some(config.settings().digest());
        let options = Options { program, name: NAME.into(), patience: PATIENCE, settings };
        let client = Client::new(Dialer::new(config.clone()), options);
        Ok(Self { client, config, level })
    }

    /// The level at which commands are confined.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// What holds commands, without paths or processes: level and limits.
    ///
    /// # Errors
    /// When the hands cannot be reached.
    pub async fn walls(&self) -> Result<String, Error> {
        let hands = self.client.hands().await.map_err(reached)?;
        Ok(format!("local, level {}, {}", hands.level, hands.limits))
    }

    /// Opens a session for streaming: the same as [`SandboxTransport::open`], with the channel's own interface.
    ///
    /// # Errors
    /// As there.
    pub async fn open_session(&self, open: Open) -> Result<Session, Error> {
        self.workdir(&open.session, open.workspace.as_deref())?;
        let found = self.client.hands().await.map_err(reached)?.level;
        if found != self.level.as_str() {
            // The working directory was told from the note: better no sandbox than another one than was promised.
            start::forget(&self.config);
            let why = format!("the hands confine at level `{found}`, not `{}` as before: start again", self.level);
            return Err(Error::None(why));
        }
        // A root that is not UTF-8 has nothing below it that a session could name.
        let roots = || self.config.workspace_roots.iter().filter_map(|r| r.to_str()).map(str::to_owned).collect();
        let workspace = open.workspace.map(|path| message::Workspace { path, roots: roots() });
        let open = message::Open { session: open.session.digest(), epoch: open.epoch, born: open.born, workspace };
        self.client.open(open).await.map_err(reached)
    }
}

/// Hands of another version are those of the build before, on this machine: they end once they are idle, and their
/// successor knows from the journal what became of their calls. So a run waits for that, and does not fail.
fn reached(e: torpor_exec_channel::Error) -> Error {
    match e {
        torpor_exec_channel::Error::Version(what) => {
            Error::Busy(format!("the hands here are of another version and end when they are idle: {what}"))
        }
        other => other.into(),
    }
}

#[async_trait]
impl SandboxTransport for Local {
    fn workdir(&self, session: &SessionKey, workspace: Option<&str>) -> Result<String, Error> {
        if let Some(workspace) = workspace {
            // The daemon resolves links and decides; what is told apart without I/O is refused here.
            let below = |root: &PathBuf| Path::new(workspace).starts_with(root);
            if !Path::new(workspace).is_absolute() || !self.config.workspace_roots.iter().any(below) {
                return Err(Error::Refused(format!(
                    "workspace `{workspace}` is not below a folder that TORPOR_WORKSPACE_ROOTS names"
                )));
            }
        }
        if self.level == Level::Full {
            return Ok("/workspace".into());
        }
        Ok(workspace.map_or_else(
            || {
                let own = self.config.state_dir.join("sessions").join(session.digest()).join("leaf/workspace");
                own.display().to_string()
            },
            str::to_owned,
        ))
    }

    async fn open(&self, open: Open) -> Result<Arc<dyn Sandbox>, Error> {
        Ok(Arc::new(self.open_session(open).await?))
    }

    async fn forget(&self, session: &SessionKey, epoch: Epoch) -> Result<Forgotten, Error> {
        let session = session.digest();
        self.client.forget(message::Forget { session, epoch }).await.map_err(reached)
    }

    async fn probe(&self) -> Result<String, Error> {
        let hands = self.client.hands().await.map_err(reached)?;
        let (level, limits, pid, incarnation) = (hands.level, hands.limits, hands.pid, hands.incarnation);
        let socket = self.config.state_dir.join(torpor_hands::socket::NAME);
        Ok(format!(
            "local hands: level {level}, {limits}; pid {pid}, incarnation {incarnation}, socket {}",
            socket.display()
        ))
    }
}
