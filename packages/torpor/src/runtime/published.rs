//! Where a running server can be found by the commands that share its data folder: a file beside the store.
//!
//! Owns: the file. Must not know: what is asked of the server.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use torpor_core::key::Secret;

const ADDRESS_FILE: &str = "serve.json";

/// The file, for as long as the server lives.
pub(crate) struct Published(PathBuf);

impl Published {
    /// Writes the address, and a key that lives as long as the server: whoever can read the file can read the store.
    pub(super) fn write(data_dir: &Path, address: SocketAddr, key: &Secret) -> Self {
        let path = data_dir.join(ADDRESS_FILE);
        let json = serde_json::json!({
            "url": format!("http://{address}"), "pid": std::process::id(), "key": key.expose(),
        });
        // Made anew, so that it never has the rights of a file that lay there before.
        let _ = std::fs::remove_file(&path);
        let mut options = std::fs::OpenOptions::new();
        let written = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(json.to_string().as_bytes()));
        if let Err(e) = written {
            tracing::warn!(error = %e, "clients on this machine will not find this server by itself");
        }
        Self(path)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A server that holds a data folder.
pub(crate) struct Found {
    /// Its address.
    pub(crate) url: String,
    /// The key of whoever can read the folder.
    pub(crate) key: String,
}

/// The server that holds this data folder right now. An address whose process does not hold the store is not trusted:
/// after a crash its port may be somebody else's.
pub(crate) fn published(data_dir: &Path) -> Option<Found> {
    let text = std::fs::read_to_string(data_dir.join(ADDRESS_FILE)).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    let holder = torpor_store_embedded::holder(data_dir).map(u64::from)?;
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    (json["pid"].as_u64() == Some(holder)).then(|| Some(Found { url: text("url")?, key: text("key")? }))?
}
