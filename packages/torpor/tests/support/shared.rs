//! A world whose processes share a Redis.

use std::sync::Arc;

use torpor_testkit::redis;

use super::World;

impl World {
    /// Processes of this world use the Redis that all tests share, with keys of their own. `None` where there is no
    /// `redis-server`, which is said.
    pub async fn shared() -> Option<(Self, Arc<redis::Server>)> {
        let server = redis::Server::shared()?;
        let mut world = Self::new().await;
        world.env("REDIS_URL", &server.url());
        world.env("TORPOR_REDIS_PREFIX", &world.prefix());
        Some((world, server))
    }

    /// What begins the keys of this world in the Redis that all tests share.
    pub fn prefix(&self) -> String {
        format!("t-{}", server_name(self))
    }

    /// As [`World::shared`], with a Redis of its own that may be stopped.
    pub async fn with_redis() -> Option<(Self, redis::Server)> {
        let server = redis::Server::start()?;
        let mut world = Self::new().await;
        world.env("REDIS_URL", &server.url());
        Some((world, server))
    }
}

fn server_name(world: &World) -> String {
    let name = world.data().display().to_string();
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}
