//! The worker of a command: a supervisor that outlives the shell just long enough to know how it ended.
//!
//! Owns: starting the shell with a clean environment in a session of its own, and collecting everything that descends
//! from it when it is to end. Must not know: time limits and output (the daemon's matter).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::protocol::{Inside, Report, write_report};
use crate::confine::sys;

/// Longest command in bytes: what the kernel takes as one argument, with its final NUL.
const MAX_COMMAND: usize = 128 * 1024 - 1;
/// Shells to look for, best first.
const SHELLS: [&str; 2] = ["bash", "sh"];

/// Where a command finds the trace that it is part of: the name that tools which speak W3C trace context look for. It
/// holds random numbers only; what other vendors said of the trace stays outside.
const TRACEPARENT: &str = "TRACEPARENT";

/// The environment of commands: nothing of the daemon's own. A command that is part of a trace has [`TRACEPARENT`] too.
pub(super) fn environment(inside: &Inside, path: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |p: &Path| p.as_os_str().as_bytes().to_vec();
    vec![
        ("PATH", path.into()),
        ("HOME", bytes(&inside.home)),
        ("TMPDIR", bytes(&inside.tmp)),
        ("PWD", bytes(&inside.workspace)),
        ("USER", "agent".into()),
        ("LOGNAME", "agent".into()),
        ("SHELL", "/bin/bash".into()),
        ("LANG", "C.UTF-8".into()),
        ("TERM", "dumb".into()),
        ("PAGER", "cat".into()),
        ("GIT_PAGER", "cat".into()),
        ("GIT_TERMINAL_PROMPT", "0".into()),
        ("DEBIAN_FRONTEND", "noninteractive".into()),
    ]
}

/// Everything `execve` needs, made once a domain.
pub(super) struct Shell {
    program: CString,
    environment: Vec<CString>,
    workdir: PathBuf,
}

impl Shell {
    /// Finds the shell on `path`.
    pub(super) fn find(inside: &Inside, path: &str) -> Result<Self, String> {
        let found = SHELLS
            .iter()
            .flat_map(|name| path.split(':').map(move |dir| Path::new(dir).join(name)))
            .find(|p| p.is_file())
            .ok_or_else(|| format!("neither `bash` nor `sh` was found on PATH ({path})"))?;
        let nul = |_| "a NUL character in the environment".to_owned();
        let environment = environment(inside, path)
            .into_iter()
            .map(|(k, v)| CString::new([k.as_bytes(), b"=", &v].concat()).map_err(nul))
            .collect::<Result<_, _>>()?;
        let program = CString::new(found.as_os_str().as_bytes()).map_err(nul)?;
        Ok(Self { program, environment, workdir: inside.workspace.clone() })
    }

    /// The shell for one command of a trace.
    fn with_trace(&self, traceparent: &str) -> Result<Self, std::ffi::NulError> {
        let mut environment = self.environment.clone();
        environment.push(CString::new(format!("{TRACEPARENT}={traceparent}"))?);
        Ok(Self { program: self.program.clone(), environment, workdir: self.workdir.clone() })
    }

    /// Replaces this process.
    fn exec(&self, command: &CString) -> io::Error {
        let args = [&self.program, c"-c", command].map(|a: &std::ffi::CStr| a);
        if let Err(e) = std::env::set_current_dir(&self.workdir) {
            return io::Error::new(e.kind(), format!("working directory {}: {e}", self.workdir.display()));
        }
        sys::exec(&self.program, &args, &self.environment)
    }
}

/// Runs the command and writes its report. `streams` are its standard streams.
pub(super) fn supervise(
    (command, traceparent): (&str, Option<&str>),
    shell: &Shell,
    report: impl AsFd,
    streams: Vec<std::os::fd::OwnedFd>,
) {
    // One that could not be a variable is none.
    let traced = traceparent.and_then(|traceparent| shell.with_trace(traceparent).ok());
    let shell = traced.as_ref().unwrap_or(shell);
    let report = report.as_fd();
    let refused = if command.len() > MAX_COMMAND {
        Some(format!(
            "the command has {} bytes, at most {MAX_COMMAND} can be started: write it to a file and run that",
            command.len()
        ))
    } else {
        None
    };
    let outcome = match (refused, CString::new(command), streams.len()) {
        (Some(why), ..) => Some(Report::NotStarted(why)),
        (_, Err(_), _) => Some(Report::NotStarted("the command contains a NUL character".into())),
        (_, Ok(command), 3) => match run(&command, shell, report, streams) {
            Ok(outcome) => outcome,
            Err(e) => Some(Report::NotStarted(format!("the command could not be started: {e}"))),
        },
        (_, Ok(_), n) => Some(Report::NotStarted(format!("{n} standard streams instead of 3"))),
    };
    if let Some(outcome) = outcome {
        let _ = write_report(report, &outcome);
    }
}

/// `None`: the child could not execute the shell and wrote the report itself.
fn run(
    command: &CString,
    shell: &Shell,
    report: BorrowedFd<'_>,
    mut streams: Vec<std::os::fd::OwnedFd>,
) -> io::Result<Option<Report>> {
    // What the command leaves behind comes to this process, however often it forked in between.
    sys::become_subreaper()?;
    let child = sys::fork(|| {
        let started = (|| {
            sys::new_session()?;
            // Without input the daemon hands over the machine's `/dev/null`; the one in here cannot be changed.
            let input = streams.first().map(rustix::fs::fstat).transpose()?;
            if input.is_some_and(|i| rustix::fs::FileType::from_raw_mode(i.st_mode).is_char_device()) {
                streams[0] = std::fs::File::open("/dev/null")?.into();
            }
            for (to, from) in streams.iter().enumerate() {
                sys::duplicate_onto(from.as_raw_fd(), i32::try_from(to).unwrap_or(0))?;
            }
            sys::close_on_exec_from(3)?;
            sys::default_signals()
        })();
        let e = match started {
            Ok(()) => shell.exec(command),
            Err(e) => e,
        };
        let _ = write_report(report, &Report::NotStarted(format!("the command could not be started: {e}")));
    })?;
    drop(streams); // the pipes end with the command, not with this process
    let (mut status, mut ending) = (None, false);
    loop {
        match sys::wait_signal(&[libc::SIGCHLD, libc::SIGTERM])? {
            libc::SIGTERM => {
                ending = true;
                sys::kill_group(child, libc::SIGTERM);
            }
            _ => {
                let left = loop {
                    match sys::reap()? {
                        sys::Reaped::Child(pid, s) if pid == child => status = Some(s),
                        sys::Reaped::Child(..) => {}
                        sys::Reaped::NoneYet => break true,
                        sys::Reaped::NoChildren => break false,
                    }
                };
                // Told to end, it stays until everything is gone, so that nothing escapes to init meanwhile.
                if status.is_some() && (!ending || !left) {
                    break;
                }
            }
        }
    }
    let written = super::protocol::read_report(report)?.is_some();
    Ok(if written { None } else { status.map(|s| s.map_or_else(Report::Signalled, Report::Exited)) })
}
