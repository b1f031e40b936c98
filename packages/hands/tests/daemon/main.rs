//! The daemon as brains meet it: the real binary, over its socket.

mod breakout;
mod calls;
mod ends;
mod fence;
mod output;
mod support;
