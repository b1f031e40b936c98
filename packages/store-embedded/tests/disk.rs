//! A disk that takes no more at the moment of the commit: the calls fail, the process goes on, and what was
//! acknowledged is there.
//!
//! The test runs this very test binary as a child under a file size limit, which the kernel enforces on every write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use torpor_core::entry::Body;
use torpor_core::log::{AppendError, SessionLog};
use torpor_core::queue::WorkQueue as _;
use torpor_core::run::RunStore as _;
use torpor_core::{Position, store};
use torpor_store_embedded::{Options, Store};
use torpor_testkit::sample::{claimed, done, ended, first_claimed, key, write};

/// Set for the child: the folder to work in.
const FOLDER: &str = "TORPOR_TEST_DISK_FOLDER";

/// The limit for each file, in blocks as the shell counts them (512 or 1,024 bytes).
const BLOCKS: u32 = 1_500;

/// More appends than fit.
const TRIES: u64 = 2_000;

/// The child: appends until the disk is full, and then sees what still works.
#[tokio::test]
async fn child() {
    let Some(dir) = std::env::var_os(FOLDER) else { return };
    let store = Store::open(Path::new(&dir), Options::default()).unwrap();
    let lease = claimed(store.enqueue(first_claimed("s")).await.unwrap());
    let big = Body::Checkpoint { summary: "x".repeat(3_000), keep_from: Position(1), open_run: None };
    let append = |after| write(&lease, after, vec![big.clone()]);
    let mut head = 0;
    let mut refused = None;
    while refused.is_none() && head < TRIES {
        match store.append(append(head)).await {
            Ok(position) => head = position.0,
            Err(AppendError::Store(e)) => refused = Some(e),
            Err(e) => panic!("{e}"),
        }
    }
    assert!(matches!(refused, Some(store::Error::Failed(_))), "expected a failed store, got {refused:?}");

    // The writer lives, leases are kept, readers read, further appends are answered one way or the other.
    assert_eq!(store.heartbeat(&lease.worker, &[lease.key()]).await.unwrap(), []);
    assert!(store.get(&lease.record.run_id).await.unwrap().is_some());
    for _ in 0..3 {
        let answer = tokio::time::timeout(Duration::from_secs(20), store.append(append(head))).await;
        if let Ok(position) = answer.expect("an answer, not a hang") {
            head = position.0;
        }
    }
    assert_eq!(SessionLog::open(&store, &key("s")).await.unwrap().unwrap().head.position, Position(head));
    println!("\n@acknowledged {head}");
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // The signal that the limit sends is ignored, so that the write fails as on a full disk.
    let script = format!("trap '' XFSZ; ulimit -f {BLOCKS}; exec \"$0\" child --exact --nocapture");
    let child = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, dir.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{out}\n{}", String::from_utf8_lossy(&child.stderr));
    let said = out.lines().find_map(|l| l.strip_prefix("@acknowledged ")).expect("the child reports its head");

    let store = Store::open(dir.path(), Options::default()).unwrap();
    let opened = SessionLog::open(&store, &key("s")).await.unwrap().unwrap();
    assert_eq!(opened.head.position.to_string(), said);
    assert!(opened.tail.iter().map(|e| e.position.0).eq(1..=opened.head.position.0));
    assert!(!opened.tail.is_empty());
    // With room again, everything goes on.
    let lease = store.claim(&"w2".into(), 1, Duration::ZERO).await.unwrap().remove(0);
    store.append(write(&lease, lease.head.position.0, vec![ended(&lease, done("ok"))])).await.unwrap();
}
