//! Who descends from whom.
//!
//! Owns: reading the process table. Must not know: why somebody asks.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long [`kill_descendants`] goes on looking for processes that were forked meanwhile, or that have yet to notice
/// that they were killed (on a busy machine that takes a turn of the processor each).
const PATIENCE: Duration = Duration::from_millis(1500);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Living processes below `root`, without `root` itself and without zombies.
pub(super) fn descendants(root: i32) -> Vec<i32> {
    descendants_apart(root, &[])
}

/// The same without those in `spared` and what is below them.
fn descendants_apart(root: i32, spared: &[i32]) -> Vec<i32> {
    below(&table(), root, spared).into_iter().map(|p| p.pid).collect()
}

#[derive(Clone, Copy)]
struct Process {
    pid: i32,
    alive: bool,
    /// Pages in memory.
    pages: u64,
}

/// All processes, by their parents.
fn table() -> HashMap<i32, Vec<Process>> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name in parentheses may hold anything: what counts begins after the last one.
        let mut fields = stat.rsplit(") ").next().unwrap_or("").split(' ');
        let (state, parent) = (fields.next(), fields.next().and_then(|p| p.parse().ok()));
        if let Some(parent) = parent {
            let pages = fields.nth(19).and_then(|p| p.parse().ok()).unwrap_or(0);
            let alive = !matches!(state, Some("Z" | "X"));
            children.entry(parent).or_default().push(Process { pid, alive, pages });
        }
    }
    children
}

/// Those alive below `root`, without those in `spared` and what is below them.
fn below(all: &HashMap<i32, Vec<Process>>, root: i32, spared: &[i32]) -> Vec<Process> {
    let (mut found, mut open) = (Vec::new(), vec![root]);
    while let Some(parent) = open.pop() {
        for process in all.get(&parent).into_iter().flatten().filter(|p| !spared.contains(&p.pid)) {
            open.push(process.pid);
            if process.alive {
                found.push(*process);
            }
        }
    }
    found
}

/// The living processes below each root, with the memory in bytes that is in use by each, shared or not.
pub(crate) fn resident(roots: &[i32]) -> Vec<Vec<(i32, u64)>> {
    let page = rustix::param::page_size() as u64;
    let all = table();
    let of = |root: &i32| below(&all, *root, &[]).into_iter().map(|p| (p.pid, p.pages * page)).collect();
    roots.iter().map(of).collect()
}

/// Kills everything below `root`, also what is forked while this goes on (within bounds: a fork bomb that outruns it
/// is for the caller to end with the whole domain). `true` if nothing is left.
pub(super) fn kill_descendants(root: i32) -> bool {
    kill_descendants_apart(root, &[])
}

/// The same, sparing those in `spared` and what is below them.
pub(super) fn kill_descendants_apart(root: i32, spared: &[i32]) -> bool {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let found = descendants_apart(root, spared);
        if found.is_empty() {
            return true;
        }
        for pid in found.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if Instant::now() >= give_up {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}
