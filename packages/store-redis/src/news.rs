//! News: what other processes publish while somebody here waits for it. Hints only: the keys are the truth.
//!
//! Owns: one connection that listens to the channels somebody here watches. Must not know: what a channel means.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{ErrorKind, RedisError};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::link::Link;

/// A wait that is over sooner never asks the server: most of what is waited for happens in this process, which is told
/// without it.
const PATIENCE: Duration = Duration::from_millis(20);

/// Wait before the next attempt after a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// So long nothing may come before the server is asked whether it is still there, and so long it may take to answer.
const SILENCE: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(5);

/// What is watched here. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct News {
    registry: Arc<Registry>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Registry {
    channels: Mutex<HashMap<Arc<str>, Channel>>,
    /// Some channel should be listened to, or not any more.
    changed: Notify,
}

#[derive(Debug)]
struct Channel {
    watchers: usize,
    /// Somebody waits long enough for the server to be asked.
    wanted: bool,
    news: watch::Sender<u64>,
}

/// Somebody watches a channel, as long as it lives.
#[derive(Debug)]
pub(crate) struct Watch {
    registry: Arc<Registry>,
    channel: Arc<str>,
    news: watch::Receiver<u64>,
}

impl News {
    pub(crate) fn start(link: &Arc<Link>) -> Self {
        let registry = Arc::new(Registry::default());
        let task = tokio::spawn(listen(Arc::clone(link), Arc::clone(&registry)));
        Self { registry, task }
    }

    /// Begins to watch. To be called before looking, so that nothing is missed.
    pub(crate) fn watch(&self, channel: &str) -> Watch {
        let mut channels = self.registry.lock();
        let name = channels.get_key_value(channel).map_or_else(|| Arc::from(channel), |(name, _)| Arc::clone(name));
        let entry = channels.entry(Arc::clone(&name)).or_insert_with(|| Channel {
            watchers: 0,
            wanted: false,
            news: watch::Sender::new(0),
        });
        entry.watchers += 1;
        Watch { registry: Arc::clone(&self.registry), channel: name, news: entry.news.subscribe() }
    }

    /// Tells those who watch in this process, at once.
    pub(crate) fn tell(&self, channel: &str) {
        self.registry.tell(channel);
    }
}

impl Drop for News {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Waits until there is something new, or may be. Cancellation safe.
    pub(crate) async fn changed(&mut self) {
        if tokio::time::timeout(PATIENCE, self.news.changed()).await.is_ok() {
            return;
        }
        if let Some(channel) = self.registry.lock().get_mut(&self.channel)
            && !channel.wanted
        {
            channel.wanted = true;
            self.registry.changed.notify_one();
        }
        if self.news.changed().await.is_err() {
            std::future::pending::<()>().await; // nobody tells any more: the store is being dropped
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut channels = self.registry.lock();
        let Some(channel) = channels.get_mut(&self.channel) else { return };
        channel.watchers -= 1;
        if channel.watchers == 0 && channels.remove(&self.channel).is_some_and(|c| c.wanted) {
            self.registry.changed.notify_one();
        }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, channel: &str) {
        if let Some(channel) = self.lock().get(channel) {
            channel.news.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// What should be listened to.
    fn wanted(&self) -> HashSet<Arc<str>> {
        self.lock().iter().filter(|(_, c)| c.wanted).map(|(name, _)| Arc::clone(name)).collect()
    }
}

async fn listen(link: Arc<Link>, registry: Arc<Registry>) {
    loop {
        if registry.wanted().is_empty() {
            registry.changed.notified().await;
            continue;
        }
        match link.listen().await {
            Ok(pubsub) => {
                let (sink, stream) = pubsub.split();
                if let Err(e) = follow(&registry, sink, stream).await {
                    tracing::debug!(error = %e, "the connection for news broke");
                }
            }
            Err(e) => tracing::debug!(error = %e, "no connection for news"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Keeps the subscriptions as they are wanted and hands on what comes, until the connection breaks.
async fn follow(registry: &Registry, mut sink: PubSubSink, mut stream: PubSubStream) -> Result<(), RedisError> {
    let mut subscribed: HashSet<Arc<str>> = HashSet::new();
    loop {
        let wanted = registry.wanted();
        for channel in wanted.difference(&subscribed) {
            in_time(sink.subscribe(&**channel)).await?;
            registry.tell(channel); // what happened before must be looked for once
        }
        for channel in subscribed.difference(&wanted) {
            in_time(sink.unsubscribe(&**channel)).await?;
        }
        subscribed = wanted;
        loop {
            tokio::select! {
                () = registry.changed.notified() => break,
                message = stream.next() => match message {
                    Some(message) => registry.tell(message.get_channel_name()),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(SILENCE) => in_time(sink.ping()).await?,
            }
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    let late = || RedisError::from((ErrorKind::Io, "the server did not answer in time"));
    tokio::time::timeout(ANSWER, answer).await.map_err(|_| late())?
}
