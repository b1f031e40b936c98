//! Measures what a call and a stream cost: `cargo run --release -p torpor-sandbox-local --example measure`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use torpor_core::sandbox::{Call, Open, Sandbox};
use torpor_core::{CallId, Epoch, Position, SessionKey};
use torpor_exec_channel::{Chunk, Session};
use torpor_hands::Level;
use torpor_sandbox_local::{Config, Local};

/// Calls of each kind.
const CALLS: u64 = 300;
/// Bytes streamed.
const STREAM: u64 = 64 * 1024 * 1024;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|a| torpor_hands::is_ours(a)) {
        return torpor_hands::main_entry(args.into_iter());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(|e| e.to_string()).and_then(|r| r.block_on(measure())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<(), String> {
    let dir = std::env::temp_dir().join(format!("torpor-measure-{}", std::process::id()));
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let config = Config { orphan: Duration::from_secs(1), allow: Level::Reduced, ..Config::new(dir.clone(), program) };
    let done = run(config).await;
    let _ = std::fs::remove_dir_all(dir);
    done
}

async fn run(config: Config) -> Result<(), String> {
    let text = |e: torpor_core::sandbox::Error| e.to_string();
    let begun = Instant::now();
    let local = Local::new(config).map_err(text)?;
    println!("probe: {:?} (level {})", begun.elapsed(), local.level());
    let session = SessionKey::new("default", "measure").map_err(|e| e.to_string())?;
    let begun = Instant::now();
    let open = Open { session: session.clone(), epoch: Epoch(1), born: Epoch(0), workspace: None };
    let session = local.open_session(open).await.map_err(text)?;
    println!("start of the daemon and open: {:?}", begun.elapsed());
    let mut position = 0;
    for (name, tool, input) in [
        ("first command (starts the domain)", "bash", json!({ "command": "true" })),
        ("bash true", "bash", json!({ "command": "true" })),
        ("write", "write", json!({ "path": "a", "content": "x" })),
        ("read", "read", json!({ "path": "a" })),
    ] {
        let count = if position == 0 { 1 } else { CALLS };
        let mut times = Vec::new();
        for _ in 0..count {
            position += 1;
            let begun = Instant::now();
            let (id, incarnation) = (id(&session, position), session.identity().incarnation.clone());
            let call = Call { id, incarnation, tool: tool.into(), input: input.clone(), run: None, trace: None };
            Sandbox::call(&session, call).await.map_err(text)?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
        println!("{name}: p50 {:?}, p95 {:?}", at(50), at(95));
    }
    for _ in 0..5 {
        position += 1;
        let begun = Instant::now();
        let input = json!({ "command": format!("head -c {STREAM} /dev/zero") });
        let started = session.exec_stream(id(&session, position), "bash", input, 0).await;
        let mut exec = started.map_err(|e| e.to_string())?;
        let mut bytes = 0;
        loop {
            match exec.next().await.map_err(|e| e.to_string())? {
                Chunk::Stdout { data, .. } | Chunk::Stderr { data, .. } => bytes += data.len(),
                Chunk::Gap { length, .. } => println!("gap of {length} bytes"),
                Chunk::Ended(_) => break,
            }
        }
        println!("{bytes} bytes streamed: {:?}; peak here {}", begun.elapsed(), peak("self"));
    }
    let about = torpor_core::sandbox::SandboxTransport::probe(&local).await.map_err(text)?;
    let pid = about.split("pid ").nth(1).and_then(|s| s.split(',').next()).unwrap_or("self");
    println!("peak of the daemon {}", peak(pid));
    Ok(())
}

fn id(session: &Session, position: u64) -> CallId {
    CallId { session: session.digest().to_owned(), position: Position(position) }
}

fn peak(pid: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let find = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("?").trim().to_owned();
    format!("{} (anonymous now {})", find("VmHWM:"), find("RssAnon:"))
}
