//! The system call filter.
//!
//! Owns: what is refused, and how. Must not know: files.
//!
//! A list of what is refused, not of what is allowed: commands are compilers, interpreters and test suites, and a list
//! of what they may need would be either wrong or everything. What is refused either opens attack surface of the
//! kernel or reaches around the other walls.
#![allow(unsafe_code)] // one prctl that takes a pointer to a filter program

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter, sock_filter,
};

use crate::level::Level;

/// Refused whatever the arguments.
const REFUSED: &[libc::c_long] = &[
    // other processes
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // mounts, roots, namespaces
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    // kernel surface that no build or test needs
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_lookup_dcookie,
    libc::SYS_syslog,
    // the machine
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Refused at `reduced`, where names of the machine's own are in reach: shared memory, semaphores and queues, and
/// attributes of files by path, which Landlock does not watch.
const REFUSED_ON_REAL_PATHS: &[libc::c_long] = &[
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    SETXATTRAT,
    REMOVEXATTRAT,
];
/// Not known to every C library.
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;
/// Refused at `reduced` for any process but the caller: which argument names it, 0 standing for the caller.
const SCHEDULING: &[(libc::c_long, u8)] = &[
    (libc::SYS_setpriority, 1),
    (libc::SYS_ioprio_set, 1),
    (libc::SYS_sched_setscheduler, 0),
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_sched_setattr, 0),
];
/// What the first argument of `setpriority` and `ioprio_set` is for all processes of a user.
const OF_A_USER: [(libc::c_long, u64); 2] = [(libc::SYS_setpriority, 2), (libc::SYS_ioprio_set, 3)];
/// Flags of `clone` that make a namespace.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;
/// Terminal controls that put input into somebody else's terminal.
const TERMINAL: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];
/// Mode bits that lend a program's rights to whoever runs it. A folder can be one of the machine's, where other users
/// would find the program.
const SET_ID: [u64; 2] = [0o4000, 0o2000];
/// Calls that take a mode, and which argument it is.
const MODES: &[(libc::c_long, u8)] = &[
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (FCHMODAT2, 2),
    (libc::SYS_mkdirat, 2),
    (libc::SYS_mknodat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
];
/// Not known to every C library.
const FCHMODAT2: libc::c_long = 452;
/// Calls that take a mode only if a flag says that a file is to be made: the flags, and the mode.
const OPENS: &[(libc::c_long, u8, u8)] = &[
    (libc::SYS_openat, 2, 3),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1, 2),
];
/// The flags that make a file; of the second, the bit that it does not share with others.
const MAKES: [u64; 2] = [libc::O_CREAT as u64, (libc::O_TMPFILE & !libc::O_DIRECTORY) as u64];
/// Mask over a socket's type that leaves the flags out.
const SOCKET_TYPE: u64 = 0xf;

type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// Installs the filter on this process and all that it starts.
pub(super) fn install(level: Level, network: bool) -> io::Result<()> {
    let refused = build(refusals(level, network).map_err(other)?, libc::EPERM)?;
    // Flags and modes of these are in memory, out of a filter's sight; with ENOSYS programs fall back to the older calls.
    let unseen = build([libc::SYS_clone3, libc::SYS_openat2].map(|n| (n, Vec::new())).into(), libc::ENOSYS)?;
    #[cfg(target_arch = "x86_64")]
    apply_filter(&x32()).map_err(other)?;
    apply_filter(&unseen).map_err(other)?;
    apply_filter(&refused).map_err(other)
}

fn other(e: impl std::fmt::Display) -> io::Error {
    io::Error::other(e.to_string())
}

fn build(rules: Rules, errno: i32) -> io::Result<BpfProgram> {
    let errno = SeccompAction::Errno(errno.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().map_err(other)?;
    SeccompFilter::new(rules, SeccompAction::Allow, errno, arch).and_then(TryInto::try_into).map_err(other)
}

fn refusals(level: Level, network: bool) -> Result<Rules, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let condition = |arg, op, value| SeccompCondition::new(arg, Dword, op, value);
    let rule = SeccompRule::new;

    let mut rules: Rules = REFUSED.iter().map(|n| (*n, Vec::new())).collect();
    // Any one of the flags: one rule each.
    let clone = (0..64).map(|bit| 1u64 << bit).filter(|bit| NAMESPACES & bit != 0);
    let clone = clone.map(|bit| rule(vec![condition(0, MaskedEq(bit), bit)?])).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_clone, clone);
    let ioctl = TERMINAL.iter().map(|n| rule(vec![condition(1, Eq, *n)?])).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, ioctl);

    for (call, mode) in MODES {
        let set_id = SET_ID.iter().map(|bit| rule(vec![condition(*mode, MaskedEq(*bit), *bit)?]));
        rules.insert(*call, set_id.collect::<Result<_, _>>()?);
    }
    for (call, flags, mode) in OPENS {
        let pairs = MAKES.iter().flat_map(|make| SET_ID.iter().map(move |bit| (*make, *bit)));
        let set_id = pairs.map(|(make, bit)| {
            rule(vec![condition(*flags, MaskedEq(make), make)?, condition(*mode, MaskedEq(bit), bit)?])
        });
        rules.insert(*call, set_id.collect::<Result<_, _>>()?);
    }

    // Limits of the caller's own, and reading anybody's, are fine.
    let of_others = rule(vec![condition(0, Ne, 0)?, SeccompCondition::new(2, Qword, Ne, 0)?])?;
    rules.insert(libc::SYS_prlimit64, vec![of_others]);
    if level == Level::Reduced {
        rules.extend(REFUSED_ON_REAL_PATHS.iter().map(|n| (*n, Vec::new())));
        for (call, who) in SCHEDULING {
            rules.insert(*call, vec![rule(vec![condition(*who, Ne, 0)?])?]);
        }
        for (call, user) in OF_A_USER {
            rules.entry(call).or_default().push(rule(vec![condition(0, Eq, user)?])?);
        }
    }

    let mut families = Vec::new();
    if level == Level::Full {
        families.push(libc::AF_UNIX); // only those of the own root can be reached
    }
    if network || level == Level::Full {
        families.extend([libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK]);
    }
    let families = families.iter().map(|f| condition(0, Ne, u64::from(f.cast_unsigned())));
    let families: Vec<_> = families.collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socket, if families.is_empty() { Vec::new() } else { vec![rule(families)?] });
    if level == Level::Reduced {
        // A pair of stream sockets can reach nobody else; one of a datagram pair could send anywhere.
        let stream = u64::from(libc::SOCK_STREAM.cast_unsigned());
        let packets = u64::from(libc::SOCK_SEQPACKET.cast_unsigned());
        let others = (0..=SOCKET_TYPE).filter(|t| *t != stream && *t != packets);
        let pair = others.map(|t| rule(vec![condition(1, MaskedEq(SOCKET_TYPE), t)?])).collect::<Result<_, _>>()?;
        rules.insert(libc::SYS_socketpair, pair);
    }
    Ok(rules)
}

/// Refuses the second numbering of system calls on this architecture, which the rules above do not know.
#[cfg(target_arch = "x86_64")]
fn x32() -> BpfProgram {
    const BIT: u32 = 0x4000_0000;
    let op = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    vec![
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the number
        op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, BIT),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}
