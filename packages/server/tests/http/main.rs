//! The server from outside: in process for what is said, over real sockets for how it is carried.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod bad_input;
mod client;
mod dead_letters;
mod drain;
mod fake;
mod imports;
mod keys;
mod paused;
mod queries;
mod schedules;
mod submits;
mod transport;
mod turns;
mod walls;
