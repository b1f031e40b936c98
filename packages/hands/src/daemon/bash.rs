//! Running a command.
//!
//! Owns: time limits, pipes, the end of everything that descends from the command, and the text of its result. Must
//! not know: how it is confined.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use torpor_core::message::ToolResult;
use torpor_core::trace;
use torpor_exec_channel::frame::Frame;
use torpor_exec_channel::message::{Ended, Exit};
use torpor_tools::output::{BashEnd, format_bash};

use super::call::{Call, KILL_GRACE, TERM_GRACE, tool_end};
use super::session::Session;
use super::session::watch::over_memory;
use crate::domain::protocol::{Job, Report};
use crate::domain::{Domain, handle::Running};
use crate::output::{Output, Source};

/// Time limit of a command that names none, in seconds.
pub(super) const DEFAULT_TIMEOUT: u64 = 600;
/// Longest time limit in seconds.
pub(super) const MAX_TIMEOUT: u64 = 86_400;
/// How long output is still awaited when the shell has exited and something in the background holds its pipes.
const PIPE_GRACE: Duration = Duration::from_millis(200);
/// Room in the pipes of a command, so that it seldom has to wait for the hands.
const PIPE_SIZE: usize = 256 * 1024;
/// Bytes read at a time.
const READ_SIZE: usize = 256 * 1024;

/// How a shell ends whose last command was killed.
const KILLED: i32 = 128 + libc::SIGKILL;

/// The input of a command, as its connection hands it on. It ends when the connection does.
pub(super) struct Input {
    /// What was sent.
    pub(super) from: mpsc::UnboundedReceiver<Bytes>, // bounded by `left`
    /// Bytes that may still be sent.
    pub(super) left: Arc<AtomicUsize>,
    /// Where credit goes.
    pub(super) credit: mpsc::Sender<Frame>,
    /// On which stream.
    pub(super) stream: u32,
}

/// What a command was asked to do.
struct Order<'a> {
    command: &'a str,
    timeout: Duration,
}

impl<'a> Order<'a> {
    fn read(call: &'a Call) -> Result<Self, String> {
        let input = call.input();
        let command = input.get("command").and_then(|c| c.as_str()).ok_or("bash needs `command`, a string")?;
        let seconds = match input.get("timeout") {
            None | Some(serde_json::Value::Null) => DEFAULT_TIMEOUT as f64,
            Some(t) => t.as_f64().ok_or("`timeout` must be a number of seconds")?,
        };
        if !(seconds > 0.0 && seconds <= MAX_TIMEOUT as f64) {
            return Err(format!("`timeout` must be above 0 and at most {MAX_TIMEOUT} seconds, got {seconds}"));
        }
        Ok(Self { command, timeout: Duration::from_secs_f64(seconds) })
    }
}

/// Runs the command to its end.
pub(super) async fn run(session: &Session, call: &Arc<Call>) -> Ended {
    let started = async {
        let order = Order::read(call)?;
        session.may_write("bash").await?;
        let domain = session.domain().await?;
        let output = Arc::new(session.outputs.create(call.position()));
        call.set_output(output.clone());
        let kills = domain.memory_kills();
        let traceparent = call.trace().map(trace::Context::traceparent);
        let job = Job::Bash { command: order.command.to_owned(), traceparent };
        let pipes = spawn(&domain, &job, call, &output).await;
        let (running, pumps) = pipes.map_err(|e| format!("the command could not be started: {e}"))?;
        Ok::<_, String>((order, domain, output, running, pumps, kills))
    };
    let (order, domain, output, mut running, mut pumps, kills) = match started.await {
        Ok(all) => all,
        Err(why) => return tool_end(why, true, Exit::NotStarted),
    };
    let cut = tokio::select! {
        () = running.ended() => None,
        () = sleep(order.timeout) => Some(Exit::Timeout(order.timeout.as_secs_f64().ceil() as u64)),
        () = call.cancelled() => Some(call.cut()),
    };
    if cut.is_some() {
        end(session, &domain, &mut running).await;
    }
    let drained = async {
        for pump in &mut pumps {
            let _ = pump.await;
        }
    };
    let _ = timeout(PIPE_GRACE, drained).await;
    // What is left in the background may go on writing: its pipes are emptied into nothing until it ends.
    let report = running.report();
    let killed = matches!(report, Some(Report::Signalled(libc::SIGKILL) | Report::Exited(KILLED)) | None);
    let cut = match cut {
        None if killed && domain.memory_kills() > kills => {
            Some(Exit::Over(over_memory(session.shared.settings.limits.memory)))
        }
        cut => cut,
    };
    result(session, call, &output, cut, report)
}

/// Makes the pipes and hands the command over.
async fn spawn(
    domain: &Domain,
    job: &Job,
    call: &Arc<Call>,
    output: &Arc<Output>,
) -> io::Result<(Running, [JoinHandle<()>; 2])> {
    let (out, out_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let (err, err_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let _ = fcntl_setpipe_size(&out, PIPE_SIZE); // refused beyond the user's share: the usual size will do
    let input: OwnedFd = match call.take_input() {
        Some(input) => {
            let (end, to) = pipe_with(PipeFlags::CLOEXEC)?;
            feed(input, to, call.clone())?;
            end
        }
        None => std::fs::File::open("/dev/null")?.into(),
    };
    let running = domain.run(job, &[input.as_fd(), out_end.as_fd(), err_end.as_fd()]).await?;
    drop((input, out_end, err_end));
    let out = tokio::spawn(pump(receiver(out)?, Source::Stdout, output.clone()));
    let err = tokio::spawn(pump(receiver(err)?, Source::Stderr, output.clone()));
    Ok((running, [out, err]))
}

fn receiver(fd: OwnedFd) -> io::Result<pipe::Receiver> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    pipe::Receiver::from_owned_fd_unchecked(fd)
}

/// Writes what comes to the command's input, and grants as much again.
fn feed(mut input: Input, to: OwnedFd, call: Arc<Call>) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&to, true)?;
    let mut to = pipe::Sender::from_owned_fd_unchecked(to)?;
    tokio::spawn(async move {
        let copy = async {
            while let Some(data) = input.from.recv().await {
                if to.write_all(&data).await.is_err() {
                    return;
                }
                input.left.fetch_add(data.len(), Ordering::Relaxed);
                let n = u32::try_from(data.len()).unwrap_or(u32::MAX);
                let _ = input.credit.send(Frame::credit(input.stream, n)).await;
            }
        };
        tokio::select! {
            () = copy => {}
            _ = call.wait() => {}
        }
    });
    Ok(())
}

/// Empties a pipe into the output, always at once: a command never waits for a reader.
async fn pump(from: pipe::Receiver, source: Source, output: Arc<Output>) {
    thread_local! {
        // One buffer for all pipes: it is never held across an await.
        static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; READ_SIZE]);
    }
    loop {
        if from.readable().await.is_err() {
            return;
        }
        let read = BUFFER.with_borrow_mut(|buffer| {
            let read = from.try_read(buffer);
            if let Ok(n) = read {
                output.append(source, &buffer[..n]);
            }
            read
        });
        match read {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Ends a command and all that descends from it: politely, then not.
async fn end(session: &Session, domain: &Arc<Domain>, running: &mut Running) {
    domain.terminate(running).await;
    if timeout(TERM_GRACE, running.ended()).await.is_ok() {
        return;
    }
    domain.kill(running).await;
    if timeout(KILL_GRACE, running.ended()).await.is_err() {
        session.drop_domain(domain).await;
    }
}

fn result(session: &Session, call: &Call, output: &Output, cut: Option<Exit>, report: Option<Report>) -> Ended {
    // The end of the domain may be noticed before the reason for it.
    let cut = if report.is_none() { cut.or_else(|| Some(call.cut()).filter(|c| *c != Exit::Cancelled)) } else { cut };
    let summary = output.finish();
    let extent = summary.extent;
    session.outputs.stored(extent.head + extent.tail);
    let exit = match (cut, report) {
        (Some(cut), _) => cut,
        (None, Some(Report::Exited(code))) => Exit::Code(code),
        (None, Some(Report::Signalled(signal))) => Exit::Signal(signal),
        (None, Some(Report::NotStarted(why))) => return tool_end(why, true, Exit::NotStarted),
        (None, Some(Report::Answer(_)) | None) => Exit::Signal(libc::SIGKILL), // the sandbox process was killed
    };
    let path = session.outputs.path_inside(call.position());
    let end = BashEnd {
        exit: if let Exit::Code(code) = exit { Some(code) } else { None },
        signal: if let Exit::Signal(signal) = exit { Some(signal) } else { None },
        timed_out_after: if let Exit::Timeout(seconds) = exit { Some(seconds) } else { None },
        aborted: exit == Exit::Cancelled,
        over: if let Exit::Over(why) = &exit { Some(why) } else { None },
        tail: &summary.tail,
        total_bytes: extent.total,
        total_lines: summary.lines,
        missing_bytes: extent.total - extent.head - extent.tail,
        output_path: Some(&path),
    };
    let text = format_bash(&end);
    let result = if text.is_error { ToolResult::error(text.text) } else { ToolResult::text(text.text) };
    Ended { exit, result: Some(result), output: extent }
}
