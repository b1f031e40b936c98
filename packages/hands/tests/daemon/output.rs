//! Output: what is kept, what is replayed, and what it costs.

use serde_json::json;
use torpor_core::CallId;
use torpor_exec_channel::message::{Ended, Exit};
use torpor_exec_channel::{Chunk, Client, Dial, Error, Exec, Session, Stream};

use crate::support::{Daemon, SESSION, bash, id, ok, open, options, text};

#[derive(Debug, Default)]
struct Seen {
    out: Vec<u8>,
    err: Vec<u8>,
    gap: u64,
    next: u64,
    ended: Option<Ended>,
}

/// Reads on to the end; every chunk must begin where the last one ended.
async fn read(exec: &mut Exec, from: u64) -> Seen {
    let mut seen = Seen { next: from, ..Seen::default() };
    while seen.ended.is_none() {
        take(exec, &mut seen).await;
    }
    seen
}

async fn take(exec: &mut Exec, seen: &mut Seen) {
    let mut at = |offset: u64, length: u64| {
        assert_eq!(offset, seen.next);
        seen.next += length;
    };
    match exec.next().await.unwrap() {
        Chunk::Stdout { offset, data } => {
            at(offset, data.len() as u64);
            seen.out.extend_from_slice(&data);
        }
        Chunk::Stderr { offset, data } => {
            at(offset, data.len() as u64);
            seen.err.extend_from_slice(&data);
        }
        Chunk::Gap { offset, length } => {
            at(offset, length);
            seen.gap += length;
        }
        Chunk::Ended(ended) => seen.ended = Some(ended),
    }
}

async fn exec(session: &Session, position: u64, command: &str, from: u64) -> Exec {
    session.exec_stream(id(session, position), "bash", json!({ "command": command }), from).await.unwrap()
}

#[tokio::test]
async fn both_streams_stay_apart_and_in_order() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    let command = "for i in $(seq 50); do echo out$i; echo err$i >&2; done";
    let seen = read(&mut exec(&session, 1, command, 0).await, 0).await;
    let lines = |word: &str| (1..=50).map(|i| format!("{word}{i}\n")).collect::<String>();
    assert_eq!(
        (String::from_utf8(seen.out).unwrap(), String::from_utf8(seen.err).unwrap()),
        (lines("out"), lines("err"))
    );
    let ended = seen.ended.unwrap();
    assert_eq!((ended.exit.clone(), ended.output.total), (Exit::Code(0), seen.next));
    // Replays from anywhere, after the end too.
    for from in [0, 1, 7, 100, seen.next - 1, seen.next, seen.next + 5] {
        let again = read(&mut session.attach(id(&session, 1), from).await.unwrap(), from).await;
        assert_eq!((again.out.len() + again.err.len()) as u64, seen.next.saturating_sub(from));
        assert_eq!(again.ended, Some(ended.clone()));
    }
}

#[tokio::test]
async fn the_next_brain_reads_on_where_the_dead_one_stopped() {
    let daemon = Daemon::start();
    let first = daemon.open(1).await;
    let command = "echo one; echo two >&2; while [ ! -e go ]; do sleep 0.01; done; echo three";
    let mut watching = exec(&first, 1, command, 0).await;
    let mut seen = Seen::default();
    while seen.next < 8 {
        take(&mut watching, &mut seen).await;
    }
    drop((watching, first));
    let second = daemon.open(2).await;
    let mut watching = second.attach(id(&second, 1), seen.next).await.unwrap();
    ok(&second, 2, "touch go").await;
    let rest = read(&mut watching, seen.next).await;
    assert_eq!((rest.out.as_slice(), rest.err.as_slice()), (&b"three\n"[..], &b""[..]));
    let all = read(&mut second.attach(id(&second, 1), 0).await.unwrap(), 0).await;
    assert_eq!((all.out.as_slice(), all.err.as_slice()), (&b"one\nthree\n"[..], &b"two\n"[..]));
}

#[tokio::test]
async fn one_call_id_runs_once_however_often_it_is_sent() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    let command = "echo x >> counter; sleep 0.1; wc -l < counter";
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let (session, client) = (session.clone(), daemon.client());
            tokio::spawn(async move {
                let other = open(&client, session.digest(), 1).await.unwrap();
                bash(&other, 1, command).await
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), "1");
    }
    assert_eq!(bash(&session, 1, command).await, "1");
    assert_eq!(ok(&session, 2, "cat counter").await, "x");
}

#[tokio::test]
async fn twenty_commands_share_a_channel_without_mixing() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    let calls: Vec<_> = (1..=20)
        .map(|i| {
            let session = session.clone();
            let command = format!("for n in $(seq 2000); do echo command-{i}-line-$n; done");
            tokio::spawn(async move { read(&mut exec(&session, i, &command, 0).await, 0).await })
        })
        .collect();
    for (i, call) in (1..=20).zip(calls) {
        let want: String = (1..=2000).map(|n| format!("command-{i}-line-{n}\n")).collect();
        assert!(call.await.unwrap().out == want.as_bytes(), "command {i}");
    }
}

#[tokio::test]
async fn a_reader_that_stalls_delays_nobody() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    let mut stalled = exec(&session, 1, "head -c 20000000 /dev/zero; touch finished", 0).await;
    // Its command ends although nobody reads, and others get through on the same channel.
    let waited = ok(&session, 2, "while [ ! -e finished ]; do sleep 0.01; done; echo yes").await;
    assert_eq!(waited, "yes");
    assert_eq!(read(&mut stalled, 0).await.out.len(), 20_000_000);
}

#[tokio::test]
async fn input_reaches_a_command_however_much_it_is() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    let call: CallId = id(&session, 1);
    let mut exec = session.exec_with_input(call, "bash", json!({ "command": "sleep 0.05; wc -c; cat" })).await.unwrap();
    for _ in 0..20 {
        assert!(exec.input(vec![b'x'; 100_000].into()).await);
    }
    exec.end_input().await;
    assert_eq!(read(&mut exec, 0).await.out, b"2000000\n");
    assert_eq!(ok(&session, 2, "wc -c").await, "0", "without input there is none");
}

/// Peak memory of a process in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn output_beyond_the_cap_costs_no_memory_and_is_told() {
    const SIZE: u64 = 256 * 1024 * 1024;
    const EXTRA_KIB: u64 = 12 * 1024;
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    ok(&session, 1, "true").await;
    let before = peak(daemon.pid());
    // One line, and not even text.
    let command = format!("head -c {SIZE} /dev/zero; echo; echo the end");
    let mut watching = exec(&session, 2, &command, 0).await;
    let mut seen = Seen::default();
    let (mut kept, mut last) = (0, Vec::new());
    while seen.ended.is_none() {
        take(&mut watching, &mut seen).await;
        kept += seen.out.len() as u64;
        last = if seen.out.is_empty() { last } else { std::mem::take(&mut seen.out) };
    }
    let ended = seen.ended.unwrap();
    assert_eq!(ended.output.total, SIZE + 9);
    assert_eq!((kept, seen.gap), (ended.output.head + ended.output.tail, ended.output.total - kept));
    assert!(last.ends_with(b"\nthe end\n"));
    assert!(text(&ended).contains("the end") && text(&ended).contains("/outputs/2/output"), "{}", text(&ended));
    assert!(text(&ended).contains("were not stored"), "{}", text(&ended));
    let told = ok(&session, 3, "tail -c 200 /outputs/2/output | tr -d '\\0'; stat -c %s /outputs/2/output").await;
    assert!(told.trim_start().starts_with("the end"), "{told}");
    let noticed = ok(&session, 4, "grep -a -c 'bytes of the output are missing here' /outputs/2/output").await;
    assert_eq!(noticed, "1");
    let grown = peak(daemon.pid()) - before;
    assert!(grown < EXTRA_KIB, "the daemon grew by {grown} KiB");
}

#[tokio::test]
async fn long_output_is_cut_and_stored_where_the_model_can_read_it() {
    let daemon = Daemon::start();
    let session = daemon.open(1).await;
    let told = bash(&session, 1, "seq 100000").await;
    assert!(told.contains("\n99999\n100000\n"), "the end is shown");
    assert!(told.contains("of 100000") && told.contains("/outputs/1/output"), "{}", &told[told.len() - 200..]);
    assert!(told.len() < 52 * 1024);
    assert_eq!(ok(&session, 2, "wc -l < /outputs/1/output; head -1 /outputs/1/output").await, "100000\n1");
    assert!(bash(&session, 3, "echo x > /outputs/1/output").await.contains("Read-only"));
    let odd = bash(&session, 4, r"printf 'a\xff\0\033[31mred\033[0m\n'").await;
    assert_eq!(odd, "a\u{fffd}red");
}

/// A channel that breaks after so many bytes, every time.
struct Breaking(std::path::PathBuf);

#[async_trait::async_trait]
impl Dial for Breaking {
    async fn dial(&self) -> Result<Box<dyn Stream>, Error> {
        let stream = torpor_hands::socket::connect(&self.0).await;
        let mut stream = stream.map_err(|e| Error::Unreachable(e.to_string()))?;
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let (mut from, mut to) = stream.split();
            let (mut up, mut down) = tokio::io::split(&mut theirs);
            let mut limited = tokio::io::AsyncReadExt::take(&mut from, 300_000);
            tokio::select! {
                _ = tokio::io::copy(&mut limited, &mut down) => {}
                _ = tokio::io::copy(&mut up, &mut to) => {}
            }
        });
        Ok(Box::new(ours))
    }
}

#[tokio::test]
async fn a_channel_that_keeps_breaking_loses_and_repeats_nothing() {
    let daemon = Daemon::start();
    let client = Client::new(Breaking(daemon.state().to_owned()), options());
    let session = open(&client, SESSION, 1).await.unwrap();
    let command = "echo x >> runs; seq 500000; cat runs >&2";
    let seen = read(&mut exec(&session, 1, command, 0).await, 0).await;
    let want: String = (1..=500_000).map(|n| format!("{n}\n")).collect();
    assert!(seen.out == want.as_bytes(), "{} bytes instead of {}", seen.out.len(), want.len());
    assert_eq!(seen.err, b"x\n");
}
