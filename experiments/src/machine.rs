//! The machine that was measured on.
//!
//! Owns: reading it from /proc. Must not know: what is measured.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Serialize;

/// What a reader must know to compare figures.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    memory_mib: u64,
    kernel: String,
    file_system: String,
    load_before: String,
}

impl Machine {
    /// This one; `dir` tells the file system.
    pub(crate) fn here(dir: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| -> Option<String> {
            let line = text.lines().find(|l| l.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        let kib = memory.and_then(|m| m.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(dir, &read("/proc/mounts")).unwrap_or_else(|| "unknown".into()),
            load_before: read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

/// The type of the longest mount point that `dir` lies below.
fn file_system(dir: &Path, mounts: &str) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    mounts
        .lines()
        .filter_map(|l| {
            let mut words = l.split_whitespace();
            let (_, at, kind) = (words.next()?, words.next()?, words.next()?);
            dir.starts_with(at).then(|| (at.len(), kind.to_owned()))
        })
        .max()
        .map(|(_, kind)| kind)
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, memory_mib, kernel, file_system, load_before } = self;
        write!(f, "{cores} cores ({cpu}), {memory_mib} MiB, Linux {kernel}, {file_system}; load before: {load_before}")
    }
}
