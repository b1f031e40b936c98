//! A world whose processes share a Redis.

use std::sync::Arc;

use torpor_testkit::redis;

use super::World;

impl World {
    /// Processes of this world use the Redis that all tests share, with keys of their own. `None` where there is no
    /// `redis-server`, which is said.
    pub async fn shared() -> Option<(Self, Arc<redis::Server>)> {
        let mut world = Self::embedded().await;
        let server = world.share()?;
        Some((world, server))
    }

    /// What begins the keys of this world in the Redis that all tests share.
    pub fn prefix(&self) -> String {
        let name = self.data().display().to_string();
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("t-{name}")
    }

    /// As [`World::shared`], with a Redis of its own that may be stopped.
    pub async fn with_redis() -> Option<(Self, redis::Server)> {
        let server = redis::Server::start()?;
        let mut world = Self::embedded().await;
        world.env("REDIS_URL", &server.url());
        Some((world, server))
    }

    /// From now on processes of this world share that Redis.
    pub(super) fn share(&mut self) -> Option<Arc<redis::Server>> {
        let server = redis::Server::shared()?;
        self.env("REDIS_URL", &server.url());
        self.env("TORPOR_REDIS_PREFIX", &self.prefix());
        self.redis = Some(Arc::clone(&server));
        Some(server)
    }
}
