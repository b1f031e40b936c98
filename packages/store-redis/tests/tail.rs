//! What opening and reading a log costs, counted by the server; and logs with large entries.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

mod support;

use support::{Plain, append, running, store};
use torpor_core::Position;
use torpor_core::entry::{Body, Entry};
use torpor_core::log::{AppendError, SessionLog as _};
use torpor_core::outcome::Status;
use torpor_core::queue::Lease;
use torpor_core::run::RunStore as _;
use torpor_core::store::Error;
use torpor_store_redis::{Options, Store};
use torpor_testkit::redis::Server;
use torpor_testkit::sample::{checkpoint, done, ended, key, note, write};

/// Entries behind the checkpoint.
const TAIL: u64 = 40;

/// A session of so many entries, the last of which are a checkpoint and [`TAIL`] more.
async fn session(store: &Store, name: &str, entries: u64) {
    let lease = running(store, name).await;
    let mut head = 0;
    while head < entries - TAIL - 1 {
        let n = (entries - TAIL - 1 - head).min(10_000);
        head = append(store, &lease, head, (0..n).map(|_| note(&lease)).collect()).await.0;
    }
    append(store, &lease, head, vec![checkpoint(head + 1)]).await;
    append(store, &lease, head + 1, (0..TAIL).map(|_| note(&lease)).collect()).await;
}

#[tokio::test]
async fn opening_a_session_of_100_000_entries_reads_as_much_as_one_of_100() {
    let Some(server) = Server::start() else { return };
    let store = store(&server, Options::default()).await;
    let mut plain = Plain::to(&server).await;
    let mut costs = Vec::new();
    for entries in [100, 100_000] {
        let name = format!("of {entries:06}");
        session(&store, &name, entries).await;
        store.open(&key(&name)).await.unwrap(); // the script is known now
        let () = plain.ask(&["CONFIG", "RESETSTAT"]).await;
        let opened = store.open(&key(&name)).await.unwrap().unwrap();
        let sent = plain.count("stats", "total_net_output_bytes").await;
        let calls = [plain.calls("evalsha").await, plain.calls("hmget").await, plain.calls("xrange").await];
        assert_eq!(opened.head.position, Position(entries));
        assert_eq!(opened.tail.len() as u64, TAIL + 1);
        costs.push((calls, sent));
    }
    let [(calls, sent), (calls_of_many, sent_of_many)] = costs[..] else { panic!("two sessions") };
    assert_eq!(calls, calls_of_many, "scripts, fields, ranges");
    assert_eq!(calls[0], 1, "one round trip");
    // Positions and their digits differ, and so does what the server says of its own counts; entries do not.
    assert!(sent_of_many.abs_diff(sent) < 64 + 16 * TAIL, "{sent} and {sent_of_many} bytes");
}

/// An entry of so many bytes.
fn large(lease: &Lease, bytes: usize) -> Body {
    match note(lease) {
        Body::Takeover { run, .. } => Body::Reminded { run, text: "x".repeat(bytes) },
        other => other,
    }
}

#[tokio::test]
async fn large_appends_and_large_tails_come_through() {
    const MANY: u64 = 10;
    let Some(server) = Server::start() else { return };
    let store = store(&server, Options::default()).await;
    let lease = running(&store, "s").await;
    // In one append, and one by one: 20 MiB of tail, which is five pages.
    append(&store, &lease, 0, (0..MANY).map(|_| large(&lease, 1 << 20)).collect()).await;
    for n in 0..MANY {
        append(&store, &lease, MANY + n, vec![large(&lease, 1 << 20)]).await;
    }
    let mut plain = Plain::to(&server).await;
    let () = plain.ask(&["CONFIG", "RESETSTAT"]).await;
    let opened = store.open(lease.session()).await.unwrap().unwrap();
    let scripts = plain.calls("evalsha").await + plain.calls("eval").await;
    assert!((5..=8).contains(&scripts), "{scripts} pages");
    assert!(opened.tail.iter().map(|entry| entry.position.0).eq(1..=2 * MANY));
    assert!(opened.tail.iter().all(|entry| entry.body == large(&lease, 1 << 20)));

    let page = store.read(lease.session(), Position(3), 100).await.unwrap();
    assert_eq!(page.len(), 1, "a page ends with the entry that makes it large");
}

#[tokio::test]
async fn what_is_too_much_is_refused_before_it_is_sent() {
    let Some(server) = Server::start() else { return };
    let store = store(&server, Options::default()).await;
    let lease = running(&store, "s").await;
    let mut plain = Plain::to(&server).await;
    let before = plain.count("stats", "total_net_input_bytes").await;
    let refused = store.append(write(&lease, 0, vec![note(&lease); 10_001])).await.unwrap_err();
    let expected = "at most 10000 entries, got 10001";
    assert!(matches!(&refused, AppendError::Store(Error::Failed(why)) if why.contains(expected)), "{refused}");
    assert!(plain.count("stats", "total_net_input_bytes").await - before < 4_096);
    assert_eq!(store.open(lease.session()).await.unwrap().unwrap().head.position, Position(0));
}

#[tokio::test]
async fn what_somebody_does_to_a_log_by_hand_is_seen_or_does_no_harm() {
    let Some(server) = Server::start() else { return };
    let store = store(&server, Options::default()).await;
    let mut plain = Plain::to(&server).await;
    let lease = running(&store, "s").await;
    let log = &*plain.log_of("s").await;
    append(&store, &lease, 0, vec![note(&lease); 3]).await;
    let _: String = plain.ask(&["XADD", log, "3-1", "any", "thing"]).await;
    append(&store, &lease, 3, vec![note(&lease)]).await;
    let positions = |entries: Vec<Entry>| entries.iter().map(|entry| entry.position.0).collect::<Vec<_>>();
    assert_eq!(positions(store.read(&key("s"), Position(1), 10).await.unwrap()), [1, 2, 3, 4]);

    // In the place of the next one.
    let _: String = plain.ask(&["XADD", log, "5-0", "any", "thing"]).await;
    let refused = store.append(write(&lease, 4, vec![note(&lease), ended(&lease, done("ok"))])).await.unwrap_err();
    assert!(matches!(&refused, AppendError::Store(Error::Failed(_))), "{refused}");
    let opened = store.open(&key("s")).await.unwrap().unwrap();
    assert_eq!((opened.head.position, positions(opened.tail)), (Position(4), vec![1, 2, 3, 4]));
    let record = store.get(&lease.record.run_id).await.unwrap().unwrap();
    assert_eq!(record.status, Status::Running, "nothing of the append is there");

    let _: u64 = plain.ask(&["XDEL", log, "2-0"]).await;
    for refused in [
        store.open(&key("s")).await.map(drop).unwrap_err(),
        store.read(&key("s"), Position(1), 10).await.map(drop).unwrap_err(),
        store.read(&key("s"), Position(2), 10).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(&refused, Error::Unreadable(why) if why.contains("entry 2 is missing")), "{refused}");
    }
}
