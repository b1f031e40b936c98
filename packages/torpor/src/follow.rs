//! Following a run live: its events in order, without a gap and without a repeat, over lost connections and servers
//! that come and go, until it has ended or waits for a person.
//!
//! Owns: when to come back, and when to stop. Must not know: how anything is shown ([`Watch`] does), what is decided.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{Error, Exit};
use crate::client::{Client, path};
use crate::ui;

pub(crate) mod calls;
pub(crate) mod lines;
mod outcome;
mod session;

pub(crate) use outcome::{cost, line as summary};
pub(crate) use session::{Mode, accompany};

/// First and longest pause before a connection is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a server may be away before its follower gives up.
const AWAY_LIMIT: Duration = Duration::from_secs(120);
/// How often a watcher may show how time passes.
const TICK: Duration = Duration::from_millis(250);

/// What sees the events of a run.
pub(crate) trait Watch {
    /// An event, in its order.
    fn event(&mut self, event: &Value);
    /// Time has passed; `status` is how the run stood when it was last looked at.
    fn tick(&mut self, status: &str);
    /// The server cannot be reached since so long.
    fn away(&mut self, since: Duration);
}

/// Shows nothing.
pub(crate) struct Silent;

impl Watch for Silent {
    fn event(&mut self, _: &Value) {}
    fn tick(&mut self, _: &str) {}
    fn away(&mut self, _: Duration) {}
}

/// One run that is followed, and how far.
pub(crate) struct Follower {
    client: Client,
    run: String,
    /// Position of the last entry that was shown.
    last: u64,
    /// The highest gate that was shown.
    gate: Option<u64>,
    /// How the run stood when it was last looked at.
    status: String,
}

impl Follower {
    /// Follows a run from its beginning.
    pub(crate) fn new(client: Client, run: &str) -> Self {
        Self { client, run: run.to_owned(), last: 0, gate: None, status: "queued".into() }
    }

    /// Shows what happens until the run has ended or waits for a verdict; its record then. A further call goes on where
    /// this one stopped. Dropping it loses nothing but what was not shown.
    ///
    /// # Errors
    /// When the server refuses, or is away for longer than [`AWAY_LIMIT`].
    pub(crate) async fn settle(&mut self, watch: &mut dyn Watch) -> Result<Value, Error> {
        let (mut pause, mut away) = (FIRST_PAUSE, None);
        loop {
            let before = self.last;
            match self.listen(watch).await {
                Ok(Some(record)) => return Ok(record),
                Ok(None) => away = None, // the stream was ended in order: come back for the rest
                Err(Error::Unavailable(why)) => {
                    let since = *away.get_or_insert_with(Instant::now);
                    if since.elapsed() > AWAY_LIMIT {
                        let next = format!("The run is kept; `torpor runs follow {}` goes on.", self.run);
                        return Err(Error::Unavailable(format!("{why}\n{next}")));
                    }
                    watch.away(since.elapsed());
                    if let Ok(found) = self.client.again() {
                        self.client = found;
                    }
                }
                Err(e) => return Err(e),
            }
            if self.last > before {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One connection: `None` when it ended before the run had settled.
    async fn listen(&mut self, watch: &mut dyn Watch) -> Result<Option<Value>, Error> {
        let record = self.record().await?;
        let ended = is_ended(&record);
        if self.waits(&record) {
            return Ok(Some(record));
        }
        let mut events = self.client.events(&self.run, self.last).await?;
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
        loop {
            let event = tokio::select! {
                event = events.next() => event?,
                _ = tick.tick() => {
                    watch.tick(&self.status);
                    continue;
                }
            };
            // Where everything of a run that has ended was shown before, nothing more comes.
            let Some(event) = event else { return Ok(ended.then_some(record)) };
            if let Some(position) = event["position"].as_u64() {
                if position <= self.last {
                    continue;
                }
                self.last = position;
            }
            watch.event(&event);
            match event["type"].as_str() {
                Some("run_ended") => return self.record().await.map(Some),
                Some("gate_requested") => {
                    self.gate = self.gate.max(event["gate"].as_u64());
                    let record = self.record().await?;
                    if self.waits(&record) {
                        return Ok(Some(record));
                    }
                }
                Some("run_started") => "running".clone_into(&mut self.status),
                _ => {}
            }
        }
    }

    async fn record(&mut self) -> Result<Value, Error> {
        let record = self.client.get(&path(&["runs", &self.run], &[])).await?.success()?;
        record["status"].as_str().unwrap_or_default().clone_into(&mut self.status);
        Ok(record)
    }

    /// Whether the run waits for a person and every gate of it was shown.
    fn waits(&self, record: &Value) -> bool {
        let last = record["gates"].as_array().and_then(|gates| gates.last()).and_then(|gate| gate["gateId"].as_u64());
        record["status"] == "paused" && last.is_some() && last <= self.gate
    }

    /// The server as it was last found.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

/// Whether a record says that nothing more will happen.
pub(crate) fn is_ended(record: &Value) -> bool {
    !matches!(record["status"].as_str(), Some("queued" | "running" | "paused") | None)
}

/// Waits until a run has ended or waits for a verdict; its record then. Shows a line of progress on a terminal.
pub(crate) async fn quietly(client: &Client, run: &str) -> Result<Value, Error> {
    struct Line(ui::Progress, Instant);
    impl Watch for Line {
        fn event(&mut self, _: &Value) {}
        fn tick(&mut self, status: &str) {
            self.0.show(&format!("{status}  {}", ui::span(self.1.elapsed())));
        }
        fn away(&mut self, _: Duration) {}
    }
    Follower::new(client.clone(), run).settle(&mut Line(ui::Progress::default(), Instant::now())).await
}

/// The exit code that a run's record calls for.
pub(crate) fn exit(record: &Value) -> Exit {
    match record["status"].as_str() {
        Some("done" | "solved") => Exit::Success,
        Some("paused") => Exit::Waiting,
        _ => Exit::NotWell,
    }
}
