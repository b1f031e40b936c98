//! The queue on Redis: what is particular to this store, beside the promises of its seam.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

mod commands;
mod counts;
mod damage;
mod foreign;
mod kit;
mod stream;
mod takeover;
