//! A user with no more rights than the documents say.

use std::collections::BTreeSet;

use torpor_core::key::KeyStore as _;
use torpor_core::queue::WorkQueue as _;
use torpor_core::store::Error;
use torpor_store_redis::{Address, Options, Store};
use torpor_testkit::conformance::Fixture;
use torpor_testkit::conformance::keys::Keys;
use torpor_testkit::conformance::schedules::Schedules;
use torpor_testkit::redis::Server;
use torpor_testkit::sample::{created, first};

use crate::place::Place;

/// The page that says which rights are needed.
const PAGE: &str = include_str!("../../../../docs/specs/2026-11-20-redis-servers.md");

/// What a program needs beside what scripts do: to run them, to wait, and to find its way.
const OF_CONNECTIONS: [&str; 7] = ["cluster|slots", "command|info", "config|get", "eval", "evalsha", "role", "wait"];

/// What waits on connections of its own.
const OF_WAITING: [&str; 3] = ["blpop", "subscribe", "unsubscribe"];

/// The words of the page's rule, without name and password.
fn rule() -> Vec<&'static str> {
    let block = PAGE.split("```acl\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the page has a rule");
    block.split_whitespace().filter(|word| *word != "\\").skip_while(|word| !word.starts_with("resetkeys")).collect()
}

/// A server where `worker` has these rights; whoever gives no name may do everything.
fn server(rights: &[&str]) -> Option<(Server, String)> {
    let server = Server::start()?;
    allow(&server, rights);
    let url = format!("redis://worker:secret@127.0.0.1:{}", server.port());
    Some((server, url))
}

fn allow(server: &Server, rights: &[&str]) {
    let mut set = vec!["ACL", "SETUSER", "worker", "reset", "on", ">secret"];
    set.extend(rights);
    server.ask(&set).unwrap();
}

fn place() -> Option<Place> {
    let server = Server::shared()?;
    allow(&server, &rule());
    Some(Place::new(format!("redis://worker:secret@127.0.0.1:{}", server.port()), vec![server.port()], server))
}

async fn fresh() -> Option<Fixture> {
    Some(place()?.fixture().await)
}

async fn fresh_keys() -> Option<Keys> {
    Some(place()?.keys().await)
}

async fn fresh_schedules() -> Option<Schedules> {
    Some(place()?.schedules().await)
}

torpor_testkit::conformance!(fresh);
torpor_testkit::key_conformance!(fresh_keys);
torpor_testkit::schedule_conformance!(fresh_schedules);

/// The commands that the rights are asked for at every start.
fn asked() -> BTreeSet<String> {
    let lua = include_str!("../../src/lua/rights.lua");
    let names = lua.lines().filter_map(|line| line.trim().strip_prefix("{'"));
    names
        .map(|line| {
            let words: Vec<&str> = line.split('\'').collect();
            match words[0] {
                name @ ("XGROUP" | "XINFO") => format!("{name}|{}", words[2]).to_lowercase(),
                name => name.to_lowercase(),
            }
        })
        .collect()
}

/// The page names what is asked for at the start, and nothing else; and scripts use nothing else.
#[test]
fn the_rule_is_the_least_that_works() {
    let granted: BTreeSet<String> =
        rule().iter().filter_map(|word| word.strip_prefix('+')).map(str::to_owned).collect();
    let mut needed = asked();
    let used: BTreeSet<String> = used().into_iter().chain(OF_WAITING.map(str::to_owned)).collect();
    assert_eq!(needed, used, "rights.lua asks for what scripts use, and nothing else");
    needed.extend(OF_CONNECTIONS.map(str::to_owned));
    assert_eq!(granted, needed);
}

/// The commands that scripts use.
fn used() -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lua")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let lua = std::fs::read_to_string(&path).unwrap();
            for part in lua.split("call('").skip(1) {
                let words: Vec<&str> = part.split('\'').collect();
                used.insert(match words[0] {
                    name @ ("XGROUP" | "XINFO") => format!("{name}|{}", words[2]).to_lowercase(),
                    name => name.to_lowercase(),
                });
            }
        }
    }
    used
}

/// Whoever may not do all that scripts do is refused at the start, by the name of what is missing: a script that fails in its
/// middle has done half.
#[tokio::test]
async fn a_user_without_a_right_is_refused_before_anything_is_done() {
    let rule = rule();
    let Some((server, url)) = server(&rule) else { return };
    let address = Address::parse(&url).unwrap();
    let keys = || server.ask(&["DBSIZE"]).unwrap();
    for right in asked() {
        let less: Vec<&str> = rule.iter().copied().filter(|word| *word != format!("+{right}")).collect();
        allow(&server, &less);
        let refused = Store::connect(&address, Options::default()).await.unwrap_err();
        let name = right.to_uppercase().replace('|', " ");
        // Without the time nothing can be asked at all; the server says so itself.
        let named = |why: &str| why.contains(&name) || (right == "time" && why.contains("script"));
        assert!(matches!(&refused, Error::Failed(why) if named(why)), "{right}: {refused}");
        assert_eq!(keys(), "0", "{right}");
    }
    // What others keep is none of its business.
    allow(&server, &rule);
    let elsewhere = Options { prefix: "other".to_owned(), ..Options::default() };
    let refused = Store::connect(&address, elsewhere).await.unwrap_err();
    assert!(matches!(&refused, Error::Failed(why) if why.contains("may not")), "{refused}");
    let store = Store::connect(&address, Options::default()).await.unwrap();
    created(store.enqueue(first("s")).await.unwrap());
    assert!(store.keys(None).await.unwrap().is_some());
}
