//! The daemon as brains meet it: the real binary, over its socket.

mod calls;
mod support;
