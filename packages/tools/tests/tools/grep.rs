use std::fs;
use std::io::Write;

use serde_json::json;
use torpor_tools::output::{MAX_BYTES, MAX_LINES};

use super::{Bench, cancel_soon, make_pipe};

fn tree() -> Bench {
    let b = Bench::with(&[
        (".gitignore", "ignored.rs\n"),
        (".git/config", "needle\n"),
        (".env", "needle=1\n"),
        ("ignored.rs", "needle\n"),
        ("src/a.rs", "one\nneedle here\nthree\nfour\nfive\nsix\nNEEDLE\n"),
        ("src/b.txt", "a.b needle\r\n"),
    ]);
    b.put("bin", b"needle\0needle\n");
    make_pipe(&b.path("pipe"));
    b
}

#[test]
fn matches_are_shown_with_path_and_line() {
    let b = tree();
    for (input, expected) in [
        (json!({"pattern": "needle"}), ".env:1: needle=1\nsrc/a.rs:2: needle here\nsrc/b.txt:1: a.b needle"),
        (json!({"pattern": "needle", "path": "src"}), "src/a.rs:2: needle here\nsrc/b.txt:1: a.b needle"),
        (json!({"pattern": "needle", "path": "src/a.rs"}), "src/a.rs:2: needle here"),
        (json!({"pattern": "needle", "glob": "*.rs"}), "src/a.rs:2: needle here"),
        (json!({"pattern": "needle", "glob": "!*.rs"}), ".env:1: needle=1\nsrc/b.txt:1: a.b needle"),
        (json!({"pattern": "needle", "glob": "src/**"}), "src/a.rs:2: needle here\nsrc/b.txt:1: a.b needle"),
        (json!({"pattern": "needle", "glob": "src/*.rs", "path": "src"}), "src/a.rs:2: needle here"),
        (json!({"pattern": "needle", "glob": "!src/*.rs", "path": "src"}), "src/b.txt:1: a.b needle"),
        (json!({"pattern": "^needle$", "ignoreCase": true}), "src/a.rs:7: NEEDLE"),
        // A glob chooses among what is not ignored.
        (json!({"pattern": "needle", "glob": "ignored.rs"}), "No matches found"),
        // Asked for by name it is searched.
        (json!({"pattern": "needle", "path": "ignored.rs"}), "ignored.rs:1: needle"),
        (json!({"pattern": "a.b", "literal": true}), "src/b.txt:1: a.b needle"),
        (json!({"pattern": "a(b", "literal": true}), "No matches found"),
        // A Windows line end is no part of the line.
        (json!({"pattern": "needle$"}), "src/b.txt:1: a.b needle"),
        (
            json!({"pattern": "needle", "path": "src/a.rs", "ignoreCase": true, "context": 1}),
            "src/a.rs-1- one\nsrc/a.rs:2: needle here\nsrc/a.rs-3- three\n--\nsrc/a.rs-6- six\nsrc/a.rs:7: NEEDLE",
        ),
        (
            json!({"pattern": "needle", "glob": "src/*", "context": 1}),
            "src/a.rs-1- one\nsrc/a.rs:2: needle here\nsrc/a.rs-3- three\n--\nsrc/b.txt:1: a.b needle",
        ),
    ] {
        assert_eq!(b.ok("grep", &input), expected, "{input}");
    }
}

#[test]
fn the_limit_counts_matches_and_is_named_only_when_there_are_more() {
    let b = Bench::with(&[("f", &"hit\nmiss\n".repeat(150))]);
    for (input, matches, notice) in [
        (
            json!({"pattern": "hit"}),
            100,
            Some("[100 matches limit reached. Use limit=200 for more, or refine pattern]"),
        ),
        (
            json!({"pattern": "hit", "limit": 2}),
            2,
            Some("[2 matches limit reached. Use limit=4 for more, or refine pattern]"),
        ),
        (json!({"pattern": "hit", "limit": 150}), 150, None),
        (json!({"pattern": "hit", "limit": 2, "context": 1}), 2, Some("[2 matches limit")),
    ] {
        let text = b.ok("grep", &input);
        assert_eq!(text.matches(": hit").count(), matches, "{input}");
        match notice {
            Some(notice) => assert!(text.contains(notice), "{input}: {text}"),
            None => assert!(!text.contains('['), "{input}: {text}"),
        }
    }
    assert_eq!(
        b.ok("grep", &json!({"pattern": "hit", "limit": 1, "context": 1})),
        "f:1: hit\nf-2- miss\n\n[1 matches limit reached. Use limit=2 for more, or refine pattern]"
    );
}

#[test]
fn a_result_stays_within_a_page() {
    let b =
        Bench::with(&[("lines", &"hit\n".repeat(3000)), ("bytes", &format!("hit{}\n", "é".repeat(400)).repeat(300))]);
    for (path, notice) in [
        ("lines", "[2000 lines limit reached. Refine pattern, or narrow path or glob]"),
        ("bytes", "[50.0KB limit reached. Refine pattern, or narrow path or glob]"),
    ] {
        let text = b.ok("grep", &json!({"pattern": "hit", "path": path, "limit": 10_000}));
        let (page, rest) = text.rsplit_once("\n\n").unwrap();
        assert_eq!(rest, notice);
        assert!(page.len() <= MAX_BYTES && page.lines().count() <= MAX_LINES);
    }
}

#[test]
fn long_lines_are_cut() {
    let b = Bench::with(&[("f", &format!("{}\n{}\n", "x".repeat(500), "y".repeat(501)))]);
    assert_eq!(
        b.ok("grep", &json!({"pattern": "."})),
        format!(
            "f:1: {}\nf:2: {}... [truncated]\n\n[Some lines truncated to 500 chars. Use read to see full lines]",
            "x".repeat(500),
            "y".repeat(500)
        )
    );
}

#[test]
fn what_cannot_be_searched_is_explained() {
    let b = tree();
    let text = b.err("grep", &json!({"pattern": "a(b"}));
    assert!(text.starts_with("Invalid regular expression: regex parse error:\n"), "{text}");
    assert!(text.contains("error: unclosed group"), "{text}");
    assert!(text.ends_with("\nUse literal=true to search for the text as it is."), "{text}");
    for (pattern, literal) in [(r"a\nb", false), ("a\nb", true)] {
        assert_eq!(
            b.err("grep", &json!({"pattern": pattern, "literal": literal})),
            r"Invalid pattern: it holds \n, but a match never goes over the end of a line. Search for one of the lines and use context to see those around it."
        );
    }
    assert!(b.err("grep", &json!({"pattern": "a", "glob": "a["})).starts_with("Invalid glob: "));
    assert_eq!(b.err("grep", &json!({"pattern": "a", "path": "pipe"})), "pipe is a named pipe, not a regular file.");
    assert_eq!(
        b.ok("grep", &json!({"pattern": "needle", "path": "bin"})),
        "No matches found. bin is a binary file and was not searched to its end. Use bash: grep -a"
    );
}

#[test]
fn a_line_without_end_costs_bounded_memory() {
    let b = Bench::with(&[("a", "needle\n"), ("z", "needle\n")]);
    let mut file = fs::File::create(b.path("long")).unwrap();
    let block = vec![b'x'; 1024 * 1024];
    for _ in 0..9 {
        file.write_all(&block).unwrap();
    }
    file.write_all(b"needle\n").unwrap();
    assert_eq!(
        b.ok("grep", &json!({"pattern": "needle"})),
        "a:1: needle\nz:1: needle\n\n[Skipped: long (a line or its context is longer than 8.0MB)]"
    );
}

#[test]
fn a_search_stops_when_cancelled() {
    let b = Bench::new();
    // Hours of work, at no cost in space.
    let mut file = fs::File::create(b.path("f")).unwrap();
    for _ in 0..64 {
        file.write_all(&b"no\n".repeat(1 << 18)).unwrap();
    }
    let link = |n: u32| fs::hard_link(b.path("f"), b.path(&format!("f{n}"))).unwrap();
    (0..2000).for_each(link);
    let canceller = cancel_soon(&b.ctx.cancelled);
    assert_eq!(b.err("grep", &json!({"pattern": "needle"})), "Operation aborted");
    canceller.join().unwrap();
}
