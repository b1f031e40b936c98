//! Landlock: which files, sockets and processes can be reached.
//!
//! Owns: the rules of each level. Must not know: namespaces.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};

use super::root::{DEVICES, ETC, ETC_NETWORK, SYSTEM, open_exact};
use crate::domain::protocol::Setup;
use crate::level::Level;

/// The rules are written for this version; `reduced` insists on all of it.
const VERSION: ABI = ABI::V6;

/// Lets this process and all that it starts signal nobody else, and so makes "everybody" mean these.
pub(super) fn scope_signals() -> io::Result<()> {
    let scope = || {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).scope(Scope::Signal)?;
        rules.create()?.restrict_self()
    };
    match scope().map_err(too_old)?.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        status => Err(io::Error::other(format!("signals could not be kept inside: {status:?}"))),
    }
}

fn too_old(e: landlock::RulesetError) -> io::Error {
    io::Error::other(format!("{e} (reduced needs Linux 6.12 or later)"))
}

/// Confines this process and all that it starts from now on.
pub(super) fn restrict(setup: &Setup) -> io::Result<()> {
    let own = match setup.level {
        Level::Reduced => Some(Own::open(setup)?),
        Level::Full | Level::Unconfined => None, // in a root of their own
    };
    let status = apply(setup, own.as_ref()).map_err(too_old)?;
    if status == RulesetStatus::NotEnforced {
        return Err(io::Error::other("the kernel has no Landlock, or it is not switched on (boot option `lsm=`)"));
    }
    Ok(())
}

/// The session's own folders on the real paths, held from before anything could be put in their place.
struct Own {
    writable: [OwnedFd; 3],
    outputs: OwnedFd,
}

impl Own {
    fn open(setup: &Setup) -> io::Result<Self> {
        let writable = [open_exact(&setup.workspace)?, open_exact(&setup.tmp)?, open_exact(&setup.home)?];
        Ok(Self { writable, outputs: open_exact(&setup.outputs)? })
    }
}

fn apply(setup: &Setup, own: Option<&Own>) -> Result<RulesetStatus, landlock::RulesetError> {
    let needed = if own.is_some() { CompatLevel::HardRequirement } else { CompatLevel::BestEffort };
    let mut rules = Ruleset::default()
        .set_compatibility(needed)
        .handle_access(AccessFs::from_all(VERSION))?
        .scope(Scope::from_all(VERSION))?;
    if own.is_some() && !setup.network {
        rules = rules.handle_access(AccessNet::from_all(VERSION))?;
    }
    let rules = rules.create()?;
    let rules = match own {
        Some(own) => real_paths(rules, setup, own)?,
        None => own_root(rules, setup)?,
    };
    Ok(rules.restrict_self()?.ruleset)
}

/// In a root of their own everything can be read; the mounts decide what there is.
fn own_root(rules: RulesetCreated, setup: &Setup) -> Result<RulesetCreated, landlock::RulesetError> {
    let inside = setup.inside();
    let shm = PathBuf::from("/dev/shm");
    let rules = rules
        .add_rules(path_beneath_rules(["/"], AccessFs::from_read(VERSION)))?
        .add_rules(path_beneath_rules([&inside.workspace, &inside.tmp, &inside.home, &shm], writable()))?;
    devices(rules, &["ptmx", "pts"])
}

/// On the real paths everything is named.
fn real_paths(rules: RulesetCreated, setup: &Setup, own: &Own) -> Result<RulesetCreated, landlock::RulesetError> {
    let etc = ETC.iter().chain(if setup.network { ETC_NETWORK } else { &[] }).map(|n| Path::new("/etc").join(n));
    let users = ["passwd", "group"].iter().map(|n| Path::new("/etc").join(n));
    let readable = SYSTEM.iter().map(PathBuf::from).chain(etc).chain(users).chain(setup.readable.iter().cloned());
    let readable = readable.chain([PathBuf::from("/proc")]);
    let mut rules = rules
        .add_rules(path_beneath_rules(readable, AccessFs::from_read(VERSION)))?
        .add_rule(PathBeneath::new(&own.outputs, AccessFs::from_read(VERSION)))?;
    for folder in &own.writable {
        rules = rules.add_rule(PathBeneath::new(folder, writable()))?;
    }
    devices(rules, &[])
}

/// Everything but making devices and controlling them.
fn writable() -> landlock::BitFlags<AccessFs> {
    AccessFs::from_all(VERSION) & !make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev})
}

fn devices(mut rules: RulesetCreated, more: &[&str]) -> Result<RulesetCreated, landlock::RulesetError> {
    for name in DEVICES.iter().chain(more) {
        let Ok(fd) = PathFd::new(Path::new("/dev").join(name)) else { continue };
        let mut access = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev | Truncate});
        if *name == "pts" {
            access |= AccessFs::ReadDir;
        }
        rules = rules.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(rules)
}
