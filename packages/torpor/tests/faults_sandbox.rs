//! Everything a command or a file can do wrong, against the real hands: what the model is told, and what it takes in
//! memory and time on both sides.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use support::{Server, World, bash, script_tool, until_file};

/// What the model is told of each call of a run, in the order of the log, and how long the run took.
async fn told(world: &World, server: &Server, steps: &[String]) -> (Vec<String>, Duration) {
    let begun = Instant::now();
    let run = server.submit(world.prompt(&format!("{};text", steps.join(";")))).await;
    let record = server.ended(&run).await;
    let took = begun.elapsed();
    assert_eq!((record["status"].as_str(), record["response"].as_str()), (Some("done"), Some("done")), "{record}");
    let log = server.get(&format!("/sessions/{}/log?limit=500", record["sessionId"].as_str().unwrap())).await.body;
    let ended = log["entries"].as_array().unwrap().iter().filter(|e| e["type"] == json!("tool_ended"));
    let text = |e: &Value| {
        let result = &e["result"];
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        let error = result["isError"].as_bool().or_else(|| result["is_error"].as_bool()).unwrap_or_default();
        format!("{}{text}", if error { "error: " } else { "" })
    };
    (ended.map(text).collect(), took)
}

async fn one(world: &World, server: &Server, step: String) -> (String, Duration) {
    let (mut texts, took) = told(world, server, &[step]).await;
    assert_eq!(texts.len(), 1, "{texts:?}");
    (texts.remove(0), took)
}

fn timed(command: &str, seconds: u64) -> String {
    script_tool("bash", &json!({"command": command, "timeout": seconds}))
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_misbehave_are_told_as_they_ended() {
    let world = World::new().await;
    let server = world.serve().await;
    let stubborn = "trap '' TERM; (trap '' TERM; while :; do sleep 0.05; done) & while :; do sleep 0.05; done";
    // The command, what is told of it, and the seconds within which.
    let cases = [
        (bash("exit 7"), "7", 15),
        (bash("cat; echo end"), "end", 15),
        (bash("read -r x; echo \"got <$x>\""), "got <>", 15),
        (bash("echo 'never closed"), "unexpected EOF", 15),
        (bash("kill -9 $$"), "9", 15),
        (bash("no-such-program-at-all"), "not found", 15),
        (bash("exit 0"), "", 15),
        (bash("sleep 1000 & echo left"), "left", 15),
        (bash("setsid sleep 1000 >/dev/null 2>&1 & echo far"), "far", 15),
        (bash("printf 'a\\0b\\377\\376c'; head -c 20000 /dev/urandom; echo"), "", 15),
        (bash("exec >&- 2>&-; sleep 0.1"), "", 15),
        (timed("while :; do :; done", 1), "1 second", 20),
        (timed("sleep 1000", 1), "1 second", 20),
        (timed(stubborn, 1), "1 second", 20),
        (timed("yes", 1), "1 second", 20),
    ];
    let outcomes = join_all(cases.iter().map(|(step, ..)| one(&world, &server, step.clone()))).await;
    for ((step, want, seconds), (text, took)) in cases.iter().zip(outcomes) {
        assert!(text.contains(want), "{step}: {text:.500}");
        assert!(text.len() < 60_000, "{step}: {} bytes", text.len());
        assert!(took < Duration::from_secs(*seconds), "{step}: {took:?}");
    }
    assert!(server.process().peak() < 100.0, "{} MiB", server.process().peak());
    assert!(world.hands().unwrap().peak() < 100.0, "{} MiB", world.hands().unwrap().peak());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_any_size_and_kind_is_bounded_on_both_sides() {
    let world = World::new().await;
    let server = world.serve().await;
    one(&world, &server, bash("true")).await;
    for (command, seconds) in [
        ("head -c 100000000 /dev/zero | tr '\\0' x", 30),
        ("head -c 1073741824 /dev/zero", 55),
        ("head -c 50000000 /dev/urandom", 30),
        ("yes | head -c 100000000", 30),
        ("head -c 30000000 /dev/zero >&2", 30),
    ] {
        let (text, took) = one(&world, &server, bash(command)).await;
        assert!(text.len() < 60_000, "{command}: {} bytes", text.len());
        assert!(took < Duration::from_secs(seconds), "{command}: {took:?}");
    }
    let (brain, hands) = (server.process().peak(), world.hands().unwrap().peak());
    println!("after 1.3 GB of output: server {brain:.0} MiB, hands {hands:.0} MiB at most");
    assert!(brain < 80.0 && hands < 80.0, "server {brain} MiB, hands {hands} MiB");
    let kept = bytes_below(&world.data().join("hands"));
    assert!(kept < 400e6, "{kept} bytes of output are kept");
}

fn bytes_below(dir: &std::path::Path) -> f64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| match e.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&e.path()),
            Ok(meta) => meta.len() as f64,
            Err(_) => 0.0,
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_goes_with_its_hands_and_the_next_one_works() {
    let world = World::new().await;
    let server = world.serve().await;
    let steps = [bash("echo x >> ledger; sleep 600"), bash("echo y >> ledger; echo fine")];
    let kill = async {
        until_file(&world.file("ledger")).await;
        world.kill_hands();
    };
    let ((texts, took), ()) = tokio::join!(told(&world, &server, &steps), kill);
    assert!(texts[0].contains("Its outcome is unknown"), "{}", texts[0]);
    assert!(texts[1].contains("fine"), "{}", texts[1]);
    assert_eq!((world.count("ledger", "x"), world.count("ledger", "y")), (1, 1));
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_folders_of_any_kind_and_size_are_read_within_bounds() {
    let world = World::new().await;
    let server = world.serve().await;
    let large = std::fs::File::create(world.file("large")).unwrap();
    large.set_len(1 << 30).unwrap(); // one line of zeros; takes no room
    let mut text = b"first\n".repeat(100).clone();
    text.extend_from_slice(&[b'x'; 3 << 20]);
    std::fs::write(world.file("long-line"), &text).unwrap();
    let lines = std::fs::File::create(world.file("lines")).unwrap();
    {
        use std::io::Write as _;
        let mut lines = std::io::BufWriter::with_capacity(1 << 20, lines);
        for _ in 0..(200 << 20) / 64 {
            lines.write_all(&[b"l".repeat(63), b"\n".to_vec()].concat()).unwrap();
        }
    }
    std::fs::create_dir(world.file("wide")).unwrap();
    for n in 0..20_000 {
        std::fs::write(world.file("wide").join(format!("{n:05}")), "").unwrap();
    }
    // Names as long as a path may be, in all.
    let mut deep = world.file("deep");
    for _ in 0..300 {
        deep.push("deeper");
    }
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("needle"), "needle\n").unwrap();
    let socket = std::os::unix::net::UnixListener::bind(world.file("socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.file("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from(0o600),
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink("loop", world.file("loop")).unwrap();
    let read = |path: &str| script_tool("read", &json!({"path": path}));
    let cases = [
        (read("large"), "binary"),
        (read("long-line"), "exceeds"),
        (read("lines"), "Use offset=801"),
        (script_tool("read", &json!({"path": "lines", "offset": 3_000_000, "limit": 1})), "lll"),
        (read("fifo"), "named pipe"),
        (read("socket"), "not a regular file"),
        (read("/dev/zero"), "error: "),
        (read("/dev/stdin"), "error: "),
        (read("/proc/self/mem"), "error: "),
        (read("loop"), "error: "),
        (read("wide"), "directory"),
        (read("nowhere"), "error: "),
        (script_tool("write", &json!({"path": "fifo", "content": "x"})), ""),
        (script_tool("edit", &json!({"path": "fifo", "edits": [{"oldText": "a", "newText": "b"}]})), "error: "),
        (script_tool("ls", &json!({"path": "wide"})), "20000 in all"),
        (script_tool("find", &json!({"pattern": "**/needle"})), "deeper/needle"),
        (script_tool("grep", &json!({"pattern": "needle", "path": "deep"})), "needle"),
        (script_tool("find", &json!({"pattern": "*", "path": "wide"})), "00000"),
        (script_tool("grep", &json!({"pattern": "l+", "path": "lines"})), "lll"),
    ];
    let begun = Instant::now();
    let outcomes = join_all(cases.iter().map(|(step, _)| one(&world, &server, step.clone()))).await;
    for ((step, want), (text, took)) in cases.iter().zip(outcomes) {
        assert!(text.contains(want), "{step}: {text:.500}");
        assert!(text.len() < 60_000, "{step}: {} bytes", text.len());
        assert!(took < Duration::from_secs(50), "{step}: {took:?}");
    }
    println!("{:?}; hands {:.0} MiB", begun.elapsed(), world.hands().unwrap().peak());
    assert!(world.hands().unwrap().peak() < 100.0, "{} MiB", world.hands().unwrap().peak());
    assert!(server.process().peak() < 100.0, "{} MiB", server.process().peak());
    drop(socket);
}
