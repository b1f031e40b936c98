//! The store on every kind of server that it may be pointed at: the same promises on all of them, and what each can do to it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

mod access;
mod cluster;
mod place;
mod sentinel;
mod tls;
mod valkey;
