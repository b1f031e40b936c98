//! Durability beyond what the server's answer promises: an intent is answered once it is on the disk, or at replicas.
//!
//! Owns: a connection of its own for each shard, and who shares one wait there. Must not know: what a script does, or which
//! entries are intents.
//!
//! `WAITAOF` and `WAIT` hold up their connection until what it wrote before is safe. So nothing else goes through it, and what
//! comes while it is held up goes together, with one wait for all: the number of waits does not grow with the number of writers.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ErrorKind, Pipeline, RedisError, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use torpor_core::{Timestamp, store};

use crate::link::{Conn, Link, breaks, fault};
use crate::reply::Reply;
use crate::script::{Args, Script};
use crate::shard::{Shard, Shards};

/// Scripts that share one wait.
const MAX_TOGETHER: usize = 256;

/// Bytes of arguments after which no further script joins them.
const MAX_TOGETHER_BYTES: usize = 16 << 20;

/// What an append that holds an intent (of a tool call or a model call) waits for before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// For nothing but the server's answer: what survives is what the server's own persistence keeps. With an append-only
    /// file nothing is lost when its process dies; when its machine dies, up to two seconds are (`appendfsync everysec`), or
    /// nothing (`always`). The default.
    #[default]
    Off,
    /// For the server's disk, where it has `WAITAOF` (Redis 7.2, Valkey) and syncs its append-only file once a second (with
    /// `always` it is there already; without a file there is nothing to wait for), and for so many replicas (`WAIT`).
    Synced {
        /// How many replicas must have it; 0 for none.
        replicas: u16,
    },
}

/// Runs scripts and waits until what they wrote is safe. Dropping it closes its connections.
#[derive(Debug)]
pub(crate) struct Synced {
    shards: Vec<(mpsc::Sender<Job>, JoinHandle<()>)>,
}

/// A script to be run.
struct Job {
    script: &'static Script,
    args: Args,
    now: Option<Timestamp>,
    done: oneshot::Sender<Result<Done, store::Error>>,
}

/// What a script answered, and whether what it wrote is safe.
pub(crate) struct Done {
    pub(crate) reply: Reply,
    pub(crate) safe: Result<(), store::Error>,
}

impl Synced {
    /// Begins, with connections to be made when they are needed. `patience` is how long one wait may take.
    pub(crate) fn start(link: &Arc<Link>, shards: &Shards, replicas: u16, patience: Duration) -> Self {
        let shards = shards
            .all()
            .map(|shard| {
                let (jobs, queue) = mpsc::channel(MAX_TOGETHER);
                let worker =
                    Worker { link: Arc::clone(link), prefix: shards.prefix(shard).to_owned(), replicas, patience };
                (jobs, tokio::spawn(worker.work(queue)))
            })
            .collect();
        Self { shards }
    }

    /// Runs a script; its answer comes when what it wrote is safe, or known not to be.
    ///
    /// # Errors
    /// [`store::Error`]; whether the script ran is unknown when it is [`store::Error::Unavailable`].
    pub(crate) async fn run(
        &self,
        shard: Shard,
        script: &'static Script,
        args: Args,
        now: Option<Timestamp>,
    ) -> Result<Done, store::Error> {
        let gone = || store::Error::Unavailable("the store is closing".to_owned());
        let (jobs, _) = self.shards.get(usize::from(shard.number())).ok_or_else(gone)?;
        let (done, answer) = oneshot::channel();
        jobs.send(Job { script, args, now, done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for Synced {
    fn drop(&mut self) {
        self.shards.iter().for_each(|(_, task)| task.abort());
    }
}

/// What a server can be asked to wait for.
#[derive(Debug, Clone, Copy)]
struct Means {
    disk: bool,
    replicas: u16,
}

struct Worker {
    link: Arc<Link>,
    prefix: String,
    replicas: u16,
    patience: Duration,
}

impl Worker {
    async fn work(self, mut queue: mpsc::Receiver<Job>) {
        let mut open = None;
        while let Some(first) = queue.recv().await {
            let mut bytes = first.args.bytes_held();
            let mut jobs = vec![first];
            while jobs.len() < MAX_TOGETHER && bytes < MAX_TOGETHER_BYTES {
                let Ok(next) = queue.try_recv() else { break };
                bytes += next.args.bytes_held();
                jobs.push(next);
            }
            match self.together(&mut open, &jobs).await {
                Ok(answers) => {
                    for (job, answer) in jobs.into_iter().zip(answers) {
                        let _ = job.done.send(answer); // whoever does not wait any more is not told
                    }
                }
                Err(e) => {
                    open = None;
                    for job in jobs {
                        let _ = job.done.send(Err(e.clone()));
                    }
                }
            }
        }
    }

    /// Runs the scripts of these jobs one after the other, with one wait.
    async fn together(
        &self,
        open: &mut Option<(Conn, Means)>,
        jobs: &[Job],
    ) -> Result<Vec<Result<Done, store::Error>>, store::Error> {
        let slow = self.patience * 2 + jobs.iter().map(|job| Link::extra(job.args.bytes_held())).sum::<Duration>();
        let both = async {
            let (conn, means) = match open {
                Some(open) => open,
                None => open.insert(self.connect().await?),
            };
            let (mut values, mut safe) =
                self.round(conn, *means, jobs.iter().map(|job| self.command(job, true))).await?;
            let unknown: Vec<usize> = (0..values.len()).filter(|n| is_no_script(values.get(*n))).collect();
            if !unknown.is_empty() {
                let again = unknown.iter().filter_map(|n| jobs.get(*n)).map(|job| self.command(job, false));
                let (answers, then) = self.round(conn, *means, again).await?;
                safe = safe.and(then);
                for (n, answer) in unknown.into_iter().zip(answers) {
                    if let Some(value) = values.get_mut(n) {
                        *value = answer;
                    }
                }
            }
            Ok::<_, RedisError>((values, safe))
        };
        let timed = tokio::time::timeout(slow, both)
            .await
            .unwrap_or_else(|_| Err(RedisError::from((ErrorKind::Io, "what was written was not safe in time"))));
        let (values, safe) = timed.map_err(|e| fault(&e))?;
        // The node is not the one any more that it was: the next connection finds out which is.
        let elsewhere =
            |value: &Value| matches!(value, Value::ServerError(e) if e.code() == "MOVED" || breaks(&e.clone().into()));
        if values.iter().any(elsewhere) {
            *open = None;
        }
        let answer = |(job, value): (&Job, Value)| {
            let reply = value.extract_error().map_err(|e| fault(&e))?;
            Ok(Done { reply: Reply::new(job.script.name, reply), safe: safe.clone() })
        };
        Ok(jobs.iter().zip(values).map(answer).collect())
    }

    fn command(&self, job: &Job, by_hash: bool) -> Cmd {
        job.script.command(by_hash, &self.prefix, job.now, &job.args)
    }

    /// Sends the commands and what is to be waited for, in one piece; answers the commands' answers and whether all is safe.
    async fn round(
        &self,
        conn: &mut Conn,
        means: Means,
        commands: impl Iterator<Item = Cmd>,
    ) -> Result<(Vec<Value>, Result<(), store::Error>), RedisError> {
        let mut pipeline = Pipeline::new();
        commands.for_each(|cmd| {
            pipeline.add_command(cmd);
        });
        let scripts = pipeline.len();
        let patience = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX).max(1); // 0 would be for ever
        if means.disk {
            pipeline.cmd("WAITAOF").arg(1).arg(0).arg(patience);
        }
        if means.replicas > 0 {
            pipeline.cmd("WAIT").arg(means.replicas).arg(patience);
        }
        let mut answers = conn.send_all(&self.prefix, pipeline).await?;
        let mut waits = answers.split_off(scripts.min(answers.len())).into_iter();
        let mut safe = Ok(());
        if means.disk {
            safe = safe.and_then(|()| reached(waits.next(), 1, "on its disk"));
        }
        if means.replicas > 0 {
            safe = safe
                .and_then(|()| reached(waits.next(), u64::from(means.replicas), "at as many replicas as are wanted"));
        }
        Ok((answers, safe))
    }

    /// A connection, and what its server can be asked to wait for.
    async fn connect(&self) -> Result<(Conn, Means), RedisError> {
        let mut conn = self.link.connect(None).await?;
        let mut asked = Pipeline::new();
        asked.cmd("COMMAND").arg("INFO").arg("WAITAOF");
        asked.cmd("INFO").arg("persistence");
        asked.cmd("CONFIG").arg("GET").arg("appendfsync");
        let mut answers = conn.send_all(&self.prefix, asked).await?.into_iter();
        let mut next = || answers.next().unwrap_or(Value::Nil);
        let known = matches!(next(), Value::Array(about) if about.iter().any(|one| matches!(one, Value::Array(_))));
        let has_file = text(&next()).contains("aof_enabled:1");
        // A user that may not ask is told nothing: waiting is then right or, with `always`, over at once.
        let policy = text(&next());
        let policy = policy.lines().last().unwrap_or_default();
        let means = Means { disk: known && has_file && !matches!(policy, "always" | "no"), replicas: self.replicas };
        if !means.disk && policy != "always" && means.replicas == 0 {
            tracing::warn!(
                waitaof = known,
                appendonly = has_file,
                "intents are to be synced, but this server cannot be asked to: they are as safe as its answer"
            );
        }
        Ok((conn, means))
    }
}

fn is_no_script(value: Option<&Value>) -> bool {
    matches!(value, Some(Value::ServerError(e)) if e.code() == "NOSCRIPT")
}

/// All text of an answer, a line each.
fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned() + "\n",
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone() + "\n",
        Value::Array(values) => values.iter().map(text).collect(),
        Value::Map(pairs) => pairs.iter().map(|(name, value)| text(name) + &text(value)).collect(),
        _ => String::new(),
    }
}

/// Whether a wait was over because enough have what was written. `WAITAOF` answers two numbers, the first is the server's own.
fn reached(answer: Option<Value>, wanted: u64, what: &str) -> Result<(), store::Error> {
    let mut answer = Reply::new("WAIT", answer.unwrap_or(Value::Nil).extract_error().map_err(|e| fault(&e))?);
    if answer.number()? < wanted {
        return Err(store::Error::Unavailable(format!("Redis did not have what was written {what} in time")));
    }
    Ok(())
}
