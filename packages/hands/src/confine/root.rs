//! Namespaces and a root of their own: what a command can see at level `full`.
//!
//! Owns: what of the machine is shown, and how the new root is built. Must not know: Landlock, system call filters.
#![allow(unsafe_code)] // two system calls that no safe wrapper covers

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount,
};
use rustix::thread::UnshareFlags;

use super::step;
use super::sys::check;
use crate::domain::protocol::Setup;

/// Shown read-only, where they exist.
pub(super) const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"];
/// Shown read-only below `/etc`: what programs need to start, nothing that is a secret.
pub(super) const ETC: &[&str] = &[
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "ssl/certs",
    "ssl/openssl.cnf",
    "ca-certificates",
    "ca-certificates.conf",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "pki/ca-trust",
    "crypto-policies",
    "localtime",
    "timezone",
    "nsswitch.conf",
    "protocols",
    "services",
    "mime.types",
    "magic",
    "gitconfig",
    "bash.bashrc",
    "profile",
    "inputrc",
    "terminfo",
    "python3",
    "java",
    "java-17-openjdk",
    "java-21-openjdk",
    "perl",
    "fonts",
    "os-release",
    "debian_version",
    "lsb-release",
    "login.defs",
    "shells",
    "hosts",
];
/// Only where the network is granted.
pub(super) const ETC_NETWORK: &[&str] = &["resolv.conf", "host.conf", "gai.conf"];
/// Devices that can be used.
pub(super) const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];
/// Size of the root's own file system and of shared memory.
const ROOT_SIZE: &str = "size=16m,mode=0755";
const SHM_SIZE: &str = "size=1g,mode=1777";

/// Makes this process the root of a user namespace that maps its own user and group only, and sends its future
/// children into a process namespace.
pub(super) fn enter_user_namespace() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // Groups that a root daemon carries would open files to commands. Others may not change theirs.
    let _ = rustix::thread::set_thread_groups(&[]);
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWPID)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// Everything else that can be had apart from the machine's.
pub(super) fn enter_namespaces(network: bool) -> io::Result<()> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP;
    unshare(if network { flags } else { flags | UnshareFlags::NEWNET })?;
    rustix::system::sethostname(b"sandbox")?;
    if network { Ok(()) } else { raise_loopback() }
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: none of the flags unshares the descriptor table, and the process has one thread.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Test servers on 127.0.0.1 work, and reach nobody outside.
fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero `ifreq` is valid; the kernel reads the name and the flags, which are set.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)).map(drop)
    }
}

/// Builds the new root and moves into it. The old one is gone afterwards.
pub(super) fn build(setup: &Setup) -> io::Result<()> {
    let root = setup.staging.as_path();
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("private mounts", mount_change("/", private).map_err(Into::into))?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    step("root", mount_new(root, "tmpfs", plain, ROOT_SIZE))?;

    for path in SYSTEM {
        step(path, show_system(Path::new(path), &at(path)))?;
    }
    for path in &setup.readable {
        let to = root.join(path.strip_prefix("/").unwrap_or(path));
        step(&path.display().to_string(), show(path, &to))?;
    }
    let etc = ETC.iter().chain(if setup.network { ETC_NETWORK } else { &[] });
    for name in etc {
        let from = Path::new("/etc").join(name);
        step(name, show(&from, &at("etc").join(name)))?;
    }
    step("users", write_users(&at("etc")))?;
    for name in DEVICES {
        step(name, show_device(&Path::new("/dev").join(name), &at("dev").join(name)))?;
    }
    for (link, to) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(Path::new("/proc/self").join(to), at("dev").join(link))?;
    }
    fs::create_dir_all(at("dev/shm"))?;
    step("shared memory", mount_new(&at("dev/shm"), "tmpfs", plain, SHM_SIZE))?;
    fs::create_dir_all(at("dev/pts"))?;
    let noexec = plain | MountFlags::NOEXEC;
    step(
        "terminals",
        mount_new(&at("dev/pts"), "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, "newinstance,ptmxmode=0666"),
    )?;
    symlink("pts/ptmx", at("dev/ptmx"))?;
    fs::create_dir_all(at("proc"))?;
    step("/proc", mount_new(&at("proc"), "proc", noexec, ""))?;
    limit_process_ids(&at("proc/sys/kernel/pid_max"), setup.processes);
    // To the machine's root user the kernel's settings would be writable.
    step("/proc", attributes(&at("proc"), libc::MOUNT_ATTR_RDONLY))?;
    for dir in ["run", "var", "sys"] {
        fs::create_dir_all(at(dir))?;
    }
    symlink("/tmp", at("var/tmp"))?;

    let inside = setup.inside();
    for (from, to, read_only) in [
        (&setup.workspace, &inside.workspace, false),
        (&setup.tmp, &inside.tmp, false),
        (&setup.home, &inside.home, false),
        (&setup.outputs, &inside.outputs, true),
    ] {
        let name = to.display().to_string();
        step(&name, bind_exact(from, &at(&name), read_only))?;
    }
    step("root", attributes_flat(root, libc::MOUNT_ATTR_RDONLY))?;
    step("pivot", pivot(root))
}

/// A system folder, or the link that stands in its place (`/bin` → `usr/bin`).
fn show_system(from: &Path, to: &Path) -> io::Result<()> {
    match fs::symlink_metadata(from) {
        Ok(m) if m.is_symlink() => symlink(fs::read_link(from)?, to),
        Ok(_) => show(from, to),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Binds a file or folder of the machine, read-only; one that does not exist is left out.
fn show(from: &Path, to: &Path) -> io::Result<()> {
    // Nothing shown needs devices or set-user-id.
    bind(from, to, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV)
}

/// Binds a device. Read-only concerns its node, which belongs to the machine, not what is written through it.
fn show_device(from: &Path, to: &Path) -> io::Result<()> {
    bind(from, to, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_RDONLY)
}

fn bind(from: &Path, to: &Path, attributes_set: u64) -> io::Result<()> {
    let Ok(from) = fs::canonicalize(from) else { return Ok(()) };
    make_target(to, from.is_dir())?;
    mount_bind_recursive(&from, to)?;
    attributes(to, attributes_set)
}

/// Opens one of the session's own folders. The path was made canonical by the daemon; a link that appeared in it since
/// is refused.
pub(super) fn open_exact(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(CWD, folder, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?)
}

fn bind_exact(from: &Path, to: &Path, read_only: bool) -> io::Result<()> {
    make_target(to, true)?;
    let held = open_exact(from)?;
    let held_path: PathBuf = format!("/proc/self/fd/{}", held.as_fd().as_raw_fd()).into();
    mount_bind_recursive(&held_path, to)?;
    let read_only = if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    attributes(to, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | read_only)
}

/// A fork bomb fills its own namespace, not the machine. Linux 6.14 made the setting one of the namespace; before that
/// it is the machine's and not ours to change.
fn limit_process_ids(setting: &Path, most: u64) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 14) {
        let _ = fs::write(setting, most.to_string()); // the other limits hold where this is refused
    }
}

fn make_target(to: &Path, is_dir: bool) -> io::Result<()> {
    if is_dir {
        return fs::create_dir_all(to);
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    File::create(to).map(drop)
}

fn mount_new(at: &Path, kind: &str, flags: MountFlags, data: &str) -> io::Result<()> {
    let data = CString::new(data)?;
    Ok(mount(kind, at, kind, flags, data.as_c_str())?)
}

/// Adds attributes to a mount and all mounts below it.
fn attributes(at: &Path, set: u64) -> io::Result<()> {
    set_attributes(at, set, libc::AT_RECURSIVE)
}

fn attributes_flat(at: &Path, set: u64) -> io::Result<()> {
    set_attributes(at, set, 0)
}

fn set_attributes(at: &Path, set: u64, flags: i32) -> io::Result<()> {
    let path = CString::new(at.as_os_str().as_bytes())?;
    let wanted = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: path and attributes outlive the call, and the size is theirs.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn write_users(etc: &Path) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    fs::create_dir_all(etc)?;
    let nobody = "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n";
    fs::write(etc.join("passwd"), format!("agent:x:{uid}:{gid}::/home/agent:/bin/bash\n{nobody}"))?;
    fs::write(etc.join("group"), format!("agent:x:{gid}:\nnogroup:x:65534:\n"))
}

fn pivot(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    // The old root is stacked on top of the new one and then taken off.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_not_opened_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("a/b")).unwrap();
        symlink("a", real.join("link")).unwrap();
        assert!(open_exact(&real.join("a/b")).is_ok());
        for through in ["link", "link/b"] {
            let refused = open_exact(&real.join(through)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::ELOOP), "{through}");
        }
    }
}
