//! More ways out, one by one: keys, processes, sockets, the network, system calls, devices, and what the hands remember.

use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use serde_json::json;
use torpor_exec_channel::message::Exit;
use torpor_hands::Level;

use crate::cell::{Cell, c_call, lacks};
use crate::support::{Daemon, SESSION, bash, call, ok, open, text};

#[tokio::test]
async fn keys_and_the_data_folder_cannot_be_found_or_read() {
    for cell in Cell::all().await {
        // Where a user's keys are: below a home that the daemon's user may read.
        let home = cell.daemon.dir.path().join("home");
        let keys = [
            ".ssh/id_ed25519",
            ".aws/credentials",
            ".config/gcloud/key.json",
            ".kube/config",
            ".netrc",
            "brain/store.db",
        ];
        for key in keys {
            let key = home.join(key);
            fs::create_dir_all(key.parent().unwrap()).unwrap();
            fs::write(&key, "the-secret").unwrap();
            for part in key.ancestors().take_while(|p| p.starts_with(&home)) {
                cell.daemon.give(part);
            }
        }
        let (home, real) = (home.display(), std::env::var("HOME").unwrap_or_else(|_| "/root".into()));
        for key in keys {
            cell.refused(&format!("cat {home}/{key}")).await;
            cell.refused(&format!("cd {home} && cat {key}")).await;
            cell.refused(&format!("cp {home}/{key} . && cat $(basename {key})")).await;
            cell.refused(&format!("tar c {home}/{key} | grep -a secret")).await;
        }
        cell.refused(&format!("cat {real}/.ssh/* {real}/.aws/* {real}/.config/*")).await;
        cell.refused(&format!("ls -A {}", cell.daemon.state().join("sessions").display())).await;
        cell.refused("cat /var/run/secrets/kubernetes.io/serviceaccount/token /run/secrets/*").await;
        if cell.level == Level::Full {
            let found = cell.bash("find / -xdev -name id_ed25519 2>/dev/null; ls -A /run /var /sys").await;
            assert!(!found.contains("id_ed25519") && found.contains("/sys:"), "{found}");
        }
    }
}

#[tokio::test]
async fn the_brain_cannot_be_reached() {
    for cell in Cell::all().await {
        // The test is the brain.
        let brain = std::process::id();
        for file in ["environ", "mem", "maps", "auxv", "stack", "io", "root/etc/hostname", "cwd/Cargo.toml"] {
            cell.refused(&format!("cat /proc/{brain}/{file}")).await;
        }
        for link in ["exe", "cwd", "root", "fd/0", "fd/1", "ns/net"] {
            cell.refused(&format!("readlink /proc/{brain}/{link}")).await;
        }
        cell.refused(&format!("for f in /proc/{brain}/fd/*; do cat $f && exit; done; exit 1")).await;
        for signal in ["0", "TERM", "STOP"] {
            cell.refused(&format!("kill -{signal} {brain}")).await;
        }
        let environment = cell.bash("env; cat /proc/self/environ /proc/1/environ 2>/dev/null | tr '\\0' '\\n'").await;
        for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO")) {
            assert!(!environment.contains(&format!("{name}={value}")), "{name}");
        }
    }
}

#[tokio::test]
async fn sockets_of_the_machine_cannot_be_reached() {
    if lacks(&["python3"]) {
        return;
    }
    let name = format!("torpor-test-{}", std::process::id());
    let abstract_one = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    abstract_one.set_nonblocking(true).unwrap();
    for cell in Cell::all().await {
        let path = cell.daemon.dir.path().join("listener");
        let named = UnixListener::bind(&path).unwrap();
        named.set_nonblocking(true).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let (path, hands) = (path.display(), cell.daemon.state().join("sock"));
        for address in [format!("\"{path}\""), format!("\"{}\"", hands.display()), format!("\"\\0{name}\"")] {
            for kind in ["SOCK_STREAM", "SOCK_SEQPACKET", "SOCK_DGRAM"] {
                let connect =
                    format!("python3 -c 'import socket as s; s.socket(s.AF_UNIX, s.{kind}).connect({address})'");
                cell.refused(&connect).await;
            }
        }
        assert_eq!(named.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    // With the network granted, abstract names are those of the machine: another wall holds.
    for level in [Level::Full, Level::Reduced] {
        let granted = Daemon::with(|s| (s.allow, s.prefer, s.network) = (level, level, true));
        let Some(daemon) = granted else { continue };
        let session = daemon.open(1).await;
        let connect = format!("python3 -c 'import socket as s; s.socket(s.AF_UNIX).connect(\"\\0{name}\")'");
        let tried = call(&session, 1, "bash", json!({ "command": connect })).await;
        assert_ne!(tried.exit, Exit::Code(0), "{level}: {}", text(&tried));
    }
    assert_eq!(abstract_one.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn nothing_reaches_the_network_in_any_way() {
    if lacks(&["python3"]) {
        return;
    }
    for cell in Cell::all().await {
        let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
        outside.set_nonblocking(true).unwrap();
        let port = outside.local_addr().unwrap().port();
        cell.bash(&format!("echo x > /dev/udp/127.0.0.1/{port}")).await;
        let send = format!("s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b\"x\", (\"127.0.0.1\", {port}))");
        cell.bash(&format!("python3 -c 'import socket as s; {send}'")).await;
        assert_eq!(outside.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock, "{}", cell.level);
        for attempt in [
            "s.getaddrinfo(\"example.com\", 80)",
            "s.create_connection((\"192.0.2.1\", 80), 2)",
            "s.socket(s.AF_INET, s.SOCK_RAW, 1)",
            "s.socket(s.AF_INET6, s.SOCK_RAW, 58)",
            "s.socket(s.AF_BLUETOOTH, s.SOCK_RAW, 1)",
            "s.socket(s.AF_TIPC, s.SOCK_STREAM)",
            "s.socket(s.AF_VSOCK, s.SOCK_STREAM)",
            "s.socket(s.AF_NETLINK, s.SOCK_RAW, 9).bind((0, -1))", // audit
        ] {
            cell.refused(&format!("timeout 10 python3 -c 'import socket as s; {attempt}'")).await;
        }
        if cell.level == Level::Full {
            // Its own and nothing else, and not to be changed.
            let own = cell
                .bash("cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '; cat /proc/net/route | wc -l")
                .await;
            assert_eq!(own, "lo\n1");
        }
    }
}

#[tokio::test]
async fn system_calls_that_reach_around_are_refused() {
    if lacks(&["python3"]) {
        return;
    }
    for cell in Cell::all().await {
        let buffer = "ctypes.create_string_buffer(256)";
        for (name, number, arguments) in [
            ("ptrace", libc::SYS_ptrace, "16, os.getppid(), 0, 0".to_owned()),
            ("process_vm_readv", libc::SYS_process_vm_readv, format!("os.getppid(), {buffer}, 1, {buffer}, 1, 0")),
            ("process_vm_writev", libc::SYS_process_vm_writev, format!("os.getppid(), {buffer}, 1, {buffer}, 1, 0")),
            ("pidfd_getfd", libc::SYS_pidfd_getfd, "3, 0, 0".into()),
            ("kcmp", libc::SYS_kcmp, "1, 2, 0, 0, 0".into()),
            ("add_key", libc::SYS_add_key, "b\"user\", b\"x\", b\"x\", 1, -3".into()),
            ("request_key", libc::SYS_request_key, "b\"user\", b\"x\", None, -3".into()),
            ("keyctl", libc::SYS_keyctl, "0, -3, 1".into()),
            ("io_uring_setup", libc::SYS_io_uring_setup, format!("1, {buffer}")),
            ("userfaultfd", libc::SYS_userfaultfd, "1".into()),
            ("bpf", libc::SYS_bpf, format!("5, {buffer}, 64")),
            ("perf_event_open", libc::SYS_perf_event_open, format!("{buffer}, 0, -1, -1, 0")),
            ("mount", libc::SYS_mount, "b\"none\", b\"/tmp\", b\"tmpfs\", 0, None".into()),
            ("umount2", libc::SYS_umount2, "b\"/tmp\", 2".into()),
            ("pivot_root", libc::SYS_pivot_root, "b\"/tmp\", b\"/tmp\"".into()),
            ("chroot", libc::SYS_chroot, "b\"/tmp\"".into()),
            ("move_mount", libc::SYS_move_mount, "0, b\"\", -100, b\"/tmp\", 4".into()),
            ("fsopen", libc::SYS_fsopen, "b\"tmpfs\", 0".into()),
            ("open_tree", libc::SYS_open_tree, "-100, b\"/\", 1".into()),
            ("unshare", libc::SYS_unshare, "0x10000000".into()),
            ("setns", libc::SYS_setns, "0, 0".into()),
            ("clone", libc::SYS_clone, "0x10000011, 0, 0, 0, 0".into()),
            ("open_by_handle_at", libc::SYS_open_by_handle_at, format!("-100, {buffer}, 0")),
            ("init_module", libc::SYS_init_module, format!("{buffer}, 8, b\"\"")),
            ("kexec_load", libc::SYS_kexec_load, "0, 0, None, 0".into()),
            ("reboot", libc::SYS_reboot, "0xfee1dead, 672274793, 0, None".into()),
            ("swapon", libc::SYS_swapon, "b\"/tmp\", 0".into()),
            ("syslog", libc::SYS_syslog, format!("3, {buffer}, 256")),
        ] {
            let told = cell.bash(&c_call(&format!("c.syscall({number}, {arguments})"))).await;
            assert_eq!(told, "-1 1", "{}: {name}", cell.level);
        }
        // What a filter cannot look into does not exist.
        let clone3 = c_call(&format!("c.syscall({}, {buffer}, 88)", libc::SYS_clone3));
        assert_eq!(cell.bash(&clone3).await, "-1 38");
        // The other tables of numbers lead nowhere either.
        if cfg!(target_arch = "x86_64") {
            let x32 = cell.bash(&c_call("c.syscall(0x40000000 + 521, 16, 0, 0, 0)")).await;
            assert!(x32 != "0 0" && !x32.starts_with("0 "), "{x32}");
        }
        for user in ["0", "1", "65533"] {
            if cell.bash("id -u").await != user {
                cell.refused(&format!("python3 -c 'import os; os.setresuid({user}, {user}, {user})'")).await;
            }
        }
    }
}

#[tokio::test]
async fn programs_that_lend_rights_lend_none() {
    for cell in Cell::all().await {
        for program in ["su -c true", "mount -t proc proc /proc", "passwd -d root", "chsh -s /bin/sh root"] {
            cell.refused(&format!("{program} < /dev/null")).await;
        }
        let status = cell.bash("grep -E '^(NoNewPrivs|Seccomp|CapBnd|CapEff):' /proc/self/status | tr -d '\\t'").await;
        // The bounding set of an ordinary user can be made smaller in a namespace of its own only.
        let bound = if cell.level == Level::Full { "CapBnd:0000000000000000" } else { "" };
        for want in ["NoNewPrivs:1", "Seccomp:2", "CapEff:0000000000000000", bound] {
            assert!(status.contains(want), "{}: {status}", cell.level);
        }
    }
}

#[tokio::test]
async fn terminals_and_devices_of_the_machine_cannot_be_used() {
    if lacks(&["python3"]) {
        return;
    }
    for cell in Cell::all().await {
        for device in [
            "mem",
            "kmsg",
            "port",
            "kvm",
            "fuse",
            "net/tun",
            "vda",
            "sda",
            "nvme0n1",
            "loop-control",
            "tty",
            "tty0",
            "console",
            "vhost-vsock",
        ] {
            cell.refused(&format!("head -c 1 /dev/{device}")).await;
            cell.refused(&format!("echo x > /dev/{device}")).await;
        }
        for device in ["c 1 1", "c 5 1", "b 8 0", "b 254 0", "c 10 232"] {
            cell.refused(&format!("mknod node {device} && head -c 1 node")).await;
            cell.refused(&format!("mknod /tmp/node {device} && head -c 1 /tmp/node")).await;
        }
        for setting in [
            "/proc/sysrq-trigger",
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/kernel/pid_max",
            "/proc/sys/vm/drop_caches",
            "/sys/kernel/uevent_helper",
        ] {
            cell.refused(&format!("echo x > {setting}")).await;
        }
        cell.refused("head -c 1 /proc/kcore").await;
        // Input cannot be put into a terminal: not into one that was inherited, and not into one of its own.
        let typed = "import fcntl, os, pty\nm, s = pty.openpty()\nfcntl.ioctl(s, 0x5412, b\"x\")";
        cell.refused(&format!("python3 -c '{typed}'")).await;
        let typed = c_call("c.ioctl(0, 0x5412, b\"x\")");
        assert_eq!(cell.bash(&typed).await, "-1 1", "{}", cell.level);
    }
}

#[tokio::test]
async fn what_the_hands_remember_cannot_be_forged() {
    for mut cell in Cell::all().await {
        let first = ok(&cell.session, 500, "seq 3000").await;
        let state = cell.daemon.state().display().to_string();
        let record = r#"{"ended":{"position":501,"ended":{"exit":"answered"}}}"#;
        let outputs =
            if cell.level == Level::Full { "/outputs".into() } else { format!("{state}/sessions/{SESSION}/outputs") };
        assert_eq!(cell.bash(&format!("tail -n 1 {outputs}/500/output")).await, "3000", "{}", cell.level);
        for attempt in [
            format!("echo '00000000 {record}' >> {state}/sessions/{SESSION}/journal"),
            format!("echo '00000000 {record}' >> ../../journal"),
            format!("mv {state}/sessions/{SESSION}/journal ."),
            format!("ln -s {state}/sessions/{SESSION}/journal j && echo x >> j"),
            format!("ln {state}/sessions/{SESSION}/journal j2"),
            "echo x >> /journal".into(),
            format!("echo forged > {outputs}/500/output"),
            format!("rm -r {outputs}/500"),
            format!("mv {outputs}/500 {outputs}/501"),
            format!("mkdir {outputs}/501"),
            format!("chmod -R 777 {outputs} && touch {outputs}/x"),
            format!("ln -sf /etc/passwd {outputs}/500/output"),
            format!("rm {state}/hands.lock {state}/sock"),
        ] {
            cell.refused(&attempt).await;
        }
        // A workspace may look like whatever it wants to: nothing of it is read as the hands' own.
        ok(&cell.session, 501, "mkdir -p sessions outputs; echo x > journal; ln -s / leaf; rmdir sessions").await;
        cell.daemon.restart();
        let later = cell.daemon.open(2).await;
        assert_eq!(ok(&later, 500, "seq 3000").await, first);
        assert_eq!(bash(&later, 502, &format!("tail -n 1 {outputs}/500/output")).await, "3000");
    }
}

#[tokio::test]
async fn another_session_cannot_be_signalled_or_seen_by_number() {
    for cell in Cell::all().await {
        let other = open(&cell.daemon.client(), &SESSION.replace('0', "e"), 1).await.unwrap();
        let command = format!("exec sleep 61.{}", cell.daemon.pid());
        let shown = command.trim_start_matches("exec ").replace(' ', "\0") + "\0";
        let sleeper = tokio::spawn(async move { bash(&other, 1, &command).await });
        let found = || {
            let all = fs::read_dir("/proc").unwrap().flatten();
            let mut pids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
            pids.find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c == shown.as_bytes()))
        };
        crate::support::until("the sleeper", || found().is_some()).await;
        let pid = found().unwrap();
        for attempt in [
            format!("kill -9 {pid}"),
            format!("cat /proc/{pid}/environ"),
            format!("ls /proc/{pid}/cwd/ /proc/{pid}/root/"),
            format!("readlink /proc/{pid}/fd/1"),
            format!("echo x > /proc/{pid}/fd/1"),
            format!("echo 999 > /proc/{pid}/oom_score_adj"),
        ] {
            cell.refused(&attempt).await;
        }
        // Its files stay where they are for this one, and what this one writes is nowhere else.
        assert!(!sleeper.is_finished(), "{}", cell.level);
        let own = format!("/tmp/torpor-escape-{}", std::process::id());
        cell.bash(&format!("echo x > {own}")).await;
        assert!(!Path::new(&own).exists(), "{}: the machine's own /tmp was written", cell.level);
    }
}

#[tokio::test]
async fn file_tools_follow_no_link_out_even_one_that_is_swapped_meanwhile() {
    for cell in Cell::all().await {
        let (secret, state) = (cell.secret.display().to_string(), cell.daemon.state().display().to_string());
        let outside = cell.daemon.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        cell.daemon.give(&outside);
        let out = outside.display();
        // A folder that is a folder, then a link out, then a folder, as fast as it goes.
        let swap = format!(
            "mkdir real; echo the-inside > real/f; ln -s {out} link; mkdir -p spin; cp real/f spin/f; \
             while :; do mv -T spin a 2>/dev/null; mv -T link spin; mv -T spin link; mv -T a spin; done > /dev/null 2>&1 &"
        );
        ok(&cell.session, cell.next(), &swap).await;
        for n in 0..40 {
            let input = json!({ "path": format!("spin/new{n}"), "content": "x" });
            let _ = call(&cell.session, cell.next(), "write", input).await;
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{}: something was written outside", cell.level);
        cell.bash(&format!("ln -sfn {state} hands; ln -sfn {secret} key; ln -sfn /proc/self/root root")).await;
        for (tool, input) in [
            ("find", json!({ "pattern": "*", "path": "hands" })),
            ("grep", json!({ "pattern": "secret", "path": "hands" })),
            ("ls", json!({ "path": "hands" })),
            ("read", json!({ "path": format!("root{secret}") })),
            ("write", json!({ "path": "hands/planted", "content": "x" })),
            ("write", json!({ "path": "root/etc/planted", "content": "x" })),
            ("edit", json!({ "path": "hands/hands.lock", "edits": [{ "oldText": "a", "newText": "b" }] })),
        ] {
            let ended = call(&cell.session, cell.next(), tool, input.clone()).await;
            let told = text(&ended);
            assert!(
                !told.contains("the-secret") && !told.contains("journal"),
                "{}: {tool} {input}: {told}",
                cell.level
            );
        }
        assert!(!cell.daemon.state().join("planted").exists() && !Path::new("/etc/planted").exists());
    }
}
