//! Scripts: how one is named, sent by its content hash, and given its arguments.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Cmd, RedisWrite, ToRedisArgs};
use tokio::time::Instant;
use torpor_core::observe::Event;
use torpor_core::{Timestamp, store};

use crate::Store;
use crate::link::Lane;
use crate::reply::Reply;
use crate::shard::Shard;

/// A script, with its hash.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    /// Whether it may change something.
    pub(crate) writes: bool,
    pub(crate) source: LazyLock<(String, String)>,
}

impl Script {
    /// The command that runs it on the shard with this prefix: by its hash, or whole for a server that does not know it yet.
    pub(crate) fn command(&self, by_hash: bool, prefix: &str, now: Option<Timestamp>, args: &Args) -> Cmd {
        let (source, hash) = &*self.source;
        let (verb, what) = if by_hash { ("EVALSHA", hash) } else { ("EVAL", source) };
        let mut cmd = Cmd::new();
        cmd.arg(verb).arg(what).arg(1).arg(prefix);
        match now {
            Some(now) => cmd.arg(now.0),
            None => cmd.arg(""),
        };
        for arg in &args.all {
            cmd.arg(Raw(arg));
        }
        cmd
    }
}

/// The pieces of a script, one after the other, and the SHA-1 of the whole.
pub(crate) fn assemble(pieces: &[&str]) -> (String, String) {
    let source = pieces.concat();
    let hash = redis::Script::new(&source).get_hash().to_owned();
    (source, hash)
}

/// `script!("append", ["queue", "log"])` is the prelude, `lua/lib/queue.lua`, `lua/lib/log.lua` and `lua/append.lua`.
///
/// `script!(reads "record", […])` is one that changes nothing: the server runs it also when it takes no writes (out of memory,
/// its disk full), and lets it write nothing.
macro_rules! script {
    (reads $name:literal, [$($lib:literal),*]) => {
        $crate::script::script!(@ false, "#!lua flags=no-writes\n", $name, [$($lib),*])
    };
    ($name:literal, [$($lib:literal),*]) => {
        $crate::script::script!(@ true, "#!lua\n", $name, [$($lib),*])
    };
    (@ $writes:literal, $shebang:literal, $name:literal, [$($lib:literal),*]) => {
        $crate::script::Script {
            name: $name,
            writes: $writes,
            source: std::sync::LazyLock::new(|| {
                $crate::script::assemble(&[
                    $shebang,
                    include_str!("lua/prelude.lua"),
                    $(include_str!(concat!("lua/lib/", $lib, ".lua")),)*
                    include_str!(concat!("lua/", $name, ".lua")),
                ])
            }),
        }
    };
}
pub(crate) use script;

/// The arguments of a script, in order.
#[derive(Debug, Default)]
pub(crate) struct Args {
    all: Vec<Vec<u8>>,
    at_most: Option<Duration>,
}

impl Args {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The answer is of no use later than this.
    pub(crate) fn within(self, at_most: Duration) -> Self {
        Self { at_most: Some(at_most), ..self }
    }

    pub(crate) fn text(self, text: impl AsRef<str>) -> Self {
        self.bytes(text.as_ref())
    }

    pub(crate) fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.all.push(bytes.as_ref().to_vec());
        self
    }

    /// Takes what is owned without copying it.
    pub(crate) fn owned(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.all.push(bytes.into());
        self
    }

    pub(crate) fn number(self, number: u64) -> Self {
        self.text(number.to_string())
    }

    pub(crate) fn signed(self, number: i64) -> Self {
        self.text(number.to_string())
    }

    /// `1` or `0`.
    pub(crate) fn flag(self, flag: bool) -> Self {
        self.text(if flag { "1" } else { "0" })
    }

    /// Empty for none: nothing that is passed so may be empty.
    pub(crate) fn maybe(self, text: Option<impl AsRef<str>>) -> Self {
        match text {
            Some(text) => self.text(text),
            None => self.text(""),
        }
    }

    /// Empty for none.
    pub(crate) fn maybe_number(self, number: Option<u64>) -> Self {
        self.maybe(number.map(|n| n.to_string()))
    }

    /// How much there is of them.
    pub(crate) fn bytes_held(&self) -> usize {
        self.all.iter().map(Vec::len).sum()
    }
}

struct Raw<'a>(&'a [u8]);

impl ToRedisArgs for Raw<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg(self.0);
    }
}

impl Store {
    /// Runs a script on one shard: one round trip, and a second one the first time that a server sees it.
    ///
    /// # Errors
    /// [`store::Error`]; whether the script ran is unknown when it is [`store::Error::Unavailable`].
    pub(crate) async fn run(
        &self,
        lane: Lane,
        shard: Shard,
        script: &Script,
        args: Args,
    ) -> Result<Reply, store::Error> {
        let step = run(&self.link, lane, (script, self.shards.prefix(shard), self.script_time()), &args);
        self.observed(script, step).await
    }

    /// Tells whoever counts how long a step took that may have changed something.
    pub(crate) async fn observed<T>(
        &self,
        script: &Script,
        step: impl Future<Output = Result<T, store::Error>>,
    ) -> Result<T, store::Error> {
        if !script.writes {
            return step.await;
        }
        let begun = Instant::now();
        let answer = step.await;
        let (took, stored) = (begun.elapsed(), answer.is_ok());
        self.options.observer.observe(&Event::Commit { commands: 1, took, stored });
        answer
    }

    /// Runs a script on every shard at once; what each answered.
    pub(crate) async fn run_all(
        &self,
        lane: Lane,
        script: &Script,
        args: &Args,
    ) -> Vec<Result<(Shard, Reply), store::Error>> {
        let now = self.script_time();
        let ask = |shard| async move {
            let step = run(&self.link, lane, (script, self.shards.prefix(shard), now), args);
            self.observed(script, step).await.map(|reply| (shard, reply))
        };
        futures::future::join_all(self.shards.all().map(ask)).await
    }

    /// Runs a script on every shard at once, and answers the one that found what it was asked for: an empty answer is none.
    ///
    /// # Errors
    /// As [`Store::run`], when no shard found it and one could not answer.
    pub(crate) async fn ask_all(
        &self,
        lane: Lane,
        script: &Script,
        args: &Args,
    ) -> Result<Option<(Shard, Reply)>, store::Error> {
        let mut failed = None;
        for answer in self.run_all(lane, script, args).await {
            match answer {
                Ok((_, reply)) if reply.len() == 0 => {}
                Ok(found) => return Ok(Some(found)),
                Err(e) => failed = Some(e),
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

/// As [`Store::run`], before there is a store.
pub(crate) async fn run(
    link: &crate::link::Link,
    lane: Lane,
    (script, prefix, now): (&Script, &str, Option<Timestamp>),
    args: &Args,
) -> Result<Reply, store::Error> {
    let (by_hash, bytes) = (script.command(true, prefix, now, args), args.bytes_held());
    let answer = match link.send_large(lane, &by_hash, bytes, args.at_most).await {
        Err(e) if e.is_no_script() => {
            link.send_large(lane, &script.command(false, prefix, now, args), bytes, args.at_most).await
        }
        answer => answer,
    };
    match answer {
        Ok(value) => Ok(Reply::new(script.name, value)),
        Err(e) => Err(e.fault()),
    }
}
