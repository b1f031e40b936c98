//! Followers of event streams: what each costs in memory, and how soon all of them hear of a run's end.
//!
//! Owns: the followers. Must not know: what events mean, but for the names of two.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::http::ms;
use crate::process;
use crate::report::Measure;
use crate::world::{Context, World, submit};

const ROW: &str = "follow";
/// Followers at once.
const FOLLOWERS: usize = 2_000;
/// Runs that they follow when they do not all follow one.
const RUNS: usize = 200;
/// Descriptors beside those of the connections.
const SPARE: u64 = 500;
/// Time to come to rest before memory is read.
const REST: Duration = Duration::from_secs(1);
/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn measure(ctx: &Context) -> anyhow::Result<Vec<Measure>> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = FOLLOWERS as u64 + SPARE;
    let current = limit.maximum.map_or(wanted, |max| max.min(wanted)).max(limit.current.unwrap_or(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).context("the limit of descriptors")?;
    let most = usize::try_from(current.saturating_sub(SPARE))?;
    let followers = ctx.n(FOLLOWERS).min(most);
    let mut measures = many(ctx, followers, 1).await?;
    measures.extend(many(ctx, followers, ctx.n(RUNS)).await?);
    Ok(measures)
}

async fn many(ctx: &Context, followers: usize, runs: usize) -> anyhow::Result<Vec<Measure>> {
    let world = World::new(ctx).await?;
    let server = world.serve().await?;
    let mut http = server.http().await?;
    let envelope = world.envelope("hold=go");
    let mut ids = Vec::with_capacity(runs);
    for _ in 0..runs {
        ids.push(submit(&mut http, &envelope).await?);
    }
    sleep(REST).await;
    let before = process::memory(server.pid()).rss;
    let mut all = Vec::with_capacity(followers);
    for n in 0..followers {
        let mut follower = Follower::new(server.address, &ids[n % runs]).await?;
        follower.until("event: model_requested").await?;
        all.push(follower);
    }
    sleep(REST).await;
    let each = (process::memory(server.pid()).rss - before) * 1024.0 / followers as f64;
    let cpu = process::cpu_ms(server.pid());
    let mut told = JoinSet::new();
    let released = Instant::now();
    world.model.release("go").await?;
    for mut follower in all {
        told.spawn(async move {
            follower.until("event: run_ended").await?;
            anyhow::Ok(ms(released.elapsed()))
        });
    }
    let told = told.join_all().await.into_iter().collect::<anyhow::Result<Vec<f64>>>()?;
    let cpu = (process::cpu_ms(server.pid()) - cpu) / followers as f64;
    let who = format!("{followers} followers of {runs} run{}", if runs == 1 { "" } else { "s" });
    Ok(vec![
        Measure::one(ROW, format!("RSS per follower, {who}"), "KiB", each).how("server, all attached and at rest"),
        Measure::of(ROW, format!("told of the end, {who}"), "ms", &told)
            .how("the model's answer is released → `run_ended` has come; two entries and a piece each"),
        Measure::one(ROW, "CPU per follower for that", "ms", cpu).how("server"),
    ])
}

/// One follower.
struct Follower {
    stream: TcpStream,
    got: Vec<u8>,
}

impl Follower {
    async fn new(address: SocketAddr, run: &str) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await.context("cannot follow")?;
        let request = format!("GET /runs/{run}/events HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        Ok(Self { stream, got: Vec::new() })
    }

    /// Reads until this stands in the stream.
    async fn until(&mut self, what: &str) -> anyhow::Result<()> {
        while memchr::memmem::find(&self.got, what.as_bytes()).is_none() {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.got)).await.context("no event came")??;
            anyhow::ensure!(read > 0, "the stream ended before {what:?}");
        }
        Ok(())
    }
}
