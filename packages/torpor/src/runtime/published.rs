//! Where a running server can be found by the commands that share its data folder: a file beside the store.
//!
//! Owns: the file. Must not know: what is asked of the server.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use torpor_core::key::Secret;

const FILE: &str = "serve.json";

/// What is read back of it at most, in bytes.
const MAX_BYTES: u64 = 16 * 1024;

/// How often the lock is tried, and the wait between: whoever only looks is done long before.
const TRIES: usize = 50;
const TRY_EVERY: Duration = Duration::from_millis(2);

/// The file, for as long as the server lives. It is locked: what a server leaves that died is nobody's.
pub(crate) struct Published(Option<File>);

impl Published {
    /// Writes the address, and a key that lives as long as the server: whoever can read the file can read the store, or
    /// run what has the key to it. Of several servers on one folder, which share another store, the first is found.
    pub(super) fn write(data_dir: &Path, address: SocketAddr, key: &Secret) -> Self {
        let json = serde_json::json!({"url": format!("http://{address}"), "key": key.expose()});
        match write(data_dir, &json.to_string()) {
            Ok(Some(file)) => Self(Some(file)),
            Ok(None) => {
                tracing::info!("another server is the one that clients on this machine find by the data folder");
                Self(None)
            }
            Err(e) => {
                tracing::warn!(error = %e, "clients on this machine will not find this server by itself");
                Self(None)
            }
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            let _ = file.set_len(0); // unlocked with its end, it says nothing in any case
        }
    }
}

/// Locks the file and writes it; `None` if somebody else has it.
fn write(data_dir: &Path, text: &str) -> io::Result<Option<File>> {
    std::fs::DirBuilder::new().recursive(true).create(data_dir)?;
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow);
    let mut file = options.open(data_dir.join(FILE))?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => {
                // It never has the rights of a file that lay there before.
                file.set_permissions(Permissions::from_mode(0o600))?;
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(text.as_bytes())?;
                return Ok(Some(file));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(TRY_EVERY),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Ok(None)
}

/// A server that holds a data folder.
pub(crate) struct Found {
    /// Its address.
    pub(crate) url: String,
    /// The key of whoever can read the folder.
    pub(crate) key: String,
}

/// The server that can be found by this data folder right now. An address whose server does not hold the file is not
/// trusted: after a crash its port may be somebody else's.
pub(crate) fn published(data_dir: &Path) -> Option<Found> {
    let file = File::open(data_dir.join(FILE)).ok()?;
    // Shared, so that two who look do not take each other for the server. Released with the file.
    if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    Some(Found { url: text("url")?, key: text("key")? })
}
