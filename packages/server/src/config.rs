//! The server's limits and patience.
//!
//! Owns: the numbers, their defaults and which of them make sense. Must not know: where they are configured.

use std::time::Duration;

use torpor_core::key::Rate;

/// Limits of the server. [`Config::default`] is meant for production.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Largest request body in bytes; more is 413. Default 8 MiB.
    pub body_limit: usize,
    /// Bodies over [`Config::SMALL_BODY`] that are read or parsed at once; a further one waits for its turn within
    /// its own time. With `body_limit` this bounds the memory that bodies take. Default 32.
    pub large_bodies: usize,
    /// Largest file that is imported as a session, in bytes; more is 413. Default 1 GiB.
    pub import_limit: u64,
    /// How long a synchronous submit or turn waits for its run before it is answered 202. Default 280 s.
    pub sync_max: Duration,
    /// From the first byte of a request until its head is complete; then the connection is cut. Default 10 s.
    pub header_timeout: Duration,
    /// From the end of the head until the body is complete; then 408. Default 30 s.
    pub body_timeout: Duration,
    /// How long a client may leave an answer unread before the connection is cut. Default 30 s.
    pub write_timeout: Duration,
    /// How long a connection may stay open without a request. Default 75 s, longer than common proxies keep theirs,
    /// so that it is they who close.
    pub idle_timeout: Duration,
    /// Connections at once; a further one is answered 503 and closed. Default 4096.
    pub max_connections: usize,
    /// Largest request head in bytes, and the size that a connection's read and write buffers may grow to.
    /// Default 64 KiB; at least 8 KiB.
    pub head_limit: usize,
    /// How long requests under way may take to end once the server was told to stop. Default 25 s, so that it fits
    /// into the 30 s that Kubernetes gives.
    pub drain: Duration,
    /// How often an API key that says nothing else may be used. Default 1,000 a second and 2,000 at once.
    pub rate: Rate,
    /// Whether callers are asked for an API key although there is none (yet, or any more). Default false.
    pub require_keys: bool,
    /// Whether, while callers are not asked for a key, only requests are answered whose `Host` and `Origin` (if any) name
    /// this machine: what keeps web pages in a browser on it out. Default false.
    pub local_only: bool,
    /// How long one readiness check may take before it counts as failed. Default 2 s.
    pub check_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_limit: 8 * 1024 * 1024,
            large_bodies: 32,
            import_limit: 1 << 30,
            sync_max: Duration::from_secs(280),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            max_connections: 4096,
            head_limit: 64 * 1024,
            drain: Duration::from_secs(25),
            rate: Rate { per_second: 1_000, burst: 2_000 },
            require_keys: false,
            local_only: false,
            check_timeout: Duration::from_secs(2),
        }
    }
}

/// The smallest head limit that the HTTP machinery takes.
const MIN_HEAD_LIMIT: usize = 8 * 1024;

/// A setting that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("server setting `{name}` {expected}")]
pub struct Invalid {
    /// The field of [`Config`].
    pub name: &'static str,
    /// What was expected.
    pub expected: &'static str,
}

impl Config {
    /// Bodies up to this many bytes are read without waiting for a turn.
    pub const SMALL_BODY: usize = 64 * 1024;

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Invalid`] names the first setting that makes no sense.
    pub fn check(&self) -> Result<(), Invalid> {
        let durations = [
            ("sync_max", self.sync_max),
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("write_timeout", self.write_timeout),
            ("idle_timeout", self.idle_timeout),
            ("check_timeout", self.check_timeout),
        ];
        if let Some((name, _)) = durations.into_iter().find(|(_, d)| d.is_zero()) {
            return Err(Invalid { name, expected: "must be longer than zero" });
        }
        if self.body_limit == 0 {
            return Err(Invalid { name: "body_limit", expected: "must be at least 1 byte" });
        }
        if self.import_limit == 0 {
            return Err(Invalid { name: "import_limit", expected: "must be at least 1 byte" });
        }
        if self.large_bodies == 0 || self.large_bodies > u16::MAX.into() {
            return Err(Invalid { name: "large_bodies", expected: "must be from 1 to 65535" });
        }
        if self.max_connections == 0 || self.max_connections > u32::MAX as usize >> 4 {
            return Err(Invalid { name: "max_connections", expected: "must be at least 1 and below 2^28" });
        }
        if self.head_limit < MIN_HEAD_LIMIT {
            return Err(Invalid { name: "head_limit", expected: "must be at least 8192 bytes" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_make_no_sense_are_named() {
        assert_eq!(Config::default().check(), Ok(()));
        for (config, name) in [
            (Config { sync_max: Duration::ZERO, ..Config::default() }, "sync_max"),
            (Config { body_limit: 0, ..Config::default() }, "body_limit"),
            (Config { max_connections: 0, ..Config::default() }, "max_connections"),
            (Config { head_limit: 100, ..Config::default() }, "head_limit"),
        ] {
            assert_eq!(config.check().unwrap_err().name, name);
        }
    }
}
