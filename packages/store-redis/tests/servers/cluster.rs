//! A cluster: every shard on one node, wherever that is and becomes.

use std::time::Duration;

use torpor_core::Position;
use torpor_core::log::{Append, AppendError, SessionLog as _};
use torpor_core::queue::WorkQueue as _;
use torpor_core::run::RunStore as _;
use torpor_core::store::Error;
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::redis::{Cluster, Server};
use torpor_testkit::sample::{claimed, first, first_claimed, key, note, write};

use crate::place::Place;

/// The node that has shard 0 in the beginning, and another one.
const HOME: usize = 2;
const ELSEWHERE: usize = 0;

fn place(shards: u16) -> Option<Place> {
    let cluster = Cluster::shared()?;
    let ports = cluster.nodes().iter().map(Server::port).collect();
    Some(Place::new(cluster.url(), ports, cluster).options(|options| options.shards = shards))
}

mod one_shard {
    use torpor_testkit::conformance::Fixture;
    use torpor_testkit::conformance::keys::Keys;
    use torpor_testkit::conformance::schedules::Schedules;

    async fn fresh() -> Option<Fixture> {
        Some(super::place(1)?.fixture().await)
    }

    async fn fresh_keys() -> Option<Keys> {
        Some(super::place(1)?.keys().await)
    }

    async fn fresh_schedules() -> Option<Schedules> {
        Some(super::place(1)?.schedules().await)
    }

    torpor_testkit::conformance!(fresh);
    torpor_testkit::key_conformance!(fresh_keys);
    torpor_testkit::schedule_conformance!(fresh_schedules);
}

mod four_shards {
    use torpor_testkit::conformance::Fixture;
    use torpor_testkit::conformance::keys::Keys;
    use torpor_testkit::conformance::schedules::Schedules;

    async fn fresh() -> Option<Fixture> {
        Some(super::place(4)?.fixture().await)
    }

    async fn fresh_keys() -> Option<Keys> {
        Some(super::place(4)?.keys().await)
    }

    async fn fresh_schedules() -> Option<Schedules> {
        Some(super::place(4)?.schedules().await)
    }

    torpor_testkit::conformance!(fresh);
    torpor_testkit::key_conformance!(fresh_keys);
    torpor_testkit::schedule_conformance!(fresh_schedules);
}

async fn connect(cluster: &Cluster) -> Store {
    let options = Options { timeout: Duration::from_secs(2), ..Options::default() };
    Store::connect(&Address::parse(&cluster.url()).unwrap(), options).await.unwrap()
}

/// The slot of shard 0.
fn slot(cluster: &Cluster) -> u16 {
    cluster.nodes()[0].ask(&["CLUSTER", "KEYSLOT", "torpor:{0}:"]).unwrap().parse().unwrap()
}

/// While the keys of a shard are on two nodes no script sees all of them, so none runs: what could not see a session would
/// make it anew. Afterwards everything is where it was, for processes that were there all the time as well.
#[tokio::test]
async fn a_shard_that_is_being_moved_is_away_and_comes_back_whole() {
    let Some(cluster) = Cluster::start() else { return };
    let store = connect(&cluster).await;
    let lease = claimed(store.enqueue(first_claimed("s")).await.unwrap());
    store.append(write(&lease, 0, vec![note(&lease)])).await.unwrap();
    let slot = slot(&cluster);
    cluster.begin_move(slot, HOME, ELSEWHERE);
    // One key after the other arrives elsewhere, and at no point anything is done to a part of them.
    let mut stages = 0;
    loop {
        let submit = store.enqueue(first(&format!("new-{stages}"))).await;
        assert!(matches!(&submit, Err(Error::Unavailable(_))), "{submit:?}");
        let claim = store.claim(&"w".into(), 10, Duration::ZERO).await;
        assert!(matches!(&claim, Err(Error::Unavailable(_))), "{claim:?}");
        let append = store.append(write(&lease, 1, vec![note(&lease)])).await;
        assert!(matches!(&append, Err(AppendError::Store(Error::Unavailable(_)))), "{append:?}");
        stages += 1;
        if !cluster.move_keys(slot, HOME, ELSEWHERE, 1) {
            break;
        }
    }
    assert!(stages > 5, "{stages}");
    cluster.finish_move(slot, HOME, ELSEWHERE);
    assert_eq!(store.append(write(&lease, 1, vec![note(&lease)])).await.unwrap(), Position(2));
    assert_eq!(store.runs_of_all().await, 1, "nothing came of what was refused");
    let fresh = connect(&cluster).await;
    assert_eq!(fresh.open(&key("s")).await.unwrap().unwrap().head.position, Position(2));
}

/// What a store counts of everybody's runs.
trait Count {
    async fn runs_of_all(&self) -> usize;
}

impl Count for Store {
    async fn runs_of_all(&self) -> usize {
        let filter = torpor_core::run::Filter { limit: 200, ..Default::default() };
        self.list(&filter).await.unwrap().runs.len()
    }
}

/// Whoever names one node of several is told, and not that something is being reorganised for ever.
#[tokio::test]
async fn one_host_of_a_cluster_is_no_single_server() {
    let Some(cluster) = Cluster::shared() else { return };
    for node in cluster.nodes() {
        let address = Address::parse(&node.url()).unwrap();
        match Store::connect(&address, Options { prefix: "single".to_owned(), ..Options::default() }).await {
            Ok(_) => panic!("a node of a cluster was taken for a single server"),
            Err(Error::Failed(why)) => assert!(why.contains("part of a cluster"), "{why}"),
            Err(other) => panic!("{other}"),
        }
    }
}

/// The node of a shard dies under its writers: they are told the truth while there is none, and go on by themselves with the
/// replica that took its place.
#[tokio::test]
async fn writers_go_on_when_a_replica_takes_over() {
    let Some(mut cluster) = Cluster::with(1, &[]) else { return };
    let store = connect(&cluster).await;
    let lease = claimed(store.enqueue(first_claimed("s")).await.unwrap());
    for n in 0..50 {
        store.append(write(&lease, n, vec![note(&lease)])).await.unwrap();
    }
    replicated(&cluster.nodes()[HOME]);
    cluster.node(HOME).kill();
    for n in 50..100 {
        let (position, _) = insist(&store, write(&lease, n, vec![note(&lease)])).await;
        assert_eq!(position, Position(n + 1));
    }
    let entries = store.read(&key("s"), Position(1), 1000).await.unwrap();
    assert_eq!(entries.len(), 100);
}

/// Waits until a primary's replica has all that it has: what came last is not promised to survive without `WAIT`.
pub(crate) fn replicated(primary: &Server) {
    let answer = primary.ask(&["WAIT", "1", "5000"]);
    assert_eq!(answer.as_deref(), Ok("1"));
}

/// Appends as a brain does: what could not be answered is asked again, as the same append. Answers how often that was.
pub(crate) async fn insist(store: &Store, append: Append) -> (Position, u32) {
    let repeated = async {
        let mut refusals = 0;
        loop {
            match store.append(append.clone()).await {
                Ok(position) => return (position, refusals),
                Err(AppendError::Store(e)) if e.is_retryable() => refusals += 1,
                Err(other) => panic!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), repeated).await.expect("the store comes back")
}
