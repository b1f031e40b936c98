//! Confinement: everything that asks the kernel to take rights away, and the raw system calls of the domain.
//!
//! Owns: what each level means and the order of its steps. Must not know: calls, brains, journals.

mod capabilities;
mod files;
mod filter;
mod limits;
mod root;
pub(crate) mod sys;

use std::io;

use crate::domain::protocol::Setup;
use crate::level::Level;

/// Landlock watches opening files, not modes, owners, times and attributes, all of which root may change everywhere; root
/// is exempt from the limit on processes, and may set the limits of everybody else's.
const ROOT_AT_REDUCED: &str = "this level is no wall around the root user: run as an ordinary user, or enable user \
     namespaces for `full`";

/// Steps of the outer process, before it forks the inner one.
pub(crate) fn enter_outer(setup: &Setup) -> io::Result<()> {
    match setup.level {
        Level::Full => step("user and process namespaces", root::enter_user_namespace()),
        Level::Reduced if rustix::process::geteuid().is_root() => Err(io::Error::other(ROOT_AT_REDUCED)),
        Level::Reduced => step("signal scope", files::scope_signals()),
        Level::Unconfined => Ok(()),
    }
}

/// Steps of the inner process. Afterwards it and all that it forks are confined for good.
pub(crate) fn enter_inner(setup: &Setup) -> io::Result<()> {
    if setup.level == Level::Full {
        step("namespaces", root::enter_namespaces(setup.network))?;
        root::build(setup)?;
    }
    step("limits", limits::apply(setup.processes, setup.file_size))?;
    step("no new privileges", sys::no_new_privileges())?;
    if setup.level == Level::Unconfined {
        return Ok(());
    }
    step("capabilities", capabilities::drop_all())?;
    step("Landlock", files::restrict(setup))?;
    step("system call filter", filter::install(setup.level, setup.network))
}

/// Names the step that failed.
pub(crate) fn step<T>(name: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))
}
