//! What each operation costs: how many scripts the server runs for it. The page on this store has the same table.

use std::time::Duration;

use torpor_core::log::SessionLog as _;
use torpor_core::queue::{Lease, Release, WorkQueue as _};
use torpor_core::run::RunStore as _;
use torpor_core::{Position, RunId, WorkerId};
use torpor_store_redis::Options;
use torpor_testkit::sample::{created, first, first_claimed, note, write};

use crate::kit::Kit;

impl Kit {
    /// Scripts that the server was asked to run since it started.
    async fn scripts(&self) -> u64 {
        let info: String = self.ask("INFO commandstats").await;
        let calls = |name: &str| {
            let line =
                info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")).map(str::to_owned));
            line.and_then(|rest| rest.split(',').next().and_then(|n| n.parse::<u64>().ok())).unwrap_or(0)
        };
        calls("evalsha") + calls("eval")
    }
}

/// One round trip for each, whatever comes along with it.
#[tokio::test]
async fn every_operation_is_one_round_trip() {
    for shards in [1, 3] {
        let Some(kit) = Kit::alone(Options { shards, ..Options::default() }).await else { return };
        let worker = WorkerId::from("w");
        // Each twice: the first time, the server does not know the script yet.
        let mut last: Option<Vec<(&str, u64)>> = None;
        for round in 0..2 {
            let mut costs = Vec::new();
            macro_rules! cost {
                ($name:literal, $call:expr) => {{
                    let before = kit.scripts().await;
                    let answer = $call.await.unwrap();
                    costs.push(($name, kit.scripts().await - before));
                    answer
                }};
            }
            let session = |name: &str| format!("{name} {round}");
            created(cost!("enqueue", kit.store.enqueue(first(&session("a")))));
            for n in 0..9 {
                created(kit.store.enqueue(first(&session(&format!("b{n}")))).await.unwrap());
            }
            let leases: Vec<Lease> = cost!("claim of 10", kit.store.claim(&worker, 10, Duration::ZERO));
            assert_eq!(leases.len(), 10);
            cost!("claim of none", kit.store.claim(&worker, 10, Duration::ZERO));
            cost!("enqueue and claim", kit.store.enqueue(first_claimed(&session("c"))));
            let keys: Vec<_> = leases.iter().map(Lease::key).collect();
            cost!("heartbeat of 10", kit.store.heartbeat(&worker, &keys));
            let lease = &leases[0];
            cost!("append", kit.store.append(write(lease, 0, vec![note(lease); 3])));
            cost!("record", kit.store.get(&lease.record.run_id));
            cost!("open", kit.store.open(lease.session()));
            cost!("cancel", kit.store.cancel(&lease.record.run_id));
            cost!("to cancel", kit.store.to_cancel(&worker, Duration::ZERO));
            cost!("release", kit.store.release(&keys[1], Release::HandBack));
            cost!("dead letter", kit.store.dead_letter(&keys[2].run, "why"));
            cost!("backlog", kit.store.backlog());
            cost!("unknown run", kit.store.get(&RunId::generate()));
            let end = torpor_testkit::sample::ended(lease, torpor_testkit::sample::done("ok"));
            let head = cost!("end", kit.store.append(write(lease, 3, vec![end])));
            assert_eq!(head, Position(4));
            last = Some(costs);
            for lease in kit.claim("w", 100).await.iter().chain(&leases[2..]) {
                kit.finish(lease).await;
            }
        }
        let by_run_id =
            ["heartbeat of 10", "record", "cancel", "to cancel", "release", "dead letter", "backlog", "unknown run"];
        for (name, cost) in last.unwrap() {
            let expected = match name {
                "claim of none" => u64::from(shards),
                "to cancel" => u64::from(shards) + 1, // where there was something, it is noted that it has arrived
                "claim of 10" => cost.clamp(1, shards.into()), // until it has found as many as were asked for
                name if by_run_id.contains(&name) => u64::from(shards),
                _ => 1,
            };
            assert_eq!(cost, expected, "{name} with {shards} shards");
        }
    }
}
