//! What the daemon is told at its start.
//!
//! Owns: the settings and their form as command line arguments. Must not know: where their values come from.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::cgroup::Choice;
use crate::level::Level;

/// How long a command may go on without a brain that waits for it, unless told otherwise.
pub const DEFAULT_ORPHAN: Duration = Duration::from_secs(600);
/// How long a file or search tool may take, unless told otherwise.
pub const DEFAULT_TOOL_LIMIT: Duration = Duration::from_secs(120);
/// Search path of commands, unless told otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a session may use. Where control groups can be had, the kernel holds it to memory and processes; disk, and memory
/// elsewhere, are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all its processes, in bytes.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Files that it made, in bytes on disk. The largest single file, too.
    pub disk: u64,
    /// What must be left free on the disks it writes to, in bytes; below that, commands end and none is started.
    pub min_free: u64,
    /// Where control groups are made.
    pub cgroup: Choice,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 4 << 30, processes: 2_048, disk: 10 << 30, min_free: 256 << 20, cgroup: Choice::Auto }
    }
}

/// Settings of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Folder of socket, journal and workspaces. Created with mode 0700.
    pub state: PathBuf,
    /// The least confinement that will do. The best one that works is used.
    pub allow: Level,
    /// The level to try first: [`Level::Full`], unless something weaker is wanted on purpose.
    pub prefer: Level,
    /// Whether commands may use the network.
    pub network: bool,
    /// How long a command may go on without a brain, and how long an idle daemon stays.
    pub orphan: Duration,
    /// How long a file or search tool may take: some files never end, or never begin. Commands bring limits of their own.
    pub tool_limit: Duration,
    /// Whether the daemon ends once it was idle for `orphan`.
    pub exit_when_idle: bool,
    /// Further folders and files that commands may read and execute.
    pub readable: Vec<PathBuf>,
    /// Search path of commands.
    pub path: String,
    /// What a session may use.
    pub limits: Limits,
}

impl Settings {
    /// The defaults, for a state folder.
    #[must_use]
    pub fn new(state: PathBuf) -> Self {
        Self {
            state,
            allow: Level::Full,
            prefer: Level::Full,
            network: false,
            orphan: DEFAULT_ORPHAN,
            tool_limit: DEFAULT_TOOL_LIMIT,
            exit_when_idle: false,
            readable: Vec::new(),
            path: DEFAULT_PATH.to_owned(),
            limits: Limits::default(),
        }
    }

    /// The arguments that [`Self::parse`] reads back.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--state".into(), self.state.clone().into()];
        let mut pair = |flag: &str, value: OsString| args.extend([flag.into(), value]);
        pair("--allow", self.allow.as_str().into());
        pair("--prefer", self.prefer.as_str().into());
        pair("--orphan-ms", self.orphan.as_millis().to_string().into());
        pair("--tool-limit-ms", self.tool_limit.as_millis().to_string().into());
        pair("--path", self.path.clone().into());
        let Limits { memory, processes, disk, min_free, cgroup } = &self.limits;
        for (flag, value) in
            [("--memory", memory), ("--processes", processes), ("--disk", disk), ("--min-free", min_free)]
        {
            pair(flag, value.to_string().into());
        }
        match cgroup {
            Choice::Auto => {}
            Choice::Off => pair("--cgroup", "off".into()),
            Choice::Below(path) => pair("--cgroup", path.clone().into()),
        }
        self.readable.iter().for_each(|r| pair("--readable", r.clone().into()));
        if self.network {
            args.push("--network".into());
        }
        if self.exit_when_idle {
            args.push("--exit-when-idle".into());
        }
        args
    }

    /// Stands for these settings: other settings, another digest.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut sum = Sha256::new();
        for arg in self.to_args() {
            sum.update((arg.len() as u64).to_be_bytes());
            sum.update(arg.as_bytes());
        }
        torpor_core::id::hex(&sum.finalize()[..16])
    }

    /// Reads arguments.
    ///
    /// # Errors
    /// A text that names the argument and what was expected.
    pub fn parse(args: &[OsString]) -> Result<Self, String> {
        let mut out = Self::new(PathBuf::new());
        let mut rest = args.iter();
        while let Some(flag) = rest.next() {
            let name = flag.to_string_lossy().into_owned();
            let mut value = || rest.next().cloned().ok_or_else(|| format!("{name} needs a value"));
            match name.as_str() {
                "--state" => out.state = value()?.into(),
                "--allow" => out.allow = text(value()?)?.parse()?,
                "--prefer" => out.prefer = text(value()?)?.parse()?,
                "--orphan-ms" => out.orphan = milliseconds(&name, value()?)?,
                "--tool-limit-ms" => out.tool_limit = milliseconds(&name, value()?)?,
                "--path" => out.path = text(value()?)?,
                "--memory" => out.limits.memory = number(&name, value()?)?,
                "--processes" => out.limits.processes = number(&name, value()?)?,
                "--disk" => out.limits.disk = number(&name, value()?)?,
                "--min-free" => out.limits.min_free = number(&name, value()?)?,
                "--cgroup" => {
                    out.limits.cgroup = match value()? {
                        v if v == "auto" => Choice::Auto,
                        v if v == "off" => Choice::Off,
                        path => Choice::Below(path.into()),
                    }
                }
                "--readable" => out.readable.push(value()?.into()),
                "--network" => out.network = true,
                "--exit-when-idle" => out.exit_when_idle = true,
                _ => return Err(format!("unknown argument `{name}`")),
            }
        }
        let group = if let Choice::Below(path) = &out.limits.cgroup { Some(("--cgroup", path)) } else { None };
        for (flag, path) in
            std::iter::once(("--state", &out.state)).chain(group).chain(out.readable.iter().map(|r| ("--readable", r)))
        {
            if !path.is_absolute() {
                return Err(format!("{flag} must be an absolute path, got `{}`", path.display()));
            }
        }
        Ok(out)
    }
}

fn text(value: OsString) -> Result<String, String> {
    value.into_string().map_err(|v| format!("`{}` is not UTF-8", v.to_string_lossy()))
}

fn milliseconds(flag: &str, value: OsString) -> Result<Duration, String> {
    number(flag, value).map(Duration::from_millis)
}

fn number(flag: &str, value: OsString) -> Result<u64, String> {
    let given = text(value)?;
    given.parse().map_err(|_| format!("{flag}: `{given}` is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_command_line() {
        let s = Settings {
            allow: Level::Unconfined,
            prefer: Level::Reduced,
            network: true,
            orphan: Duration::from_millis(1500),
            tool_limit: Duration::from_millis(2500),
            exit_when_idle: true,
            readable: vec!["/a b".into(), "/opt".into()],
            path: "/bin".into(),
            limits: Limits { memory: 1, processes: 2, disk: 3, min_free: 4, cgroup: Choice::Below("/c g".into()) },
            ..Settings::new("/state".into())
        };
        assert_eq!(Settings::parse(&s.to_args()), Ok(s));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (args, want) in [
            (vec!["--nope"], "unknown argument `--nope`"),
            (vec!["--state"], "--state needs a value"),
            (vec!["--state", "rel"], "--state must be an absolute path, got `rel`"),
            (vec!["--allow", "x"], "level `x` is unknown; expected `full`, `reduced` or `unconfined`"),
            (vec!["--orphan-ms", "-1"], "--orphan-ms: `-1` is no number"),
        ] {
            let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
            assert_eq!(Settings::parse(&args), Err(want.to_owned()));
        }
    }
}
