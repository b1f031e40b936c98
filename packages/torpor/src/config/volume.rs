//! The shared volume and the inbox on it.

use std::path::{Path, PathBuf};

use torpor_core::SessionKey;
use torpor_core::volume::{Place, relative};

use super::Reader;

/// The shared volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) root: PathBuf,
    pub(crate) inbox: Option<Inbox>,
}

/// A folder whose files become runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inbox {
    pub(crate) folder: Place,
    /// Whose runs.
    pub(crate) tenant: String,
}

/// The volume, if there is to be one.
pub(super) fn read(r: &mut Reader<'_>) -> Option<Volume> {
    let root = r.text("TORPOR_WORK_ROOT").unwrap_or_default().to_owned();
    let inbox = r.text("TORPOR_INBOX").unwrap_or_default().trim_end_matches('/').to_owned();
    let tenant = r.text("TORPOR_INBOX_TENANT").unwrap_or_default().to_owned();
    if let Err(e) = SessionKey::new(&tenant, "any") {
        r.problem("TORPOR_INBOX_TENANT", e);
    }
    if root.is_empty() {
        if !inbox.is_empty() {
            r.problem("TORPOR_INBOX", "lies on the shared volume, and there is none: set TORPOR_WORK_ROOT");
        }
        return None;
    }
    let root = PathBuf::from(root);
    let is_plain = root.is_absolute() && root.components().all(|part| part != std::path::Component::ParentDir);
    if !is_plain || root == Path::new("/") {
        r.problem(
            "TORPOR_WORK_ROOT",
            "expected the absolute path of a folder without `..`, and not the root of everything",
        );
        return None;
    }
    let inbox = (!inbox.is_empty()).then(|| match relative(&inbox, &root) {
        // Nobody may lead it elsewhere, not even on the volume.
        Ok(path) => Some(Inbox { folder: Place { plain: true, ..Place::new(None, path) }, tenant }),
        Err(e) => {
            r.problem("TORPOR_INBOX", e);
            None
        }
    });
    Some(Volume { root, inbox: inbox.flatten() })
}
