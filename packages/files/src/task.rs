//! Where what stands in an inbox.
//!
//! | folder | holds |
//! |---|---|
//! | `pending` | what was dropped: `<name>.task.json` |
//! | `running` | what was claimed, under the name of its claim: `<name>.<claim>.task.json`, while it waits for a person beside `….gate.json`, and the person's `….verdict.json` |
//! | `done`, `failed` | what is over, under its own name again: `<name>.task.json` beside `<name>.result.json`, or, if it never became a run, beside `<name>.reason.txt` |
//!
//! Owns: these names. Must not know: what stands in a file, or what is done with one.

use std::ffi::{OsStr, OsString};

use torpor_core::volume::{Place, Task};

pub(crate) const PENDING: &str = "pending";
pub(crate) const RUNNING: &str = "running";
pub(crate) const DONE: &str = "done";
pub(crate) const FAILED: &str = "failed";

const TASK: &str = ".task.json";
const RESULT: &str = ".result.json";
const REASON: &str = ".reason.txt";
const GATE: &str = ".gate.json";
const VERDICT: &str = ".verdict.json";
const REFUSED: &str = ".verdict.refused.json";
const WHY_REFUSED: &str = ".verdict.reason.txt";

/// Longest name of a task, in bytes: what is appended to it has to fit into the 255 of a file system.
const MAX_NAME: usize = 150;

/// Digits of a claim.
const CLAIM: usize = 32;

/// A fresh claim.
pub(crate) fn claim() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// What a name in `pending` is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// A task with this name.
    Task(String),
    /// Somebody is still writing it.
    Unfinished,
    /// Something else, and why it is none.
    Other(&'static str),
}

pub(crate) fn dropped(name: &OsStr) -> Dropped {
    let Some(text) = name.to_str() else { return Dropped::Other("its name is not UTF-8") };
    if text.starts_with('.') || [".tmp", ".part", "~"].iter().any(|end| text.ends_with(end)) {
        return Dropped::Unfinished;
    }
    match text.strip_suffix(TASK) {
        None => Dropped::Other("its name does not end with .task.json"),
        Some("") => Dropped::Other("its name has nothing before .task.json"),
        Some(name) if name.len() > MAX_NAME => Dropped::Other("its name has more than 150 bytes before .task.json"),
        Some(name) if name.chars().any(char::is_control) => Dropped::Other("its name has control characters"),
        Some(name) => Dropped::Task(name.to_owned()),
    }
}

/// What a name in `running` is, as far as it concerns the inbox: name and claim of a task, and whether it is the verdict.
pub(crate) fn running(name: &OsStr) -> Option<(String, String, bool)> {
    let text = name.to_str()?;
    let (stem, is_verdict) = match text.strip_suffix(TASK) {
        Some(stem) => (stem, false),
        None => (text.strip_suffix(VERDICT)?, true),
    };
    let (name, claim) = stem.rsplit_once('.')?;
    let is_claim = claim.len() == CLAIM && claim.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (is_claim && !name.is_empty()).then(|| (name.to_owned(), claim.to_owned(), is_verdict))
}

/// The folder of an inbox with this name.
pub(crate) fn folder(inbox: &Place, folder: &str) -> Place {
    inbox.join(folder)
}

/// The places of a task.
pub(crate) trait Places {
    /// Its own file while it is worked on.
    fn running(&self) -> Place;
    /// What a person is asked.
    fn gate(&self) -> Place;
    /// What the person said.
    fn verdict(&self) -> Place;
    /// A verdict that was not taken, and why.
    fn refused_verdict(&self) -> (Place, Place);
    /// Its own file when it is over.
    fn over(&self, folder: &str) -> Place;
    /// What came of it.
    fn result(&self, folder: &str) -> Place;
    /// Why nothing came of it.
    fn reason(&self, folder: &str) -> Place;
}

impl Places for Task {
    fn running(&self) -> Place {
        claimed(self, TASK)
    }

    fn gate(&self) -> Place {
        claimed(self, GATE)
    }

    fn verdict(&self) -> Place {
        claimed(self, VERDICT)
    }

    fn refused_verdict(&self) -> (Place, Place) {
        (claimed(self, REFUSED), claimed(self, WHY_REFUSED))
    }

    fn over(&self, to: &str) -> Place {
        folder(&self.inbox, to).join(format!("{}{TASK}", self.name))
    }

    fn result(&self, to: &str) -> Place {
        folder(&self.inbox, to).join(format!("{}{RESULT}", self.name))
    }

    fn reason(&self, to: &str) -> Place {
        folder(&self.inbox, to).join(format!("{}{REASON}", self.name))
    }
}

fn claimed(task: &Task, end: &str) -> Place {
    folder(&task.inbox, RUNNING).join(format!("{}.{}{end}", task.name, task.claim))
}

/// Where something that is no task is put, and where it is said why.
pub(crate) fn refused(inbox: &Place, name: &OsStr) -> (Place, Place) {
    let failed = folder(inbox, FAILED);
    let mut reason = OsString::from(name);
    reason.push(REASON);
    (failed.join(name), failed.join(reason))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_named_like_a_task_is_one() {
        for (name, want) in [
            ("a.task.json", Dropped::Task("a".into())),
            ("000001-b.2-c.task.json", Dropped::Task("000001-b.2-c".into())),
            (".a.task.json", Dropped::Unfinished),
            ("a.task.json.tmp", Dropped::Unfinished),
            ("a.part", Dropped::Unfinished),
            ("a.task.json~", Dropped::Unfinished),
            (".task.json", Dropped::Unfinished),
            ("a.task.pkl", Dropped::Other("its name does not end with .task.json")),
            ("a.json", Dropped::Other("its name does not end with .task.json")),
            ("a\n.task.json", Dropped::Other("its name has control characters")),
        ] {
            assert_eq!(dropped(OsStr::new(name)), want, "{name}");
        }
        let long = format!("{}.task.json", "x".repeat(151));
        assert!(matches!(dropped(OsStr::new(&long)), Dropped::Other(_)));
        assert!(matches!(dropped(OsStr::from_bytes(b"\xff.task.json")), Dropped::Other(_)));
    }

    proptest! {
        #[test]
        fn a_claimed_name_is_read_back(name in "[a-z0-9.-]{1,20}") {
            let task = Task { inbox: Place::new(None, "in/box"), name: name.clone(), claim: claim() };
            let read = |place: Place| running(place.path.file_name().unwrap());
            prop_assert_eq!(read(task.running()), Some((name.clone(), task.claim.clone(), false)));
            prop_assert_eq!(read(task.verdict()), Some((name.clone(), task.claim.clone(), true)));
            let (refused, why) = task.refused_verdict();
            for other in [task.gate(), task.over(DONE), task.result(DONE), refused, why] {
                prop_assert_eq!(read(other), None);
            }
        }
    }

    #[test]
    fn everything_of_a_task_stands_in_its_inbox() {
        let task = Task { inbox: Place::new(None, "in/box"), name: "a".into(), claim: claim() };
        assert_eq!(task.over(DONE).path, Path::new("in/box/done/a.task.json"));
        assert_eq!(task.result(FAILED).path, Path::new("in/box/failed/a.result.json"));
        let (put, reason) = refused(&task.inbox, OsStr::new("model.pkl"));
        assert_eq!(
            (put.path.as_path(), reason.path.as_path()),
            (Path::new("in/box/failed/model.pkl"), Path::new("in/box/failed/model.pkl.reason.txt"),)
        );
    }
}
