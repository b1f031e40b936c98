//! What the kernel says about a process.
//!
//! Owns: reading /proc, and ending what this program started. Must not know: what the processes are.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// Clock ticks per second in /proc/PID/stat: the same on every Linux we build for.
const TICKS: f64 = 100.0;

/// CPU time in milliseconds, user and system, of every thread that ever was. In steps of 10 ms.
pub(crate) fn cpu_ms(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
    ticks * 1000.0 / TICKS
}

/// CPU time in milliseconds of the threads that live now, to the nanosecond.
pub(crate) fn cpu_of_living_threads_ms(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let ns: f64 = tasks
        .filter_map(|t| {
            fs::read_to_string(t.path().join("schedstat")).ok()?.split_whitespace().next()?.parse::<f64>().ok()
        })
        .sum();
    ns / 1e6
}

/// Resident memory in MiB: all of it, and with shared pages counted in part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) rss: f64,
    pub(crate) pss: f64,
}

/// Memory now.
pub(crate) fn memory(pid: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    Memory { rss: mib(&text, "Rss:"), pss: mib(&text, "Pss:") }
}

/// The most that was ever resident, in MiB.
pub(crate) fn peak_mib(pid: u32) -> f64 {
    mib(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(), "VmHWM:")
}

fn mib(text: &str, key: &str) -> f64 {
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}

/// Open descriptors.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Threads.
pub(crate) fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// The process and everything below it.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        }
    }
    found
}

/// Processes whose command line contains all of these.
pub(crate) fn with_words(words: &[&str]) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|e| {
        let pid: u32 = e.file_name().to_str()?.parse().ok()?;
        let line = String::from_utf8_lossy(&fs::read(e.path().join("cmdline")).ok()?).into_owned();
        words.iter().all(|w| line.contains(w)).then_some(pid)
    })
    .collect()
}

/// Gives a process's scheduling group precedence over other work on this machine. Needs root; without, nothing happens.
pub(crate) fn prefer(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/autogroup"), "-15");
}

/// `kill -9`. A process that is gone is fine.
pub(crate) fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let me = std::process::id();
        let m = memory(me);
        assert!(m.rss > 0.0 && m.pss > 0.0 && m.pss <= m.rss, "{m:?}");
        assert!(peak_mib(me) >= m.rss * 0.5);
        assert!(cpu_of_living_threads_ms(me) >= 0.0 && cpu_ms(me) >= 0.0);
        assert!(descriptors(me) > 2 && threads(me) > 0);
        assert_eq!(tree(me)[0], me);
        assert!(with_words(&["experiments"]).contains(&me));
    }

    #[test]
    fn a_process_that_is_gone_reads_as_nothing() {
        assert!(memory(u32::MAX).rss.is_nan());
        assert_eq!(descriptors(u32::MAX), 0);
    }
}
