//! Control groups (version 2): the kernel's own limits on a session as a whole.
//!
//! Owns: finding a group that this user may divide, one child of it a domain, and its limits. Must not know: what runs
//! in a domain. None of it is required: where no group can be had, the reason is told and other limits must do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

/// What a group must be able to limit.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// How long the last processes of a domain may take to leave its group, in looks and the pause between two.
const LOOKS: u32 = 400;
const PAUSE: Duration = Duration::from_millis(5);

/// Where groups for domains are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Choice {
    /// At or above the daemon's own, if that is allowed.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// Below this one, which was delegated to the daemon's user and holds no processes. Others are not tried.
    Below(PathBuf),
}

/// A group of the daemon's own, in which there is one for each domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// Finds a group that can be divided, and makes one in it, named after the state folder's digest. Groups that a
    /// daemon before this one left there are ended. Blocking.
    ///
    /// # Errors
    /// A text that says why there is none. It names no path.
    pub(crate) fn find(choice: &Choice, name: &str) -> Result<Self, String> {
        let candidates = match choice {
            Choice::Off => return Err("switched off".into()),
            Choice::Below(path) => vec![path.clone()],
            Choice::Auto => {
                let read = |path| fs::read_to_string(path).unwrap_or_default();
                own(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
                    .ok_or("no control groups of version 2")?
            }
        };
        let mut why = String::new();
        for group in candidates {
            match Self::below(&group, name) {
                Ok(home) => return Ok(home),
                Err(e) if why.is_empty() => why = e,
                Err(_) => {}
            }
        }
        Err(why)
    }

    fn below(group: &Path, name: &str) -> Result<Self, String> {
        let has = |file: &Path| {
            let text = fs::read_to_string(file).unwrap_or_default();
            CONTROLLERS.iter().all(|c| text.split_whitespace().any(|word| word == *c))
        };
        if !has(&group.join("cgroup.controllers")) {
            return Err(format!("the control group has no controllers for {}", CONTROLLERS.join(" and ")));
        }
        let told = |e: io::Error| match e.raw_os_error() {
            Some(libc::EBUSY) => "the control group holds processes, so it cannot be divided".to_owned(),
            _ => format!("the control group is not delegated to this user ({})", e.kind()),
        };
        let divide = |group: &Path| {
            let file = group.join("cgroup.subtree_control");
            if has(&file) { Ok(()) } else { fs::write(&file, CONTROLLERS.map(|c| format!("+{c}")).join(" ")) }
        };
        divide(group).map_err(told)?;
        let home = group.join(format!("torpor-{name}"));
        make(&home).and_then(|()| divide(&home)).map_err(told)?;
        let home = Self(home);
        home.end_leftovers();
        // Whether processes may be moved is seen only when one is; whether limits may be set, now.
        let tried = home.leaf("probe", 1 << 30, 64).map_err(told)?;
        let _ = fs::remove_dir(&tried.0);
        Ok(home)
    }

    fn end_leftovers(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let _ = fs::write(entry.path().join("cgroup.kill"), "1");
                let _ = fs::remove_dir(entry.path()); // what is not gone yet is found again the next time
            }
        }
    }

    /// A group with limits: bytes of memory, swap not on top of it, and processes and threads.
    ///
    /// # Errors
    /// What the file system reports.
    pub(crate) fn leaf(&self, name: &str, memory: u64, processes: u64) -> io::Result<Leaf> {
        let leaf = Leaf(self.0.join(name));
        make(&leaf.0)?;
        fs::write(leaf.0.join("memory.max"), memory.to_string())?;
        fs::write(leaf.0.join("pids.max"), processes.to_string())?;
        let _ = fs::write(leaf.0.join("memory.swap.max"), "0"); // not there on machines without swap accounting
        let _ = fs::write(leaf.0.join("cpu.weight"), "50"); // nor this one: half of what the brain gets
        Ok(leaf)
    }
}

fn make(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The group of one domain.
#[derive(Debug, Clone)]
pub(crate) struct Leaf(PathBuf);

impl Leaf {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// How many processes were killed because the limit on memory was reached.
    pub(crate) fn kills(&self) -> u64 {
        let events = fs::read_to_string(self.0.join("memory.events")).unwrap_or_default();
        events.lines().find_map(|l| l.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }

    /// Kills what is left in the group, and removes it.
    pub(crate) async fn end(&self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..LOOKS {
            match fs::remove_dir(&self.0) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => sleep(PAUSE).await,
                _ => return,
            }
        }
    }
}

/// The daemon's own group and those above it, nearest first; `None` where there is no hierarchy of version 2.
fn own(mounts: &str, groups: &str) -> Option<Vec<PathBuf>> {
    let group = groups.lines().find_map(|l| l.strip_prefix("0::/"))?;
    let (root, mount) = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        (after.split(' ').next() == Some("cgroup2")).then_some((root, mount))
    })?;
    // A container may be shown a part of the hierarchy only.
    let group = Path::new("/").join(group);
    let below = group.strip_prefix(root).ok()?;
    let mount = Path::new(mount);
    let own = if below.as_os_str().is_empty() { mount.to_owned() } else { mount.join(below) };
    Some(own.ancestors().take_while(|a| a.starts_with(mount)).map(Path::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str =
        "24 1 0:22 / /proc rw - proc proc rw\n30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cg rw\n";

    /// What the kernel would show of a group that was delegated.
    fn group(controllers: &str, children: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), children).unwrap();
        dir
    }

    #[test]
    fn the_own_group_and_those_above_are_candidates() {
        let paths = |mounts: &str, groups: &str| {
            own(mounts, groups).map(|c| c.iter().map(|p| p.display().to_string()).collect::<Vec<_>>())
        };
        let found = paths(MOUNTS, "1:name=systemd:/\n0::/user.slice/a.scope\n").unwrap();
        assert_eq!(found, ["/sys/fs/cgroup/user.slice/a.scope", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup"]);
        assert_eq!(paths(MOUNTS, "0::/\n").unwrap(), ["/sys/fs/cgroup"]);
        let part = MOUNTS.replace("0:26 / ", "0:26 /pod ");
        assert_eq!(paths(&part, "0::/pod/c\n").unwrap(), ["/sys/fs/cgroup/c", "/sys/fs/cgroup"]);
        for (mounts, groups) in [(MOUNTS, "4:memory:/x\n"), ("", "0::/\n"), (part.as_str(), "0::/other\n")] {
            assert_eq!(paths(mounts, groups), None);
        }
    }

    #[test]
    fn a_delegated_group_is_divided_and_limits_are_set() {
        let dir = group("cpu memory pids", "memory pids");
        let left = dir.path().join("torpor-d/left");
        fs::create_dir_all(&left).unwrap();
        let home = Home::find(&Choice::Below(dir.path().into()), "d").unwrap();
        assert_eq!(fs::read_to_string(left.join("cgroup.kill")).unwrap(), "1");
        assert_eq!(fs::read_to_string(home.0.join("cgroup.subtree_control")).unwrap(), "+memory +pids");
        let leaf = home.leaf("7", 4096, 9).unwrap();
        let read = |name| fs::read_to_string(leaf.path().join(name)).unwrap();
        assert_eq!(
            (read("memory.max"), read("pids.max"), read("memory.swap.max")),
            ("4096".into(), "9".into(), "0".into())
        );
        assert_eq!(leaf.kills(), 0);
        fs::write(leaf.path().join("memory.events"), "oom 3\noom_kill 2\noom_group_kill 0\n").unwrap();
        assert_eq!(leaf.kills(), 2);
    }

    #[test]
    fn why_there_is_none_is_told_without_paths() {
        assert_eq!(Home::find(&Choice::Off, "d").unwrap_err(), "switched off");
        for (controllers, want) in [("hugetlb", "has no controllers for memory and pids"), ("", "has no controllers")] {
            let dir = group(controllers, "");
            let why = Home::find(&Choice::Below(dir.path().into()), "d").unwrap_err();
            assert!(why.contains(want) && !why.contains('/'), "{why}");
        }
        let dir = group("memory pids", "memory pids");
        fs::write(dir.path().join("torpor-d"), "in the way").unwrap();
        let why = Home::find(&Choice::Below(dir.path().into()), "d").unwrap_err();
        assert!(why.starts_with("the control group is not delegated"), "{why}");
    }
}
