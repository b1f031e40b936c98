//! Imports: entries are kept under a life that no session has, until one step makes a session of it.
//!
//! Owns: how long an import may rest, and in which pieces entries are sent. Must not know: what a session is made of.
//!
//! What was staged and is not touched for [`STAGED`] is garbage, whoever staged it and however that ended.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use torpor_core::entry::{self, SCHEMA};
use torpor_core::session::{History, Import, ImportError, Importer, Mark, Stored};
use torpor_core::{Clock, Epoch, Position, store};

use crate::link::{Lane, Link};
use crate::reply::Reply;
use crate::script::{self, Args, Script, script};
use crate::{Store, sessions};

/// How long an import may take between two pieces. Longer than a client may take for a piece that it does send, and
/// what a dead one leaves lies about for no longer.
const STAGED: Duration = Duration::from_secs(3_600);

/// A piece ends with the entry that reaches so many bytes, and has at most so many entries.
const PIECE_BYTES: usize = 1 << 20;
const PIECE: usize = 500;

static STAGE: Script = script!("stage", ["log", "session"]);
static PUSH: Script = script!("push", ["log"]);
static FINISH: Script = script!("finish", ["log", "session"]);

struct Incoming {
    link: Arc<Link>,
    prefix: String,
    clock: Option<Arc<dyn Clock>>,
    life: u64,
    import: Import,
    wishes: Option<String>,
    history: History,
    last_epoch: Epoch,
}

fn staged_ms() -> u64 {
    u64::try_from(STAGED.as_millis()).unwrap_or(u64::MAX)
}

fn refused(word: &str) -> ImportError {
    match word {
        "taken" => ImportError::Taken,
        "forgetting" => ImportError::Forgetting,
        "lapsed" => lapsed(),
        other => store::Error::Unreadable(format!("the answer to an import is {other:?}")).into(),
    }
}

fn lapsed() -> ImportError {
    store::Error::Unavailable(format!("the import rested for more than {STAGED:?} and was given up: begin it again"))
        .into()
}

/// Begins an import.
pub(crate) async fn begin(store: &Store, import: Import) -> Result<Box<dyn Importer>, ImportError> {
    let shard = store.shards.of_tenant(import.session.tenant());
    let wishes = sessions::carried(import.wishes.clone())?;
    let args = Args::new().text(import.session.digest()).number(staged_ms());
    let mut answer = store.run(Lane::Data, shard, &STAGE, args).await?;
    match answer.text()?.as_str() {
        "staged" => {
            let life = answer.number()?;
            let (history, last_epoch) = (History::default(), Epoch(0));
            let (link, clock) = (Arc::clone(&store.link), store.options.clock.clone());
            let prefix = store.shards.prefix(shard).to_owned();
            Ok(Box::new(Incoming { link, prefix, clock, life, import, wishes, history, last_epoch }))
        }
        other => Err(refused(other)),
    }
}

impl Incoming {
    async fn run(&self, script: &Script, args: Args) -> Result<Reply, store::Error> {
        let now = self.clock.as_ref().map(|clock| clock.now());
        script::run(&self.link, Lane::Data, (script, &self.prefix, now), &args).await
    }

    async fn send(&self, entries: &[Stored], marks: &[Mark]) -> Result<(), ImportError> {
        let mut args = Args::new().number(self.life).number(staged_ms()).number(marks.len() as u64);
        for mark in marks {
            args = args.number(mark.position.0).number(mark.resume_from.0).number(mark.next_gate);
        }
        for it in entries {
            args =
                args.number(it.position.0).number(it.epoch.0).number(it.at.0).number(it.schema.into()).text(&it.body);
        }
        let there = self.run(&PUSH, args).await?.flag()?;
        if there { Ok(()) } else { Err(lapsed()) }
    }
}

#[async_trait]
impl Importer for Incoming {
    async fn push(&mut self, entries: Vec<Stored>) -> Result<(), ImportError> {
        let mut marks = Vec::new();
        for entry in &entries {
            marks.extend(self.history.take(entry).map_err(ImportError::Refused)?);
            self.last_epoch = entry.epoch;
        }
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let small = rest.iter().take(PIECE).take_while(|entry| {
                let before = bytes;
                bytes += entry.body.len();
                before < PIECE_BYTES
            });
            let (piece, after) = rest.split_at(small.count());
            let upto = piece.last().map_or(Position(0), |last| last.position);
            let (here, later): (Vec<_>, Vec<_>) = marks.into_iter().partition(|mark| mark.position <= upto);
            self.send(piece, &here).await?;
            (rest, marks) = (after, later);
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Position, ImportError> {
        let mark = self.history.mark();
        let closing = self.history.closing().map(|body| entry::encode(&body)).transpose();
        let closing = closing.map_err(|e| store::Error::Failed(e.to_string()))?;
        let key = &self.import.session;
        let args = Args::new()
            .text(key.digest())
            .text(key.tenant())
            .text(key.session())
            .number(self.life)
            .number(mark.position.0)
            .number(mark.resume_from.0)
            .number(mark.next_gate)
            .number(self.import.created_at.0)
            .maybe(self.wishes.as_deref())
            .maybe_number(closing.is_some().then_some(SCHEMA.into()))
            .number(self.last_epoch.0)
            .owned(closing.unwrap_or_default());
        let mut answer = self.run(&FINISH, args).await?;
        match answer.text()?.as_str() {
            "made" => Ok(Position(answer.number()?)),
            other => Err(refused(other)),
        }
    }
}
