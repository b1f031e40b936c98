//! The seam of the queue: each operation is one script on the shard that holds the run, or on all of them at once where only the
//! run's id is known.
//!
//! Owns: what is asked of which shard, and waiting to be told of cancels. Must not know: where a run stands (`lua/lib/queue.lua`).

use std::time::Duration;

use async_trait::async_trait;
use torpor_core::queue::{Backlog, Cancelled, Enqueued, Lease, LeaseKey, NewRun, Release, WorkQueue};
use torpor_core::{Epoch, RunId, WorkerId, store};

use crate::Store;
use crate::enqueue::{self, ENQUEUE};
use crate::link::Lane;
use crate::record;
use crate::script::{Args, Script, script};

/// Leases that one script renews.
const HEARTBEAT: usize = 1_000;

/// Cancels that one answer tells.
const MAX_TOLD: u64 = 1_000;

/// Longest wait of a run that is given back, in milliseconds: a number that Lua keeps exactly.
const MAX_WAIT_MS: u64 = 1 << 42;

/// Who waits to be told looks again after this: hints may get lost.
const LOOK: Duration = Duration::from_secs(1);

static HEARTBEAT_SCRIPT: Script = script!("heartbeat", ["stream", "queue"]);
static RELEASE: Script = script!("release", ["stream", "queue"]);
static CANCEL: Script = script!("cancel", ["stream", "queue", "dead", "gates", "hooks", "settle", "record"]);
static TO_CANCEL: Script = script!(reads "to_cancel", []);
static TOLD: Script = script!("told", []);
static DEAD_LETTER: Script = script!("dead_letter", ["dead"]);
static BACKLOG: Script = script!(reads "backlog", ["gates", "hooks"]);

impl Store {
    /// Renews leases; answers those that no shard knows as this worker's, by number.
    async fn renew(&self, worker: &WorkerId, leases: &[LeaseKey]) -> Result<Vec<usize>, store::Error> {
        // In time for another one before the lease ends: a shard or a connection that says nothing must not cost those of others.
        let args = Args::new().within(self.options.lease / 2);
        let mut args = args.text(worker.as_str()).number(self.lease_ms());
        for key in leases {
            args = args.text(key.run.as_str()).number(key.epoch.0);
        }
        let mut lost: Vec<usize> = (0..leases.len()).collect();
        let mut failed = None;
        for answer in self.run_all(Lane::Control, &HEARTBEAT_SCRIPT, &args).await {
            match answer {
                Ok((_, mut reply)) => {
                    let mut here = reply.list()?;
                    let mut theirs = Vec::with_capacity(here.len());
                    while here.len() > 0 {
                        theirs.push(here.number()?);
                    }
                    lost.retain(|n| theirs.contains(&(*n as u64)));
                }
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            // Whether those are lost is known by a shard that did not answer.
            Some(e) if !lost.is_empty() => Err(e),
            _ => Ok(lost),
        }
    }

    async fn told(&self, worker: &WorkerId) -> Result<Vec<LeaseKey>, store::Error> {
        let args = Args::new().text(worker.as_str()).number(MAX_TOLD);
        let (mut keys, mut failed) = (Vec::new(), None);
        for answer in self.run_all(Lane::Control, &TO_CANCEL, &args).await {
            match answer {
                Ok((shard, mut reply)) => {
                    let mut heard = Args::new().text(worker.as_str());
                    let any = reply.len() > 0;
                    while reply.len() > 0 {
                        let told = reply.lossy()?;
                        heard = heard.text(&told);
                        let key = told.split_once(' ').and_then(|(run, epoch)| {
                            Some(LeaseKey { run: RunId::parse(run)?, epoch: Epoch(epoch.parse().ok()?) })
                        });
                        match key {
                            Some(key) => keys.push(key),
                            None => tracing::warn!(told, "left out a cancel that cannot be read"),
                        }
                    }
                    // Only now that they have arrived: an answer that was lost is given again. So is this, if it fails.
                    if any && let Err(e) = self.run(Lane::Control, shard, &TOLD, heard).await {
                        tracing::debug!(error = %e, "cancels will be told again");
                    }
                }
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            Some(e) if keys.is_empty() => Err(e),
            _ => Ok(keys),
        }
    }
}

#[async_trait]
impl WorkQueue for Store {
    async fn enqueue(&self, new: NewRun) -> Result<Enqueued, store::Error> {
        let args = enqueue::args(&new, self.lease_ms(), self.options.max_queued)?;
        let shard = self.shards.of_tenant(new.session.tenant());
        let reply = self.run(Lane::Data, shard, &ENQUEUE, args).await?;
        enqueue::answer(new, reply)
    }

    async fn claim(&self, worker: &WorkerId, max: usize, wait: Duration) -> Result<Vec<Lease>, store::Error> {
        self.claim_runs(worker, max, wait).await
    }

    async fn heartbeat(&self, worker: &WorkerId, leases: &[LeaseKey]) -> Result<Vec<LeaseKey>, store::Error> {
        let mut lost = Vec::new();
        for some in leases.chunks(HEARTBEAT) {
            lost.extend(self.renew(worker, some).await?.into_iter().filter_map(|n| some.get(n)).cloned());
        }
        Ok(lost)
    }

    async fn release(&self, lease: &LeaseKey, why: Release) -> Result<bool, store::Error> {
        let (after, counts) = match why {
            Release::HandBack => (Duration::ZERO, false),
            Release::Retry { after } => (after, true),
            Release::Wait { after } => (after, false),
        };
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).min(MAX_WAIT_MS);
        let args = Args::new().text(lease.run.as_str()).number(lease.epoch.0).number(after).flag(counts);
        let Some((shard, mut reply)) = self.ask_all(Lane::Control, &RELEASE, &args).await? else { return Ok(false) };
        let released = reply.flag()?;
        if released {
            self.tell_changed(shard, &lease.run);
        }
        Ok(released)
    }

    async fn cancel(&self, run: &RunId) -> Result<Cancelled, store::Error> {
        let found = self.ask_all(Lane::Control, &CANCEL, &Args::new().text(run.as_str())).await?;
        let Some((shard, mut reply)) = found else { return Ok(Cancelled::Unknown) };
        self.tell_changed(shard, run);
        let ended = reply.text()? == "ended";
        let record = Box::new(record::read(reply.list()?)?);
        Ok(if ended { Cancelled::Ended(record) } else { Cancelled::Asked(record) })
    }

    async fn to_cancel(&self, worker: &WorkerId, wait: Duration) -> Result<Vec<LeaseKey>, store::Error> {
        let deadline = self.clock.now().after(wait);
        // Watching comes before looking, so that no cancel falls between the two.
        let mut news: Vec<_> = self
            .shards
            .all()
            .map(|shard| self.news.watch(&format!("{}c:{}", self.shards.prefix(shard), worker.as_str())))
            .collect();
        loop {
            let keys = self.told(worker).await?;
            let now = self.clock.now();
            if !keys.is_empty() || now >= deadline {
                return Ok(keys);
            }
            let any = futures::future::select_all(news.iter_mut().map(|it| Box::pin(it.changed())));
            tokio::select! {
                _ = any => {}
                () = self.clock.sleep(deadline.since(now)) => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn dead_letter(&self, run: &RunId, reason: &str) -> Result<(), store::Error> {
        let args = Args::new().text(run.as_str()).text(reason);
        self.ask_all(Lane::Control, &DEAD_LETTER, &args).await.map(drop)
    }

    async fn backlog(&self) -> Result<Backlog, store::Error> {
        let mut all = Backlog::default();
        for answer in self.run_all(Lane::Control, &BACKLOG, &Args::new()).await {
            let (_, mut it) = answer?;
            all.ready += it.number()?;
            all.waiting += it.number()?;
            all.leased += it.number()?;
            all.paused += it.number()?;
            all.dead += it.number()?;
            all.webhooks += it.number()?;
            all.files += it.number()?;
        }
        Ok(all)
    }
}
