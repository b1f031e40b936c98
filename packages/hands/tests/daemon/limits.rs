//! What a session may use of the machine. Every limit is small here, and seen to be in force before anything goes
//! against it.

use std::fs;

use serde_json::json;
use torpor_exec_channel::Session;
use torpor_exec_channel::message::{Exit, Open, Workspace};
use torpor_hands::cgroup::Choice;
use torpor_hands::{Level, Limits};

use crate::support::{Daemon, SESSION, bash, call, id, ok, text};

const MIB: u64 = 1 << 20;

/// A daemon a level that works here, with limits that are watched.
fn daemons(limits: &Limits) -> Vec<(Level, Daemon)> {
    let limits = Limits { cgroup: Choice::Off, ..limits.clone() };
    let at = |level| {
        let daemon = Daemon::with(|s| (s.allow, s.prefer, s.limits) = (level, level, limits.clone()))?;
        Some((level, daemon))
    };
    [Level::Full, Level::Reduced].into_iter().filter_map(at).collect()
}

/// The end of a command that goes beyond a limit.
async fn over(session: &Session, position: u64, command: &str) -> String {
    let ended = call(session, position, "bash", json!({ "command": command, "timeout": 60 })).await;
    assert!(matches!(ended.exit, Exit::Over(_)), "{:?}: {}", ended.exit, text(&ended));
    text(&ended)
}

#[tokio::test]
async fn a_session_that_takes_too_much_memory_is_ended_and_goes_on() {
    for (level, daemon) in daemons(&Limits { memory: 96 * MIB, ..Limits::default() }) {
        let hands = daemon.client().hands().await.unwrap();
        assert!(
            hands.limits.starts_with("memory 96 MiB") && hands.limits.contains("no control group"),
            "{}",
            hands.limits
        );
        let session = daemon.open(1).await;
        // Below it: 32 MiB for a while.
        ok(&session, 1, "head -c 32M /dev/zero | (tail -c 32M; sleep 1.2) | wc -c").await;
        // Three times as much, by one process, and by several together.
        let told = over(&session, 2, "head -c 300M /dev/zero | (tail -c 300M | sleep 60)").await;
        assert!(told.contains("took more than its 96 MiB of memory"), "{level}: {told}");
        let several = "for _ in 1 2 3 4; do head -c 60M /dev/zero | (tail -c 60M | sleep 60) & done; wait";
        over(&session, 3, several).await;
        // At `reduced` the processes of others are seen, too.
        let left = if level == Level::Full { "pgrep -c tail; echo alive" } else { "echo 0; echo alive" };
        assert_eq!(ok(&session, 4, left).await, "0\nalive", "{level}");
    }
}

#[tokio::test]
async fn a_session_that_takes_too_much_disk_is_ended_and_can_clean_up() {
    for (level, daemon) in daemons(&Limits { disk: 32 * MIB, ..Limits::default() }) {
        let session = daemon.open(1).await;
        // No file alone may be larger, at once.
        let told = bash(&session, 1, "ulimit -f; head -c 50M /dev/zero > one; stat -c %s one; rm one").await;
        let size = (32 * MIB).to_string();
        assert!(told.starts_with("32768\n") && told.contains(&size), "{level}: {told}");
        // Nor all together, wherever they are, soon after.
        let fill =
            "for d in . ~ /tmp $TMPDIR; do for n in 1 2 3; do head -c 8M /dev/zero > $d/f$n; done; done; sleep 60";
        let told = over(&session, 2, fill).await;
        assert!(told.contains("take more than its 32 MiB of disk"), "{level}: {told}");
        let write = call(&session, 3, "write", json!({ "path": "x", "content": "x" })).await;
        assert!(text(&write).contains("Nothing was written. Delete files with bash first"), "{}", text(&write));
        assert_eq!(call(&session, 4, "ls", json!({})).await.exit, Exit::Answered, "{level}");
        // A command may run, to clean up; not to go on.
        let more = "for n in 1 2 3 4; do head -c 8M /dev/zero > ~/more$n; done; sleep 60";
        over(&session, 5, more).await;
        ok(&session, 6, "rm -f f? ~/f? ~/more? /tmp/f? $TMPDIR/f?").await;
        let write = call(&session, 7, "write", json!({ "path": "x", "content": "x" })).await;
        assert_eq!(write.exit, Exit::Answered, "{level}: {}", text(&write));
        ok(&session, 8, "head -c 8M /dev/zero > f1; sleep 1.5").await;
    }
}

#[tokio::test]
async fn what_a_given_folder_held_before_does_not_count() {
    let daemon = Daemon::with(|s| s.limits.disk = 16 * MIB).unwrap();
    let given = daemon.dir.path().canonicalize().unwrap().join("project");
    fs::create_dir(&given).unwrap();
    for n in 0..4 {
        fs::write(given.join(format!("old{n}")), vec![1; 8 << 20]).unwrap();
    }
    let path = given.display().to_string();
    let workspace = Some(Workspace { path: path.clone(), roots: vec![path] });
    let open = Open { session: SESSION.into(), epoch: torpor_core::Epoch(1), born: torpor_core::Epoch(0), workspace };
    let session = daemon.client().open(open).await.unwrap();
    ok(&session, 1, "head -c 8M /dev/zero > new; sleep 2.5; echo kept").await;
    over(&session, 2, "for n in 1 2 3; do head -c 8M /dev/zero > more$n; done; sleep 60").await;
}

#[tokio::test]
async fn nothing_is_started_and_nothing_goes_on_where_the_disk_is_nearly_full() {
    let daemon = Daemon::with(|s| s.limits.min_free = u64::MAX).unwrap();
    let session = daemon.open(1).await;
    for (position, tool, input) in
        [(1, "bash", json!({ "command": "touch ran" })), (2, "write", json!({ "path": "ran", "content": "x" }))]
    {
        let refused = call(&session, position, tool, input).await;
        assert_eq!(refused.exit, Exit::NotStarted);
        assert!(text(&refused).contains("The disk is nearly full"), "{}", text(&refused));
    }
    assert_eq!(text(&call(&session, 3, "ls", json!({})).await), "(empty directory)");
}

/// A disk of its own, which goes with it.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, with the reason printed, where the test may not mount one.
    fn new(bytes: u64) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(at.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: no disk of a limited size can be mounted");
            return None;
        }
        Some(Self(at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_command_that_fills_the_disk_is_ended_and_what_is_left_serves_to_forget_it() {
    let Some(disk) = Disk::new(96 * MIB) else { return };
    let state = disk.0.path().join("state");
    let daemon = Daemon::with(|s| (s.state, s.limits.min_free) = (state.clone(), 32 * MIB)).unwrap();
    // The next record of the journal needs a page more than it has.
    let journal = state.join("sessions").join(SESSION).join("journal");
    let mut epoch = 1;
    let mut session = daemon.open(epoch).await;
    ok(&session, 4, "true").await;
    while 4096 - fs::metadata(&journal).unwrap().len() % 4096 > 300 {
        epoch += 1;
        session = daemon.open(epoch).await;
    }
    // Everything there is, at once.
    let told = over(&session, 1, "cat /dev/zero > fill 2>/dev/null; sleep 60").await;
    assert!(told.contains("The disk is nearly full"), "{told}");
    // There is not even room to write down that another one was accepted.
    let incarnation = session.identity().incarnation.clone();
    let refused = session.call(id(&session, 2), incarnation, "bash".into(), json!({ "command": "true" })).await;
    assert!(refused.unwrap_err().to_string().contains("could not write the journal"));
    let forget = torpor_exec_channel::message::Forget { session: SESSION.into(), epoch: torpor_core::Epoch(9_999) };
    assert!(daemon.client().forget(forget).await.unwrap().workspace);
    let session = daemon.open(9_999).await;
    assert_eq!(ok(&session, 1, "echo room").await, "room");
    assert_eq!(fs::metadata(state.join("reserve")).unwrap().len(), 256 * 1024);
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_own_number_of_processes() {
    let limits = Limits { processes: 80, ..Limits::default() };
    let full = daemons(&limits).into_iter().find(|(level, _)| *level == Level::Full);
    let Some((_, daemon)) = full else { return };
    let session = daemon.open(1).await;
    // Only the number of a namespace of its own, or the limit of an ordinary user, will do.
    let in_force = ok(&session, 1, "ulimit -u; cat /proc/sys/kernel/pid_max").await;
    let root = rustix::process::geteuid().is_root();
    if in_force.lines().next() != Some("80") || (root && in_force.lines().nth(1) != Some("80")) {
        eprintln!("SKIPPED: the limit on processes is not in force: {in_force}");
        return;
    }
    let other = crate::support::open(&daemon.client(), &SESSION.replace('0', "f"), 1).await.unwrap();
    let bomb = json!({ "command": "bomb() { bomb | bomb & }; bomb; sleep 60", "timeout": 1 });
    let (ended, beside) = tokio::join!(
        call(&session, 2, "bash", bomb),
        bash(&other, 1, "for _ in $(seq 50); do /bin/true || exit; done; echo fine")
    );
    assert_eq!((ended.exit, beside.as_str()), (Exit::Timeout(1), "fine"));
    assert_eq!(ok(&session, 3, "echo alive").await, "alive");
}
