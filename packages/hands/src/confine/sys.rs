//! Raw system calls of the domain process, each behind a safe function.
//!
//! Owns: every `unsafe` block of processes and signals. Must not know: why something is called.
#![allow(unsafe_code)] // thin wrappers over libc, each with its reason

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `-1` as the error it stands for.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn retry(mut call: impl FnMut() -> i32) -> io::Result<i32> {
    loop {
        match check(call()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// `prctl` with plain numbers.
pub(crate) fn prctl(option: i32, argument: libc::c_ulong) -> io::Result<i32> {
    let none: libc::c_ulong = 0;
    // SAFETY: the options used here take numbers, no pointers.
    check(unsafe { libc::prctl(option, argument, none, none, none) })
}

/// Moves standard input to a descriptor of its own and puts `/dev/null` in its place.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    let taken = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = std::fs::File::options().read(true).open("/dev/null")?;
    duplicate_onto(null.as_raw_fd(), 0)?;
    Ok(taken)
}

/// The kernel sends `signal` when the thread that started this process is gone.
pub(crate) fn die_with_parent(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(signal.cast_unsigned())).map(drop)
}

/// No other process of the same user can look into this one.
pub(crate) fn not_dumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0).map(drop)
}

/// Orphaned descendants become children of this process.
pub(crate) fn become_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map(drop)
}

/// Set-user-id programs give nothing from now on.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// Forks. The child runs `child` and ends, without ever returning. Only for single-threaded processes.
pub(crate) fn fork(child: impl FnOnce()) -> io::Result<i32> {
    // SAFETY: the calling process has one thread, so no lock can be held by a thread that the child lacks.
    match check(unsafe { libc::fork() })? {
        0 => {
            child();
            // SAFETY: ends this process without running the parent's destructors a second time.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(pid),
    }
}

/// What [`reap`] found.
pub(crate) enum Reaped {
    /// A child is gone: its exit code, or the signal that killed it.
    Child(i32, Result<i32, i32>),
    /// Children, but none that is gone.
    NoneYet,
    /// No children at all.
    NoChildren,
}

/// Collects a child that is gone, without waiting.
pub(crate) fn reap() -> io::Result<Reaped> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match retry(|| unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }) {
        Ok(0) => Ok(Reaped::NoneYet),
        Ok(pid) if libc::WIFEXITED(status) => Ok(Reaped::Child(pid, Ok(libc::WEXITSTATUS(status)))),
        Ok(pid) => Ok(Reaped::Child(pid, Err(libc::WTERMSIG(status)))),
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(Reaped::NoChildren),
        Err(e) => Err(e),
    }
}

/// Signals a process group. A group that is gone is fine.
pub(crate) fn kill_group(leader: i32, signal: i32) {
    if leader > 1 {
        // SAFETY: no memory is involved.
        unsafe { libc::kill(-leader, signal) };
    }
}

/// Kills everybody this process may signal, at once: nobody forks out of it. Only for a process whose signals are kept
/// inside of its own domain.
pub(crate) fn kill_everybody() {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: an all-zero `sigset_t` is valid, and the calls only write to it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Blocks signals, so that they can be waited for.
pub(crate) fn block_signals(signals: &[i32]) -> io::Result<()> {
    let set = set_of(signals);
    // SAFETY: `set` outlives the call; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) }).map(drop)
}

/// Waits for one of `signals`, which are blocked.
pub(crate) fn wait_signal(signals: &[i32]) -> io::Result<i32> {
    let set = set_of(signals);
    // SAFETY: `set` outlives the call; no details are asked for.
    retry(|| unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) })
}

/// A descriptor that is readable while one of `signals`, which are blocked, is pending.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    // SAFETY: `set` outlives the call, and a fresh descriptor is nobody else's.
    unsafe {
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Takes what is pending.
pub(crate) fn drain_signal_fd(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut bytes = [0; 1024];
    loop {
        match rustix::io::read(fd, &mut bytes) {
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(rustix::io::Errno::INTR) | Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Waits until one of two descriptors is readable or hung up; says which.
pub(crate) fn wait_readable(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<(bool, bool)> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::from_borrowed_fd(a, PollFlags::IN), PollFd::from_borrowed_fd(b, PollFlags::IN)];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// A process session and group of its own.
pub(crate) fn new_session() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setsid() }).map(drop)
}

/// Makes descriptor `to` a copy of `from`.
pub(crate) fn duplicate_onto(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: used for the standard descriptors only, which no Rust object owns.
    retry(|| unsafe { libc::dup2(from, to) }).map(drop)
}

/// Every descriptor from `first` on is closed when a program is executed.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: sets a flag on descriptors; none is closed.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Default actions and an empty mask, as a program expects them.
pub(crate) fn default_signals() -> io::Result<()> {
    let none = set_of(&[]);
    // SAFETY: default actions run no code of ours; `none` outlives the call.
    unsafe {
        for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGCHLD] {
            libc::signal(signal, libc::SIG_DFL);
        }
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())).map(drop)
    }
}

/// Ignores a signal for good.
pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: ignoring runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Replaces this process; returns only if that failed.
pub(crate) fn exec(program: &CStr, args: &[&CStr], environment: &[CString]) -> io::Error {
    let pointers = |list: &mut dyn Iterator<Item = *const libc::c_char>| -> Vec<*const libc::c_char> {
        list.chain(std::iter::once(std::ptr::null())).collect()
    };
    let argv = pointers(&mut args.iter().map(|a| a.as_ptr()));
    let envp = pointers(&mut environment.iter().map(|e| e.as_ptr()));
    // SAFETY: both lists end with a null pointer, and what they point to outlives the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}
