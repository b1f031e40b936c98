//! Arguments of the hands, and the process around each way to run.
//!
//! Owns: exit codes, readiness line, the pipe of `attach`. Must not know: frames.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use crate::settings::Settings;
use crate::{DAEMON_ARG, DOMAIN_ARG, PROBE_ARG, daemon, domain, socket};

/// Bytes that `attach` passes on at a time.
const COPY_SIZE: usize = 128 * 1024;
/// First line of a daemon that is ready.
pub const READY: &str = "ready";
/// First line of a daemon that ends because there is one already.
pub const ALREADY: &str = "already running";
const USAGE: &str = "usage: torpor-hands daemon --state DIR [--allow full|reduced|unconfined] [--prefer LEVEL] [--network] \
    [--orphan-ms N] [--tool-limit-ms N] [--exit-when-idle] [--readable PATH]... [--path PATH]\n       \
    torpor-hands attach --state DIR\n       torpor-hands probe --state DIR [--allow LEVEL]";

pub(crate) fn run(args: Vec<OsString>) -> ExitCode {
    let (first, rest) = args.split_first().map_or((String::new(), &[][..]), |(f, r)| (f.to_string_lossy().into(), r));
    let outcome = match first.as_str() {
        DOMAIN_ARG => return domain::main(),
        DAEMON_ARG | "daemon" => settings(rest).and_then(daemon_main),
        PROBE_ARG | "probe" => settings(rest).and_then(probe_main),
        "attach" => settings(rest).and_then(attach_main),
        "--version" => {
            println!("torpor-hands {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("torpor-hands: {e}");
            ExitCode::FAILURE
        }
    }
}

fn settings(args: &[OsString]) -> Result<Settings, String> {
    Settings::parse(args).map_err(|e| format!("{e}\n{USAGE}"))
}

/// One thread: domains die with the thread that started them, and it is plenty.
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(16).build();
    built.map_err(|e| format!("no runtime: {e}"))
}

fn daemon_main(settings: Settings) -> Result<(), String> {
    let result = runtime()?.block_on(daemon::run(settings, say));
    if let Err(e) = &result {
        say(&e.to_string()); // whoever started this waits for a line
    }
    result.map_err(|e| e.to_string())
}

/// One line for the process that started this one. It may be gone.
fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{}", line.replace('\n', " "));
    let _ = out.flush();
}

fn probe_main(settings: Settings) -> Result<(), String> {
    let level = runtime()?.block_on(daemon::probe(&settings)).map_err(|e| e.to_string())?;
    say(level.as_str());
    Ok(())
}

/// Joins standard input and output to the daemon's socket. Two threads and blocking copies: a pipe, no more.
fn attach_main(settings: Settings) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("no daemon at {}: {e}", settings.state.display());
    let (address, dir) = socket::address(&settings.state).map_err(failed)?;
    let mut from = UnixStream::connect(address).map_err(failed)?;
    drop(dir);
    let mut to = from.try_clone().map_err(failed)?;
    // Not joined: it may wait for standard input when the daemon has hung up, and ends with the process. Both ends are
    // used without the standard library's buffers, which would hold frames back.
    let mut input = std::fs::File::from(rustix::io::dup(rustix::stdio::stdin()).map_err(|e| e.to_string())?);
    let mut out = std::fs::File::from(rustix::io::dup(rustix::stdio::stdout()).map_err(|e| e.to_string())?);
    std::thread::spawn(move || {
        let _ = join(&mut input, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    match join(&mut from, &mut out) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("the channel broke: {e}")),
        _ => Ok(()),
    }
}

/// Copies until the end, passing on every piece as it comes. (`std::io::copy` would splice pipe and socket together, and
/// that waits for more where a frame should already be on its way.)
fn join(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut buffer = vec![0; COPY_SIZE];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buffer[..n])?,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
