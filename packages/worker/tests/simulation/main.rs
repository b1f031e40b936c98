//! Whole days in seconds, from a seed: workers with their leaves and their clients of the hands, as they are, over a
//! network that delays, loses and cuts, with processes that sleep and die; and an outsider's ledger of what was done.
//!
//! Real: the worker, the harness, the embedded store, the exec channel's client. Played: time (tokio's, paused), the
//! network, the processes' fates, the hands behind the channel, the model, people.
//!
//! `SIM_SEED=n` replays one day and tells what happened in it (`-- --nocapture`), `SIM_SEEDS=n` plays so many.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod check;
mod hands;
mod model;
mod net;
mod people;
mod remote;
mod world;

use std::collections::BTreeMap;

use hands::Memory;
use world::Day;

/// Days that a usual run of the tests plays.
const SEEDS: u64 = 6;

#[test]
fn nothing_is_lost_and_nothing_is_done_twice() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let replayed = number("SIM_SEED");
    let seeds = match replayed {
        Some(seed) => seed..seed + 1,
        None => 1..number("SIM_SEEDS").unwrap_or(SEEDS) + 1,
    };
    let mut all = BTreeMap::new();
    for seed in seeds.clone() {
        let day = std::panic::catch_unwind(|| world::play(seed, replayed.is_some(), Memory::Calls));
        let Day { counts, .. } = day.unwrap_or_else(|_| panic!("replay with SIM_SEED={seed}"));
        println!("seed {seed}: {counts:?}");
        for (what, n) in counts {
            *all.entry(what).or_insert(0) += n;
        }
    }
    println!("{} days: {all:?}", seeds.end - seeds.start);
    // So that the promise is not kept by nothing ever happening.
    let happened = |what| all.get(what).is_some_and(|n| *n > 0);
    for what in ["takeovers", "calls lost", "approved", "rejected", "done", "cancelled", "late", "unheard"] {
        assert!(replayed.is_some() || seeds.end < SEEDS || happened(what), "no {what} on any day: {all:?}");
    }
}

#[test]
fn hands_that_forget_are_found_out() {
    let day = std::panic::catch_unwind(|| world::play(1, false, Memory::None));
    let wrong = day.map(|day| day.counts).expect_err("a command is sent more than once on such a day");
    let wrong = wrong.downcast_ref::<String>().unwrap();
    assert!(wrong.starts_with("done twice"), "{wrong}");
}

#[test]
fn a_seed_is_a_day() {
    let [one, two] = [1, 2].map(|_| world::play(3, false, Memory::Calls));
    let differs = one.diary.iter().zip(&two.diary).find(|(a, b)| a != b);
    assert_eq!((differs, one.diary.len()), (None, two.diary.len()));
}
