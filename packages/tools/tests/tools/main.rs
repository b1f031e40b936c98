//! What a model reads, tool by tool: every notice and error text is pinned here.

#![allow(clippy::unwrap_used)] // A test that cannot be set up should fail on the spot.

mod bash;
mod edit;
mod find;
mod grep;
mod ls;
mod read;
mod write;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;
use torpor_tools::{Context, Output, run};

/// A working directory of its own.
struct Bench {
    _dir: TempDir,
    ctx: Context,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workdir = dir.path().canonicalize().unwrap();
        Self { _dir: dir, ctx: Context { workdir, cancelled: Arc::default() } }
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let bench = Self::new();
        for (path, content) in files {
            bench.put(path, content);
        }
        bench
    }

    fn path(&self, path: &str) -> PathBuf {
        self.ctx.workdir.join(path)
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn get(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn run(&self, tool: &str, input: &Value) -> Output {
        run(tool, input, &self.ctx)
    }

    #[track_caller]
    fn ok(&self, tool: &str, input: &Value) -> String {
        let out = self.run(tool, input);
        assert!(!out.is_error, "{tool} failed: {}", out.text);
        out.text
    }

    #[track_caller]
    fn err(&self, tool: &str, input: &Value) -> String {
        let out = self.run(tool, input);
        assert!(out.is_error, "{tool} succeeded: {}", out.text);
        out.text
    }
}

/// A named pipe, which nobody writes to.
fn make_pipe(path: &std::path::Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[test]
fn an_unknown_tool_is_refused_with_the_known_ones() {
    assert_eq!(
        Bench::new().err("cat", &json!({})),
        "Unknown tool: cat. Known tools: read, write, edit, ls, grep, find."
    );
}

#[test]
fn arguments_are_refused_by_name() {
    let b = Bench::new();
    let cases = [
        (
            "read",
            json!({}),
            "Invalid arguments for read: path: required, expected a string. read takes: path, offset, limit.",
        ),
        (
            "read",
            json!({"path": "a", "offset": 0, "lines": 3}),
            "Invalid arguments for read: offset: expected a whole number of at least 1, got 0; lines: unknown argument. \
             read takes: path, offset, limit.",
        ),
        (
            "write",
            json!({"path": "a", "content": null}),
            "Invalid arguments for write: content: required, expected a string. write takes: path, content.",
        ),
        (
            "grep",
            json!({"pattern": "", "ignoreCase": "yes"}),
            "Invalid arguments for grep: ignoreCase: expected true or false, got a string; pattern: must not be empty. \
             grep takes: pattern, path, glob, ignoreCase, literal, context, limit.",
        ),
        (
            "find",
            json!({"path": 3}),
            "Invalid arguments for find: pattern: required, expected a string; path: expected a string, got 3. find takes: pattern, path, limit.",
        ),
        (
            "ls",
            json!({"limit": "all"}),
            "Invalid arguments for ls: limit: expected a whole number of at least 1, got a string. ls takes: path, limit.",
        ),
        (
            "edit",
            json!({"path": "a"}),
            "Invalid arguments for edit: edits: required, expected an array of {oldText, newText} with at least one entry. edit takes: path, edits, oldText, newText.",
        ),
        ("ls", json!([]), "Invalid arguments for ls: expected an object, got an array."),
    ];
    for (tool, input, expected) in cases {
        assert_eq!(b.err(tool, &input), expected);
    }
}

#[test]
fn a_cancelled_call_does_nothing() {
    let b = Bench::with(&[("a", "x\n")]);
    b.ctx.cancelled.store(true, Ordering::Relaxed);
    for (tool, input) in [
        ("read", json!({"path": "a"})),
        ("write", json!({"path": "a", "content": "y"})),
        ("edit", json!({"path": "a", "oldText": "x", "newText": "y"})),
        ("ls", json!({})),
        ("grep", json!({"pattern": "x"})),
        ("find", json!({"pattern": "a"})),
    ] {
        assert_eq!(b.err(tool, &input), "Operation aborted");
    }
    assert_eq!(b.get("a"), "x\n");
}

#[test]
fn paths_are_taken_as_models_write_them() {
    let b = Bench::with(&[("src/a.rs", "A"), ("@types/b.ts", "B"), ("other/c", "C")]);
    std::os::unix::fs::symlink(b.path("src"), b.path("other/link")).unwrap();
    let absolute = b.path("src/a.rs");
    for (path, expected) in [
        ("src/a.rs", "A"),
        ("./src//a.rs", "A"),
        ("@src/a.rs", "A"),
        ("@types/b.ts", "B"),
        ("missing/../src/a.rs", "A"),
        // Through a link, `..` is the parent of its target.
        ("other/link/../src/a.rs", "A"),
        (absolute.to_str().unwrap(), "A"),
    ] {
        assert_eq!(b.ok("read", &json!({"path": path})), expected, "{path}");
    }
    assert_eq!(b.err("read", &json!({"path": ""})), "path must not be empty. Use . for the working directory.");
    assert_eq!(b.err("read", &json!({"path": "a\0b"})), "path must not contain a NUL character.");
}

#[test]
fn a_missing_path_is_explained() {
    let b = Bench::with(&[("src/main.rs", ""), ("README.md", "")]);
    std::os::unix::fs::symlink("gone", b.path("dangling")).unwrap();
    for (path, expected) in [
        ("src/mian.rs", "Path not found: src/mian.rs. Did you mean src/main.rs?"),
        ("readme.md", "Path not found: readme.md. Did you mean README.md?"),
        ("scr/main.rs", "Path not found: scr/main.rs. scr does not exist. Did you mean src?"),
        ("x/y/z", "Path not found: x/y/z. x does not exist."),
        ("README.md/x", "Not a directory: a part of README.md/x before its last one is a file."),
        ("dangling", "Path not found: dangling is a symbolic link to gone, which does not exist."),
    ] {
        assert_eq!(b.err("read", &json!({"path": path})), expected);
    }
    assert!(b.err("ls", &json!({"path": "scr"})).starts_with("Path not found: scr."));
    assert!(b.err("grep", &json!({"pattern": "x", "path": "scr"})).starts_with("Path not found: scr."));
    assert!(b.err("find", &json!({"pattern": "x", "path": "scr"})).starts_with("Path not found: scr."));
}

/// Root may read everything, so this says something only for an ordinary user.
#[test]
fn a_forbidden_path_is_explained() {
    use std::os::unix::fs::PermissionsExt;
    let b = Bench::with(&[("secret", "s")]);
    fs::set_permissions(b.path("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(b.path("secret")).is_ok() {
        return;
    }
    assert_eq!(b.err("read", &json!({"path": "secret"})), "Permission denied: cannot read secret.");
    assert_eq!(b.err("write", &json!({"path": "secret", "content": ""})), "Permission denied: cannot write secret.");
    assert!(b.ok("grep", &json!({"pattern": "s"})).ends_with("[Skipped: secret (permission denied)]"));
}

/// Sets the flag after a moment, while a tool is at work on something endless. There is no event to wait for: a
/// tool says nothing before it ends. Should the flag come first, the outcome is the same.
fn cancel_soon(flag: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let flag = Arc::clone(flag);
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        flag.store(true, Ordering::Relaxed);
    })
}

#[test]
fn long_work_stops_when_cancelled() {
    let b = Bench::new();
    // Sparse: takes no space, and would take minutes to read.
    fs::File::create(b.path("huge")).unwrap().set_len(1 << 36).unwrap();
    fs::write(b.path("text"), "x\n").unwrap();
    let mut head = fs::OpenOptions::new().write(true).open(b.path("huge")).unwrap();
    std::io::Write::write_all(&mut head, &b"x\n".repeat(50_000)).unwrap();
    let canceller = cancel_soon(&b.ctx.cancelled);
    assert_eq!(b.err("read", &json!({"path": "huge", "offset": 1_000_000})), "Operation aborted");
    canceller.join().unwrap();
}
