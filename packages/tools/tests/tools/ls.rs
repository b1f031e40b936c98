use std::os::unix::fs::symlink;

use serde_json::json;

use super::Bench;

#[test]
fn entries_are_sorted_without_case_and_marked() {
    let b = Bench::with(&[("b.txt", ""), ("A.txt", ""), (".hidden", ""), ("Src/x", ""), ("odd\nname", "")]);
    symlink("Src", b.path("to-dir")).unwrap();
    symlink("b.txt", b.path("to-file")).unwrap();
    symlink("gone", b.path("to-nothing")).unwrap();
    assert_eq!(
        b.ok("ls", &json!({})),
        ".hidden\nA.txt\nb.txt\nodd\\nname\nSrc/\nto-dir/ -> Src\nto-file -> b.txt\nto-nothing -> gone (broken link)"
    );
    assert_eq!(b.ok("ls", &json!({"path": "to-dir"})), "x");
}

#[test]
fn limits_come_with_a_notice() {
    let b = Bench::new();
    for n in 0..2100 {
        b.put(&format!("many/{n:04}"), "");
    }
    for n in 0..300 {
        b.put(&format!("wide/{n:03}{}", "w".repeat(240)), "");
    }
    for (input, end) in [
        (json!({"path": "many"}), "0499\n\n[500 entries limit reached, 2100 in all. Use limit=1000 for more]"),
        (
            json!({"path": "many", "limit": 2}),
            "0000\n0001\n\n[2 entries limit reached, 2100 in all. Use limit=4 for more]",
        ),
        (json!({"path": "many", "limit": 1500}), "[1500 entries limit reached, 2100 in all. Use limit=2000 for more]"),
        (
            json!({"path": "many", "limit": 5000}),
            "1999\n\n[2000 entries limit reached, 2100 in all. Use find with a pattern in many to narrow it down]",
        ),
        (
            json!({"path": "wide"}),
            "[50.0KB limit reached: 209 of 300 entries shown. Use find with a pattern in wide to narrow it down]",
        ),
    ] {
        let text = b.ok("ls", &input);
        assert!(text.ends_with(end), "{input}: …{}", &text[text.len().saturating_sub(120)..]);
    }
}

#[test]
fn what_cannot_be_listed_is_explained() {
    let b = Bench::with(&[("f", "")]);
    std::fs::create_dir(b.path("empty")).unwrap();
    assert_eq!(b.ok("ls", &json!({"path": "empty"})), "(empty directory)");
    assert_eq!(b.err("ls", &json!({"path": "f"})), "Not a directory: f. Use read to see a file.");
}
