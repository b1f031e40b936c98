//! Servers that are shared by all tests of a binary: nothing is dropped when a process ends, so somebody else sees to them.

use std::process::{Command, Stdio};

use super::Server;

/// Waits for the end of this process, which closes its input, then ends the servers and removes their folders. Its arguments:
/// how many servers, their processes, their folders.
const WATCH: &str = r#"cat >/dev/null
n=$1; shift
while [ "$n" -gt 0 ]; do kill -9 "$1" 2>/dev/null; shift; n=$((n - 1)); done
rm -rf -- "$@""#;

/// Lets servers run until this process ends, however it does.
pub(super) fn until_exit(servers: &[&Server]) {
    let pids = servers.iter().filter_map(|server| server.pid()).map(|pid| pid.to_string());
    let watcher = Command::new("sh")
        .args(["-c", WATCH, "watch", &servers.len().to_string()])
        .args(pids)
        .args(servers.iter().map(|server| server.dir()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    std::mem::forget(watcher); // its input stays open until this process is gone
}
