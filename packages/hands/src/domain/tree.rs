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
    let mut children: HashMap<i32, Vec<(i32, bool)>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name in parentheses may hold anything: what counts begins after the last one.
        let mut fields = stat.rsplit(") ").next().unwrap_or("").split(' ');
        let (state, parent) = (fields.next(), fields.next().and_then(|p| p.parse().ok()));
        if let Some(parent) = parent {
            children.entry(parent).or_default().push((pid, !matches!(state, Some("Z" | "X"))));
        }
    }
    let (mut found, mut open) = (Vec::new(), vec![root]);
    while let Some(parent) = open.pop() {
        for (pid, alive) in children.remove(&parent).unwrap_or_default() {
            if spared.contains(&pid) {
                continue;
            }
            open.push(pid);
            if alive {
                found.push(pid);
            }
        }
    }
    found
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
