//! The domain's own process: sets up the confinement, then serves as init.
//!
//! Owns: the order of the set-up, forking workers, reaping, and dying with the daemon. Must not know: what calls mean.
//!
//! Two processes: the outer one stays outside of the confinement and only waits, so that nothing inside can keep it
//! from cleaning up; the inner one is process 1 of its namespace where there is one. Both are single-threaded, which
//! is what makes it safe to fork and to change namespaces here.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::command::Shell;
use super::protocol::{FromDomain, Inside, Job, Report, Setup, ToDomain, read_job, receive, send, write_report};
use super::{command, tool, tree};
use crate::confine::{self, sys};
use crate::level::Level;

/// Pause between looks at whether everybody is gone.
const REAP_PAUSE: Duration = Duration::from_millis(1);

/// Entry of the domain program. Standard input is the socket to the daemon.
pub(crate) fn main() -> ExitCode {
    match outer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("torpor-hands: domain: {e}");
            ExitCode::FAILURE
        }
    }
}

fn outer() -> io::Result<()> {
    let control = sys::take_stdin()?;
    sys::die_with_parent(libc::SIGTERM)?;
    let Some((ToDomain::Setup(setup), _)) = receive(control.as_fd())? else {
        return Err(io::Error::other("the daemon went away before it said what to set up"));
    };
    sys::block_signals(&[libc::SIGCHLD, libc::SIGTERM])?;
    // On a machine that runs out of memory, commands go before the brain and the daemon.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    if let Some(group) = &setup.cgroup
        && let Err(e) = fs::write(group.join("cgroup.procs"), "0")
    {
        return send(control.as_fd(), &FromDomain::Failed { message: format!("control group: {e}") }, &[]);
    }
    if let Err(e) = confine::enter_outer(&setup) {
        return send(control.as_fd(), &FromDomain::Failed { message: e.to_string() }, &[]);
    }
    // Again: changing the user namespace may have cleared it.
    sys::die_with_parent(libc::SIGTERM)?;
    sys::not_dumpable()?;
    if setup.level != Level::Full {
        sys::become_subreaper()?;
    }
    let child = sys::fork(|| {
        if let Err(e) = inner(&setup, &control) {
            let _ = send(control.as_fd(), &FromDomain::Failed { message: e.to_string() }, &[]);
        }
    })?;
    drop(control);
    let mut gone = false;
    while !gone && sys::wait_signal(&[libc::SIGCHLD, libc::SIGTERM])? == libc::SIGCHLD {
        gone = is_gone(child)?;
    }
    if let Some(child) = Pid::from_raw(child).filter(|_| !gone) {
        let _ = kill_process(child, Signal::KILL); // with it goes its whole process namespace, if it has one
    }
    match setup.level {
        // Once it can be collected, nobody is left in its namespace.
        Level::Full => {
            while !gone {
                sys::wait_signal(&[libc::SIGCHLD])?;
                gone = is_gone(child)?;
            }
        }
        Level::Reduced => end_everybody(),
        Level::Unconfined => drop(tree::kill_descendants(std::process::id().cast_signed())),
    }
    Ok(())
}

/// Collects who has ended; whether the inner process, `child`, is among them.
fn is_gone(child: i32) -> io::Result<bool> {
    loop {
        match sys::reap()? {
            sys::Reaped::Child(pid, _) if pid == child => return Ok(true),
            sys::Reaped::Child(..) => {}
            sys::Reaped::NoneYet => return Ok(false),
            sys::Reaped::NoChildren => return Ok(true),
        }
    }
}

/// What the inner process leaves behind comes to this one, and signals stay below it.
fn end_everybody() {
    sys::kill_everybody();
    while !matches!(sys::reap(), Ok(sys::Reaped::NoChildren) | Err(_)) {
        sys::kill_everybody();
        std::thread::sleep(REAP_PAUSE);
    }
}

fn inner(setup: &Setup, control: &OwnedFd) -> io::Result<()> {
    sys::die_with_parent(libc::SIGKILL)?;
    let signals = sys::signal_fd(&[libc::SIGCHLD])?;
    let inside = setup.inside();
    confine::enter_inner(setup)?;
    if setup.level != Level::Full {
        sys::become_subreaper()?;
    }
    sys::not_dumpable()?;
    std::env::set_current_dir(&inside.workspace)?;
    let shell = Shell::find(&inside, &setup.path).map_err(io::Error::other)?;
    send(control.as_fd(), &FromDomain::Ready, &[])?;
    Init { control, signals, inside, shell, workers: HashMap::new() }.serve()
}

/// A worker under way.
struct Worker {
    pid: i32,
    is_tool: bool,
}

struct Init<'a> {
    control: &'a OwnedFd,
    signals: OwnedFd,
    inside: Inside,
    shell: Shell,
    workers: HashMap<u64, Worker>,
}

impl Init<'_> {
    /// Serves until the daemon goes away.
    fn serve(mut self) -> io::Result<()> {
        loop {
            let (message, child) = sys::wait_readable(self.control.as_fd(), self.signals.as_fd())?;
            if child {
                self.reap()?;
            }
            if message {
                let Some((message, fds)) = receive(self.control.as_fd())? else { return Ok(()) };
                self.act(message, fds)?;
            }
        }
    }

    fn act(&mut self, message: ToDomain, fds: Vec<OwnedFd>) -> io::Result<()> {
        match message {
            ToDomain::Setup(_) => Err(io::Error::other("set up twice")),
            ToDomain::Start { call } => self.start(call, fds),
            ToDomain::Term { call } => {
                if let Some(pid) = self.workers.get(&call).and_then(|w| Pid::from_raw(w.pid)) {
                    let _ = kill_process(pid, Signal::TERM);
                }
                Ok(())
            }
            ToDomain::Kill { call } => {
                if let Some(worker) = self.workers.get(&call) {
                    // A supervisor ends by itself once nothing is left below it, and then knows how it ended; unless the
                    // command has stopped it.
                    let clean = tree::kill_descendants(worker.pid);
                    let signal = if worker.is_tool || !clean { Signal::KILL } else { Signal::CONT };
                    if let Some(pid) = Pid::from_raw(worker.pid) {
                        let _ = kill_process(pid, signal);
                    }
                }
                Ok(())
            }
            ToDomain::Count => {
                let processes = tree::descendants(std::process::id().cast_signed()).len();
                send(self.control.as_fd(), &FromDomain::Count { processes }, &[])
            }
        }
    }

    fn start(&mut self, call: u64, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut fds = fds.into_iter();
        let (Some(job), Some(report)) = (fds.next(), fds.next()) else {
            return Err(io::Error::other("a start without job and report"));
        };
        let streams: Vec<OwnedFd> = fds.collect();
        let is_tool = streams.is_empty();
        let forked = sys::fork(|| self.work(&job, report.as_fd(), streams));
        match forked {
            Ok(pid) => {
                self.workers.insert(call, Worker { pid, is_tool });
                Ok(())
            }
            Err(e) => {
                write_report(&report, &Report::NotStarted(format!("no process could be started: {e}")))?;
                send(self.control.as_fd(), &FromDomain::Ended { call }, &[])
            }
        }
    }

    /// The worker's life, in a process of its own.
    fn work(&self, job: &OwnedFd, report: BorrowedFd<'_>, streams: Vec<OwnedFd>) {
        match read_job(job) {
            Ok(Job::Bash { command, traceparent }) => {
                command::supervise((&command, traceparent.as_deref()), &self.shell, report, streams);
            }
            Ok(Job::Tool { name, input }) => tool::work(&name, &input, &self.inside.workspace, report),
            Err(e) => {
                let _ = write_report(report, &Report::NotStarted(format!("the job could not be read: {e}")));
            }
        }
    }

    /// A supervisor that was killed, by its own command as a rule, left to init what it should have collected. Nobody can
    /// tell that from what earlier commands left in the background: all of it goes.
    ///
    /// # Errors
    /// When something escapes: the whole domain is to end.
    fn end_orphans(&self) -> io::Result<()> {
        let spared: Vec<i32> = self.workers.values().map(|w| w.pid).collect();
        if tree::kill_descendants_apart(std::process::id().cast_signed(), &spared) {
            return Ok(());
        }
        Err(io::Error::other("processes outran the end of a command whose supervisor was killed"))
    }

    fn reap(&mut self) -> io::Result<()> {
        sys::drain_signal_fd(self.signals.as_fd())?;
        while let sys::Reaped::Child(pid, status) = sys::reap()? {
            let ended = self.workers.iter().find(|(_, w)| w.pid == pid).map(|(call, _)| *call);
            if let Some(call) = ended {
                let worker = self.workers.remove(&call);
                if status.is_err() && worker.is_some_and(|w| !w.is_tool) {
                    self.end_orphans()?;
                }
                send(self.control.as_fd(), &FromDomain::Ended { call }, &[])?;
            }
        }
        Ok(())
    }
}
