//! What the kernel says of this process, under the names that Prometheus' own libraries use.
//!
//! Owns: reading `/proc/self`. What cannot be read is left out.

use std::fs;

use crate::kinds::Kind;
use crate::text::Page;

/// Clock ticks a second in `/proc`: fixed for user space on every architecture that Linux runs on here.
const TICKS: f64 = 100.0;

/// Writes what can be read.
pub(crate) fn write(page: &mut Page) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may contain anything; what follows it is numbers. The first of them is field 3.
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or_else(Vec::new, |(_, rest)| rest.split(' ').collect());
    let field = |n: usize| -> Option<f64> { fields.get(n - 3)?.trim().parse().ok() };
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS);
    let booted = fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = booted.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let started = booted.zip(field(22)).map(|(booted, ticks)| booted + ticks / TICKS);
    // One of the entries is the open folder itself.
    let open = fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count().saturating_sub(1) as f64);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = limits.lines().find_map(|l| l.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());

    for (name, help, kind, value) in [
        ("process_cpu_seconds_total", "Processor time of this process.", Kind::Counter, cpu),
        ("process_resident_memory_bytes", "Memory in use.", Kind::Gauge, kib("VmRSS").map(|n| n * 1024.0)),
        ("process_virtual_memory_bytes", "Memory mapped.", Kind::Gauge, kib("VmSize").map(|n| n * 1024.0)),
        ("process_threads", "Threads.", Kind::Gauge, kib("Threads")),
        ("process_open_fds", "Open file descriptors.", Kind::Gauge, open),
        ("process_max_fds", "Most file descriptors that may be open.", Kind::Gauge, most),
        ("process_start_time_seconds", "When this process started, since the Unix epoch.", Kind::Gauge, started),
    ] {
        if let Some(value) = value {
            page.one(name, help, kind, &[], value);
        }
    }
}
