//! Who holds what until when, in memory.
//!
//! A lease never outlives the process that keeps the store, so a heartbeat costs no disk write. The database knows
//! *that* a run is leased; this knows *how long*. The two are kept in step by one rule that needs no undo when a
//! commit fails: **a lease is added here before its commit and removed only after it.** What is here too long
//! expires on its own; what is missing here would never expire.

use std::collections::{BTreeMap, HashMap};

use torpor_core::queue::LeaseKey;
use torpor_core::{Epoch, RunId, WorkerId};

/// One lease.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// The run's row.
    pub(crate) row: i64,
    /// The session's row.
    pub(crate) session: i64,
    /// The epoch of the claim.
    pub(crate) epoch: Epoch,
    /// Who claimed.
    pub(crate) worker: WorkerId,
    /// When it ends, in milliseconds.
    pub(crate) until: u64,
}

/// All leases of this process, those that expired and were not claimed again included.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_run: HashMap<RunId, Held>,
    /// Those that have not been offered for a claim again, by their end.
    ends: BTreeMap<(u64, i64), RunId>,
}

impl Leases {
    /// Adds a lease, or sets a new end to one.
    pub(crate) fn put(&mut self, run: RunId, held: Held) {
        self.ends.insert((held.until, held.row), run.clone());
        let new = (held.until, held.row);
        if let Some(old) = self.by_run.insert(run, held) {
            let old = (old.until, old.row);
            if old != new {
                self.ends.remove(&old);
            }
        }
    }

    /// The lease with this name, live or expired, unless someone else has claimed the run since.
    pub(crate) fn get(&self, key: &LeaseKey) -> Option<&Held> {
        self.by_run.get(&key.run).filter(|h| h.epoch == key.epoch)
    }

    /// Whether the lease waits for its end here (and not, expired, in the queue for anyone to claim).
    pub(crate) fn is_waiting(&self, held: &Held) -> bool {
        self.ends.contains_key(&(held.until, held.row))
    }

    /// Leases whose time is over and that were not yet offered again.
    pub(crate) fn expired(&self, now: u64) -> Vec<(RunId, Held)> {
        self.ends
            .range(..=(now, i64::MAX))
            .filter_map(|(_, run)| self.by_run.get(run).map(|held| (run.clone(), held.clone())))
            .collect()
    }

    /// An expired lease is in the queue again; its owner may still revive it.
    pub(crate) fn offered(&mut self, held: &Held) {
        self.ends.remove(&(held.until, held.row));
    }

    /// The lease is over. Nothing happens when a later claim or heartbeat has replaced it.
    pub(crate) fn remove(&mut self, run: &RunId, held: &Held) {
        if self.by_run.get(run).is_some_and(|h| (h.row, h.epoch, h.until) == (held.row, held.epoch, held.until)) {
            self.by_run.remove(run);
            self.ends.remove(&(held.until, held.row));
        }
    }

    /// When the next lease ends.
    pub(crate) fn next_end(&self) -> Option<u64> {
        self.ends.first_key_value().map(|((until, _), _)| *until)
    }

    /// How many are live and how many have expired without being offered again.
    pub(crate) fn count(&self, now: u64) -> (u64, u64) {
        let expired = self.ends.range(..=(now, i64::MAX)).count();
        ((self.ends.len() - expired) as u64, expired as u64)
    }

    /// The lease on a run, whatever its epoch.
    pub(crate) fn of(&self, run: &RunId) -> Option<&Held> {
        self.by_run.get(run)
    }
}
