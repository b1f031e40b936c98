//! A model's command that tries to get out.
//!
//! Every attempt is made at each level that this kernel can do; what it cannot do is said.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use serde_json::json;
use torpor_exec_channel::message::Exit;
use torpor_exec_channel::message::{Open, Workspace};
use torpor_hands::Level;

use crate::cell::{Cell, c_call, lacks};
use crate::support::{Daemon, SESSION, bash, call, ok, open, text, until};

#[tokio::test]
async fn files_outside_cannot_be_read_or_written() {
    for cell in Cell::all().await {
        let (secret, state) = (cell.secret.display().to_string(), cell.daemon.state().display().to_string());
        let journal = format!("{state}/sessions/{SESSION}/journal");
        for path in [&secret, &journal, "/etc/shadow", "/etc/ssh", "/root/.bashrc", "/var/log/dpkg.log"] {
            cell.refused(&format!("cat {path}/* {path}")).await;
        }
        cell.refused(&format!("ls {state}")).await;
        for path in ["/usr/x", "/etc/x", "/x", "/proc/sys/kernel/core_pattern", "/dev/x", &secret, &journal] {
            cell.refused(&format!("echo x > {path}")).await;
        }
        cell.refused("mknod null c 1 3").await;
        cell.refused(&format!("ln {secret} here && cat here")).await;
        cell.refused(&format!("ln -s {secret} link && cat link")).await;
        assert_eq!(fs::read_to_string(&cell.secret).unwrap(), "the-secret");
    }
}

#[tokio::test]
async fn file_tools_are_held_by_the_same_walls() {
    for cell in Cell::all().await {
        let secret = cell.secret.display().to_string();
        cell.bash(&format!("ln -s {secret} link; ln -s /etc/shadow shadow; ln -s / slash")).await;
        for (tool, input) in [
            ("read", json!({ "path": "link" })),
            ("read", json!({ "path": "shadow" })),
            ("read", json!({ "path": secret })),
            ("read", json!({ "path": format!("slash{secret}") })),
            ("write", json!({ "path": "link", "content": "overwritten" })),
            ("write", json!({ "path": "slash/usr/x", "content": "x" })),
            ("edit", json!({ "path": "link", "edits": [{ "oldText": "secret", "newText": "x" }] })),
            ("grep", json!({ "pattern": "secret", "path": secret })),
            ("ls", json!({ "path": cell.daemon.state() })),
        ] {
            let ended = call(&cell.session, cell.next(), tool, input.clone()).await;
            assert!(!text(&ended).contains("the-secret"), "{}: {tool} {input}: {}", cell.level, text(&ended));
            // An atomic write replaces the link itself, inside the workspace: that reaches nobody.
            if !input.to_string().contains("\"link\"") {
                assert!(ended.result.is_some_and(|r| r.is_error), "{}: {tool} {input}", cell.level);
            }
        }
        assert_eq!(fs::read_to_string(&cell.secret).unwrap(), "the-secret");
    }
}

#[tokio::test]
async fn the_daemon_cannot_be_reached() {
    for cell in Cell::all().await {
        let (pid, state) = (cell.daemon.pid(), cell.daemon.state().display().to_string());
        for file in ["environ", "mem", "maps", "root/etc/hostname"] {
            cell.refused(&format!("cat /proc/{pid}/{file}")).await;
        }
        for dir in ["root", "cwd"] {
            cell.refused(&format!("ls /proc/{pid}/{dir}/")).await;
        }
        cell.refused(&format!("readlink /proc/{pid}/fd/* /proc/{pid}/map_files/*")).await;
        let own = cell.bash("cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; env").await;
        assert!(!own.contains("do-not-leak") && !own.contains("CARGO"), "{own}");
        let connect = format!("import socket; socket.socket(socket.AF_UNIX).connect('{state}/sock')");
        cell.refused(&format!("python3 -c \"{connect}\"")).await;
        cell.refused(&format!("kill -9 {pid}")).await;
        // Nor can a command make its domain unkillable.
        let stop = json!({ "command": "kill -STOP $PPID; sleep 60", "timeout": 0.2 });
        let stopped = call(&cell.session, cell.next(), "bash", stop).await;
        assert_eq!(stopped.exit, Exit::Timeout(1));
        // Its own domain process may die where there is no process namespace; the daemon may not.
        cell.bash("kill -9 $PPID; kill -9 1; kill -9 -1").await;
        assert_eq!(ok(&cell.session, cell.next(), "echo alive").await, "alive");
    }
}

#[tokio::test]
async fn a_command_does_not_outlive_its_supervisor() {
    for cell in Cell::all().await {
        let other = cell.session.clone();
        let beside = tokio::spawn(async move { bash(&other, 1000, "sleep 1; echo undisturbed").await });
        let escape = "beat() { while :; do echo x >> beats; sleep 0.01; done; }; export -f beat; \
                      setsid bash -c beat & until [ -s beats ]; do :; done; kill -9 $PPID; beat";
        let ended = call(&cell.session, cell.next(), "bash", json!({ "command": escape, "timeout": 30 })).await;
        assert_eq!(ended.exit, Exit::Signal(9), "{}", cell.level);
        let still =
            cell.bash("a=$(wc -c < beats); sleep 0.2; [ $a -gt 0 ] && [ $a = $(wc -c < beats) ] || echo beats").await;
        assert_eq!(still, "(no output)", "{}: something of the command still runs", cell.level);
        assert_eq!(beside.await.unwrap(), "undisturbed", "{}", cell.level);
    }
}

#[tokio::test]
async fn nothing_outruns_the_end_of_its_domain() {
    if lacks(&["python3"]) {
        return;
    }
    for mut cell in Cell::all().await {
        // Never the same process twice: whoever looks for it finds one that is gone.
        let hop = "import os\nwhile True:\n  if os.fork(): os._exit(0)\n  os.setsid()\n  open('hops', 'a').write('x')";
        let hop =
            format!("echo \"{hop}\" > hop.py; for _ in 1 2 3; do python3 hop.py & done; until [ -s hops ]; do :; done");
        ok(&cell.session, cell.next(), &hop).await;
        let hops = cell.daemon.state().join("sessions").join(SESSION).join("leaf/workspace/hops");
        let size = || fs::metadata(&hops).unwrap().len();
        let begun = size();
        until("hopping", || size() > begun + 100).await;
        cell.daemon.kill();
        let mut before = u64::MAX;
        let mut last = std::time::Instant::now();
        until("the end of everything", || {
            let now = size();
            if now != before {
                (before, last) = (now, std::time::Instant::now());
            }
            last.elapsed() > std::time::Duration::from_millis(300)
        })
        .await;
    }
}

#[tokio::test]
async fn another_session_cannot_be_reached() {
    for cell in Cell::all().await {
        let digest = SESSION.replace('0', "f");
        let other = open(&cell.daemon.client(), &digest, 1).await.unwrap();
        ok(&other, 1, "echo the-secret > mine; chmod 600 mine").await;
        let path = cell.daemon.state().join("sessions").join(&digest).join("leaf/workspace");
        let path = path.display();
        cell.refused(&format!("cat {path}/mine")).await;
        cell.refused(&format!("echo x > {path}/new")).await;
        let sleeper = tokio::spawn(async move { bash(&other, 2, "exec sleep 77.5").await });
        while cell.bash("true").await.is_empty() {}
        cell.bash("pkill -9 -f 'sleep 77.5'").await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(!sleeper.is_finished(), "{}: a process of another session was killed", cell.level);
    }
}

#[tokio::test]
async fn there_is_no_network() {
    for cell in Cell::all().await {
        let port = cell.outside.local_addr().unwrap().port();
        cell.refused(&format!("exec 3<>/dev/tcp/127.0.0.1/{port}")).await;
        cell.refused("exec 3<>/dev/udp/192.0.2.1/53 && echo x >&3").await;
        for family in ["AF_PACKET", "AF_VSOCK", "AF_ALG"] {
            cell.refused(&format!("python3 -c 'import socket; socket.socket(socket.{family}, socket.SOCK_RAW)'")).await;
        }
    }
}

#[tokio::test]
async fn rights_cannot_be_gained() {
    for cell in Cell::all().await {
        for command in [
            "mount -t tmpfs none /tmp",
            "unshare -U true",
            "unshare -m true",
            "python3 -c 'import os; os.setuid(12345)'",
            "chroot / true",
            "grep -E '^Cap(Prm|Eff|Inh|Amb):.*[1-9a-f]' /proc/self/status",
            "python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL(None).ptrace(0, 0, 0, 0) + 1 == 0)'",
            "python3 -c 'import os; os.close(os.open(\"/proc/1/mem\", os.O_RDWR))'",
            "hostname other",
            "date -s 2001-01-01",
            "dmesg",
        ] {
            cell.refused(command).await;
        }
        assert_eq!(cell.bash("grep NoNewPrivs /proc/self/status | cut -f2; ulimit -c").await, "1\n0");
    }
}

#[tokio::test]
async fn nobody_else_is_lent_the_rights_of_the_daemon() {
    for cell in Cell::all().await {
        cell.bash("cp /bin/sh shell; mkdir dir; touch empty").await;
        for command in [
            "chmod 4755 shell",
            "chmod g+s shell",
            "chmod 2755 dir",
            "install -m 4755 shell other",
            "python3 -c 'import os; os.chmod(\"shell\", 0o4755)'",
            "python3 -c 'import os; os.fchmod(os.open(\"shell\", 0), 0o2755)'",
            "python3 -c 'import os; os.close(os.open(\"made\", os.O_CREAT | os.O_WRONLY, 0o4755))'",
            "python3 -c 'import os; os.close(os.open(\".\", os.O_TMPFILE | os.O_WRONLY, 0o4755))'",
            "python3 -c 'import os; os.mknod(\"node\", 0o106755)'",
            // fchmodat2 and openat2, which C libraries do not use for this.
            "python3 -c 'import ctypes, sys; sys.exit(-ctypes.CDLL(None).syscall(452, -100, b\"shell\", 0o4755, 0))'",
            "python3 -c 'import ctypes, sys; how = (ctypes.c_uint64 * 3)(0o101, 0o4755, 0); \
             sys.exit(ctypes.CDLL(None).syscall(437, -100, b\"made\", how, 24) < 0)'",
        ] {
            cell.refused(command).await;
        }
        assert_eq!(cell.bash("find . -perm /6000 | wc -l").await, "0", "{}", cell.level);
        // The same argument means nothing where no file is made, and ordinary modes are as they were.
        let modes = "chmod 755 shell && chmod 1777 dir && chmod u+w,go-w empty && install -m 640 empty copy && tar c . | tar x -C dir";
        ok(&cell.session, cell.next(), modes).await;
    }
}

#[tokio::test]
async fn devices_can_be_used_but_not_changed() {
    if lacks(&["python3"]) {
        return;
    }
    for cell in Cell::all().await {
        ok(&cell.session, cell.next(), "echo x > /dev/null && head -c 1 /dev/zero >/dev/full; [ $? = 1 ]").await;
        // The mode that they have: nothing would be lost.
        let wall = if cell.level == Level::Full { "Read-only file system" } else { "not permitted" };
        for change in ["chmod 666 /dev/null", "python3 -c 'import os; os.fchmod(0, 0o666)'"] {
            let told = cell.bash(change).await;
            assert!(told.contains(wall), "{}: {change}: {told}", cell.level);
        }
    }
}

#[tokio::test]
async fn processes_and_names_of_the_machine_cannot_be_changed() {
    if lacks(&["python3"]) {
        return;
    }
    for cell in Cell::all().await {
        let limits = c_call("c.prlimit(os.getppid(), 7, (ctypes.c_uint64 * 2)(9, 9), None)");
        assert_eq!(cell.bash(&limits).await, "-1 1", "{}: {limits}", cell.level);
        ok(&cell.session, cell.next(), "ulimit -n 99; prlimit --pid $$ >/dev/null; nice -n 1 true; touch -d @0 x")
            .await;
        if cell.level != Level::Reduced {
            continue; // there are none but its own
        }
        let pid = cell.daemon.pid();
        for call in [
            format!("c.setpriority(0, {pid}, 19)"),
            "c.setpriority(2, 0, 19)".into(),
            format!("c.syscall({}, 1, {pid}, 0x6000)", libc::SYS_ioprio_set),
            format!("c.syscall({}, 3, 0, 0x6000)", libc::SYS_ioprio_set),
            format!("c.sched_setscheduler({pid}, 5, (ctypes.c_int * 1)(0))"),
            "c.shmget(0, 4096, 0o1600)".into(),
            "c.semget(0, 1, 0o1600)".into(),
            "c.msgget(0, 0o1600)".into(),
            format!("c.syscall({}, b\"queue\", 0o102, 0o600, 0)", libc::SYS_mq_open),
            "c.setxattr(b\"x\", b\"user.x\", b\"x\", 1, 0)".into(),
        ] {
            assert_eq!(cell.bash(&c_call(&call)).await, "-1 1", "{call}");
        }
    }
}

#[tokio::test]
async fn honest_work_is_not_disturbed() {
    if lacks(&["python3", "git"]) {
        return;
    }
    for cell in Cell::all().await {
        let level = cell.level;
        for (command, want) in [
            ("mkdir -p a/b && mv a/b a/c && rm -r a && echo moved", "moved"),
            ("echo x | sort | uniq | wc -l", "1"),
            ("python3 -c 'print(sum(range(10)))'", "45"),
            ("python3 -c 'import multiprocessing as m; print(m.Pool(2).map(abs, [-1]))'", "[1]"),
            ("cat <(echo sub) > /dev/null; echo x > /dev/stdout", "x"),
            (
                "git init -q . && git -c user.name=a -c user.email=b commit -q --allow-empty -m x && git log --format=%s",
                "x",
            ),
            ("f=$(mktemp) && echo $TMPDIR > $f && [ -s $f ] && echo temp", "temp"),
            ("cd ~ && touch file && echo home", "home"),
            ("whoami >/dev/null && id -u >/dev/null && echo id", "id"),
            ("head -c 1 /dev/urandom | wc -c", "1"),
        ] {
            let command =
                if level == Level::Reduced && command.contains("multiprocessing") { continue } else { command };
            assert_eq!(cell.bash(command).await, want, "{level}: {command}");
        }
    }
}

#[tokio::test]
async fn a_named_workspace_must_lie_below_an_allowed_root() {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    fs::create_dir_all(root.join("project")).unwrap();
    fs::create_dir_all(outside.path().join("rootless")).unwrap();
    std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
    let daemon = Daemon::start();
    let open_at = async |digest: char, path: PathBuf| {
        let open = Open {
            session: SESSION.replace('0', &digest.to_string()),
            epoch: torpor_core::Epoch(1),
            born: torpor_core::Epoch(0),
            workspace: Some(Workspace {
                path: path.display().to_string(),
                roots: vec![root.display().to_string(), "/no/such/folder".into()],
            }),
        };
        daemon.client().open(open).await
    };
    for (digest, bad) in
        [('a', "root/link"), ('b', "rootless"), ('c', "root/project/../../rootless"), ('d', "root/missing")]
    {
        let refused = open_at(digest, outside.path().join(bad)).await.unwrap_err().to_string();
        assert!(refused.contains("workspace"), "{refused}");
    }
    let session = open_at('e', root.join("project")).await.unwrap();
    assert_eq!(ok(&session, 1, "pwd; touch made-inside").await, "/workspace");
    assert!(root.join("project/made-inside").exists());
    let moved = open_at('e', root.clone()).await.unwrap_err().to_string();
    assert!(moved.contains("the session's workspace is"), "{moved}");
    // Nor may it become a way out afterwards.
    fs::create_dir(root.join("later")).unwrap();
    let session = open_at('f', root.join("later")).await.unwrap();
    fs::remove_dir(root.join("later")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("rootless"), root.join("later")).unwrap();
    let replaced = call(&session, 1, "bash", json!({ "command": "touch made-outside" })).await;
    assert!(text(&replaced).contains("was replaced by a link"), "{}", text(&replaced));
    assert!(!outside.path().join("rootless/made-outside").exists());
}

#[tokio::test]
async fn the_network_is_there_where_it_is_granted() {
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    for level in [Level::Full, Level::Reduced] {
        let granted = Daemon::with(|s| (s.allow, s.prefer, s.network) = (level, level, true));
        let Some(daemon) = granted else { continue };
        let session = daemon.open(1).await;
        assert_eq!(ok(&session, 1, &format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected")).await, "connected");
    }
}

#[test]
fn reduced_is_refused_to_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the test does not run as root");
        return;
    }
    let state = tempfile::tempdir().unwrap();
    for how in ["probe", "daemon"] {
        let refused = std::process::Command::new(env!("CARGO_BIN_EXE_torpor-hands"))
            .args([how, "--allow", "reduced", "--prefer", "reduced", "--state"])
            .arg(state.path())
            .output()
            .unwrap();
        assert!(!refused.status.success());
        let why = String::from_utf8(refused.stderr).unwrap();
        assert!(why.contains("run as an ordinary user, or enable user namespaces"), "{why}");
    }
}

#[tokio::test]
async fn without_confinement_the_rest_still_works() {
    let daemon = Daemon::with(|s| (s.allow, s.prefer) = (Level::Unconfined, Level::Unconfined)).unwrap();
    let session = daemon.open(1).await;
    assert_eq!(ok(&session, 1, "pwd").await, session.workdir());
    let left = json!({ "command": "setsid sleep 66.5 & sleep 60", "timeout": 0.2 });
    assert_eq!(call(&session, 2, "bash", left).await.exit, Exit::Timeout(1));
    assert_eq!(bash(&session, 3, "pgrep -f '[s]leep 66.5' || echo none").await, "none");
}
