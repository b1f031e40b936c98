//! Capabilities: none, and no way to get any.
//!
//! Owns: emptying all sets. Must not know: who is being confined.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::sys::prctl;

/// Highest capability number to be tried; the kernel refuses the first it does not know.
const LAST: u32 = 63;

/// Empties the bounding, ambient, inheritable, permitted and effective sets.
pub(super) fn drop_all() -> io::Result<()> {
    for capability in 0..=LAST {
        match prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            // Without the right to change the set there is no capability that could come from it: set-user-id
            // programs give nothing any more.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => break,
            Err(e) => return Err(e),
        }
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}
