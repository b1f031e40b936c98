//! Seam: the shared volume, files through which those work with runs who have nothing else.
//!
//! Owns: what a place on it is called, what a run wants to be written there, and what whoever writes there promises.
//! Must not know: how a file is opened or written, or what stands in one.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Longest path, in bytes.
pub const MAX_PATH_BYTES: usize = 1_024;

/// A place on the volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Whose part of the volume it is in; `None` is the volume as a whole, which only a server without keys gives away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Where in it: relative, without `.` and `..`.
    pub path: PathBuf,
    /// No part of the path may be a symbolic link. Otherwise one that stays inside is followed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
}

impl Place {
    /// A place in this tenant's part, or in the whole.
    #[must_use]
    pub fn new(tenant: Option<&str>, path: impl Into<PathBuf>) -> Self {
        Self { tenant: tenant.map(str::to_owned), path: path.into(), plain: false }
    }

    /// The file with this name beside it: what is appended stands after the last character.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> Self {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        Self { path: path.into(), ..self.clone() }
    }

    /// What lies under this name in it, as a folder.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> Self {
        Self { path: self.path.join(name), ..self.clone() }
    }
}

/// A file of an inbox that became a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// The inbox.
    pub inbox: Place,
    /// The file's name as it was dropped, without what every task's name ends with.
    pub name: String,
    /// Made when it was claimed; tells it from every other that ever had its name.
    pub claim: String,
}

/// What is written of a run: its outcome and, while it waits for a person, what that person is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Where its result goes; the marker and the gate stand beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Place>,
    /// The task it was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
}

/// Why something could not be done on the volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such file or folder.
    #[error("does not exist")]
    Missing,
    /// It cannot be done at this place: what is wrong there. It is said to whoever named the place, and names no other.
    #[error("{0}")]
    Refused(String),
    /// The volume is not there, full, or does not answer: for the operator. The same may succeed later.
    #[error("the shared volume does not answer: {0}")]
    Away(String),
}

/// What stands in a folder under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, a pipe, a socket, a device.
    Other,
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name, which need not be text.
    pub name: OsString,
    /// What it is. It may be something else in the next moment.
    pub kind: Kind,
}

/// The files of the volume. Only the brain's process touches them, never a sandbox.
///
/// Promises, whoever else writes there at the same time:
/// - Nothing outside of the place's part of the volume is read, written, made or removed: neither through `..`, nor
///   through a symbolic link, nor through one that is put in the way meanwhile.
/// - Nothing but a regular file is ever opened for reading, and nothing waits for a pipe.
/// - Every call ends within a bound. Dropped, or cut off there, it may still be done.
#[async_trait]
pub trait Volume: Send + Sync + 'static {
    /// The place in a tenant's part, or in the whole, that a client's path names: relative, or absolute as it is on the
    /// machines that mount the volume. Looks at nothing.
    ///
    /// # Errors
    /// What is wrong with the path and what was expected.
    fn place(&self, tenant: Option<&str>, path: &str) -> Result<Place, String>;

    /// Whether the volume is there.
    async fn ready(&self) -> Result<(), Error>;

    /// A whole file of at most `max` bytes. One that was written to meanwhile is [`Error::Refused`].
    async fn read(&self, file: &Place, max: usize) -> Result<Vec<u8>, Error>;

    /// Puts a file there, or another in its place, with the folders above it. Whoever reads it reads the old one or the
    /// new one, whole. When it returns, the file is durable.
    async fn publish(&self, file: &Place, bytes: Vec<u8>) -> Result<(), Error>;

    /// Removes a file, durably. One that is not there is no error.
    async fn remove(&self, file: &Place) -> Result<(), Error>;

    /// Moves whatever stands at `from`, unopened, into the place of what may stand at `to`, durably. `false` when there is
    /// nothing: of any number who move the same, one is told `true`.
    async fn rename(&self, from: &Place, to: &Place) -> Result<bool, Error>;

    /// Makes a folder, with those above it. One that is there is no error.
    async fn make(&self, folder: &Place) -> Result<(), Error>;

    /// What stands in a folder, in no order; at most `max` of it.
    async fn list(&self, folder: &Place, max: usize) -> Result<Vec<Listed>, Error>;
}

/// Reads a path as clients write it: relative, or absolute below `root`. Says nothing about what is there.
///
/// # Errors
/// What is wrong with it and what was expected.
pub fn relative(text: &str, root: &Path) -> Result<PathBuf, String> {
    let inside = "must name a file below the root of the shared volume";
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.len() > MAX_PATH_BYTES {
        return Err(format!("must be at most {MAX_PATH_BYTES} bytes, got {}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    if text.ends_with('/') {
        return Err(format!("{inside}; this is a folder"));
    }
    let given = Path::new(text);
    if given.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{inside}, without `..`"));
    }
    let path = if given.is_absolute() {
        given.strip_prefix(root).map_err(|_| format!("{inside}; this is elsewhere"))?
    } else {
        given
    };
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    if path.as_os_str().is_empty() || text.ends_with("/.") {
        return Err(format!("{inside}; this is a folder"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: &str = "/mnt/torpor";

    fn read(text: &str) -> Result<String, String> {
        relative(text, Path::new(ROOT)).map(|p| p.display().to_string())
    }

    #[test]
    fn paths_are_relative_or_below_the_root() {
        for (text, want) in [
            ("a.json", "a.json"),
            ("in/a.json", "in/a.json"),
            ("./in//./a.json", "in/a.json"),
            ("/mnt/torpor/in/a.json", "in/a.json"),
            ("/mnt//torpor/./a", "a"),
            ("in/..a", "in/..a"),
            ("...", "..."),
            ("ü b", "ü b"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(want), "{text}");
        }
        for (text, want) in [
            ("", "must not be empty"),
            (".", "a folder"),
            ("a/", "a folder"),
            ("a/.", "a folder"),
            ("/mnt/torpor", "a folder"),
            ("..", "without `..`"),
            ("a/../b", "without `..`"),
            ("/mnt/torpor/../etc/passwd", "without `..`"),
            ("/etc/passwd", "elsewhere"),
            ("/mnt/torpor2/a", "elsewhere"),
            ("/", "a folder"),
            ("a\0b", "control characters"),
            ("a\nb", "control characters"),
            (&"x/".repeat(MAX_PATH_BYTES), "at most 1024 bytes"),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.contains(want), "{text:?}: {refused}");
        }
    }

    #[test]
    fn what_stands_beside_a_file_is_named_after_it() {
        let place = Place::new(Some("acme"), "out/a.json");
        assert_eq!(place.with_suffix(".status").path, Path::new("out/a.json.status"));
        assert_eq!(place.join("b").path, Path::new("out/a.json/b"));
    }

    proptest! {
        #[test]
        fn what_is_accepted_stays_below(text in "(\\.|\\.\\.|/|[a-c]|//|\\.a){0,12}") {
            if let Ok(path) = relative(&text, Path::new(ROOT)) {
                prop_assert!(path.is_relative());
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(path.components().count() > 0);
            }
        }
    }
}
