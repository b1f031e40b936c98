//! A domain: the confined place in which one session's commands and file tools run.
//!
//! Owns: the two halves of it. [`handle`] is the daemon's side; [`process`] is the program that sets the confinement
//! up and then serves as init, forking a worker a call ([`command`], [`tool`]). Must not know: journal, fence, brains.

mod command;
pub(crate) mod handle;
mod process;
pub(crate) mod protocol;
mod tool;
pub(crate) mod tree;

pub(crate) use handle::Domain;
pub(crate) use process::main;
