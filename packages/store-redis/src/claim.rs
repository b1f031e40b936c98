//! Claiming: looking at every shard, waiting for something to look for, and setting aside what cannot be read.
//!
//! Owns: `lua/claim.lua` and what is made of its answer. Must not know: what a claimed run is about.

use std::sync::atomic::Ordering;
use std::time::Duration;

use torpor_core::log::Head;
use torpor_core::queue::Lease;
use torpor_core::{Epoch, Position, WorkerId, store};

use crate::Store;
use crate::link::Lane;
use crate::record;
use crate::reply::Reply;
use crate::script::{Args, Script, script};
use crate::shard::Shard;
use crate::wake::Listening;

/// Most runs that one claim answers.
const MAX_CLAIM: usize = 256;

/// Runs of one shard that one claim sets aside before it looks elsewhere.
const MAX_SET_ASIDE: usize = 256;

/// Most of what is wrong with a run that its dead letter quotes, in characters: it may quote the run.
const MAX_REASON_CHARS: usize = 500;

/// Who waits looks again after this, whether anybody said so or not: hints may get lost, and so may whoever heard one.
const LOOK: Duration = Duration::from_secs(1);

/// Between two looks when there is something to be done but nothing that could be claimed.
const BREATH: Duration = Duration::from_millis(10);

static CLAIM: Script = script!(
    "claim",
    ["stream", "queue", "dead", "gates", "hooks", "log", "settle", "verdict", "record", "lease", "tidy"]
);
static ASIDE: Script = script!("aside", ["stream", "queue", "dead", "gates", "hooks", "settle"]);

/// What one look found.
#[derive(Default)]
struct Seen {
    leases: Vec<Lease>,
    /// There is more.
    more: bool,
    /// After so long more becomes claimable by the passing of time alone.
    due: Option<Duration>,
    /// So many runs were set aside.
    aside: usize,
}

/// Whoever was woken to look must look, or wake another: dropped in the middle, it passes the wake-up on.
struct Baton<'a>(Option<&'a Listening<'a>>);

impl Drop for Baton<'_> {
    fn drop(&mut self) {
        if let Some(listening) = self.0 {
            listening.pass_on();
        }
    }
}

impl Store {
    /// Claims up to `max` runs, waiting up to `wait` for the first.
    pub(crate) async fn claim_runs(
        &self,
        worker: &WorkerId,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, store::Error> {
        let max = max.min(MAX_CLAIM);
        if max == 0 {
            return Ok(Vec::new());
        }
        let deadline = self.clock.now().after(wait);
        // Listening starts before looking, so that nothing that becomes claimable in between is missed.
        let listening = (!wait.is_zero()).then(|| self.wake.listen());
        loop {
            let mut baton = Baton(listening.as_ref());
            let Seen { leases, more, due, .. } = self.look_everywhere(worker, max).await?;
            baton.0 = None;
            if !leases.is_empty() {
                return Ok(leases);
            }
            if more {
                continue; // what it found it had to set aside
            }
            let now = self.clock.now();
            let (Some(listening), true) = (&listening, now < deadline) else { return Ok(Vec::new()) };
            let come = async {
                match due {
                    Some(due) if due.is_zero() => tokio::time::sleep(BREATH).await,
                    Some(due) => self.clock.sleep(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = listening.notified() => {}
                () = come => {}
                () = self.clock.sleep(deadline.since(now)) => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Looks at one shard after the other, beginning elsewhere each time, until there are as many as were asked for.
    async fn look_everywhere(&self, worker: &WorkerId, max: usize) -> Result<Seen, store::Error> {
        let shards: Vec<Shard> = self.shards.all().collect();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % shards.len().max(1);
        let mut all = Seen::default();
        let mut failed = None;
        for shard in shards.iter().cycle().skip(first).take(shards.len()) {
            let mut aside = 0;
            while all.leases.len() < max {
                match self.look_at(*shard, worker, max - all.leases.len()).await {
                    Ok(seen) => {
                        aside += seen.aside;
                        let again = seen.aside > 0 && aside < MAX_SET_ASIDE;
                        all.leases.extend(seen.leases);
                        if again {
                            continue;
                        }
                        all.more |= seen.more;
                        all.due = all.due.into_iter().chain(seen.due).min();
                    }
                    // What was claimed elsewhere must not be lost, and a shard that is away stops no other.
                    Err(e) => failed = Some(e),
                }
                break;
            }
        }
        match failed {
            Some(e) if all.leases.is_empty() => Err(e),
            _ => Ok(all),
        }
    }

    async fn look_at(&self, shard: Shard, worker: &WorkerId, max: usize) -> Result<Seen, store::Error> {
        let args = Args::new().text(worker.as_str()).number(max as u64).number(self.lease_ms());
        let mut reply = self.run(Lane::Control, shard, &CLAIM, args).await?;
        let now = reply.number()?;
        let due = reply.maybe_number()?.map(|due| Duration::from_millis(due.saturating_sub(now)));
        let mut seen = Seen { more: reply.flag()?, due, ..Seen::default() };
        let foreign = reply.number()?;
        if foreign > 0 {
            tracing::error!(entries = foreign, "the queue held entries that this store did not write: dead letters");
        }
        let mut taken = reply.list()?;
        let mut unreadable = Vec::new();
        while taken.len() > 0 {
            let mut it = taken.list()?;
            let (run, epoch) = (it.lossy()?, it.number()?);
            match lease(worker, epoch, it) {
                Ok(lease) => {
                    self.tell_changed(shard, &lease.record.run_id);
                    seen.leases.push(lease);
                }
                Err(store::Error::Unreadable(why) | store::Error::Newer(why)) => unreadable.push((run, epoch, why)),
                Err(e) => return Err(e),
            }
        }
        let mut aside = reply.list()?;
        seen.aside = aside.len() + unreadable.len();
        while aside.len() > 0 {
            let reason = aside.lossy()?; // not within the macro, which reads nothing where nobody listens
            tracing::error!(reason, "set a run aside");
        }
        if !unreadable.is_empty() {
            self.set_aside(shard, unreadable).await;
        }
        Ok(seen)
    }

    /// Runs of this process that it cannot read become dead letters. Where that fails, their leases end and the next claim
    /// finds them.
    async fn set_aside(&self, shard: Shard, runs: Vec<(String, u64, String)>) {
        let mut args = Args::new();
        for (run, epoch, why) in runs {
            let why: String = why.chars().take(MAX_REASON_CHARS).collect();
            let named = if why.contains(&run) { String::new() } else { format!("run {run}: ") };
            let reason = format!("its stored form cannot be read by this build: {named}{why}");
            tracing::error!(run, reason, "set a run aside as a dead letter");
            args = args.text(run).number(epoch).text(reason);
        }
        if let Err(e) = self.run(Lane::Control, shard, &ASIDE, args).await {
            tracing::warn!(error = %e, "runs that cannot be read could not be set aside; the next claim will");
        }
    }

    pub(crate) fn lease_ms(&self) -> u64 {
        u64::try_from(self.options.lease.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

fn lease(worker: &WorkerId, epoch: u64, mut it: Reply) -> Result<Lease, store::Error> {
    let head = Head {
        epoch: Epoch(epoch),
        position: Position(it.number()?),
        resume_from: Position(it.number()?),
        next_gate: it.number()?,
    };
    let cancel = it.flag()?;
    let born = Epoch(it.maybe_number()?.unwrap_or(0));
    let record = record::read(it.list()?)?;
    Ok(Lease { attempt: record.attempts, epoch: head.epoch, born, worker: worker.clone(), head, cancel, record })
}
