//! The daemon as brains meet it: the real binary, over its socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod breakout;
mod calls;
mod cell;
mod ends;
mod escape;
mod fence;
mod forget;
mod limits;
mod output;
mod support;
