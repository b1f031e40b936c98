use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use serde_json::json;

use super::Bench;

#[test]
fn a_passage_is_replaced_and_the_change_shown() {
    let b = Bench::with(&[("f", "one\ntwo\nthree\nfour\nfive\n")]);
    fs::set_permissions(b.path("f"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(
        b.ok("edit", &json!({"path": "f", "edits": [{"oldText": "two\n", "newText": "2\n"}]})),
        "Successfully replaced 1 block in f.\n\n@@ -1,5 +1,5 @@\n one\n-two\n+2\n three\n four\n five"
    );
    assert_eq!(b.get("f"), "one\n2\nthree\nfour\nfive\n");
    assert_eq!(fs::metadata(b.path("f")).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn arguments_are_taken_in_every_form_that_models_send() {
    for input in [
        json!({"path": "f", "edits": [{"oldText": "a", "newText": "b"}]}),
        json!({"path": "f", "edits": r#"[{"oldText": "a", "newText": "b"}]"#}),
        json!({"path": "f", "oldText": "a", "newText": "b"}),
        json!({"path": "f", "edits": [], "oldText": "a", "newText": "b"}),
    ] {
        let b = Bench::with(&[("f", "a")]);
        b.ok("edit", &input);
        assert_eq!(b.get("f"), "b", "{input}");
    }
    let b = Bench::with(&[("f", "abc")]);
    b.ok("edit", &json!({"path": "f", "edits": [{"oldText": "a", "newText": "1"}], "oldText": "c", "newText": "3"}));
    assert_eq!(b.get("f"), "1b3");
    for (input, expected) in [
        (json!({"path": "f", "oldText": "a"}), "newText: required beside oldText, expected a string"),
        (json!({"path": "f", "newText": "a"}), "oldText: required beside newText, expected a string"),
        (json!({"path": "f", "edits": "nonsense"}), "edits: expected an array of {oldText, newText}"),
        (
            json!({"path": "f", "edits": [{"oldText": "a"}]}),
            "edits[0]: expected an object with the strings oldText and newText and nothing else",
        ),
    ] {
        assert_eq!(
            b.err("edit", &input),
            format!("Invalid arguments for edit: {expected}. edit takes: path, edits, oldText, newText.")
        );
    }
}

#[test]
fn all_edits_are_matched_against_the_original() {
    let b = Bench::with(&[("f", "a\nb\n")]);
    b.ok("edit", &json!({"path": "f", "edits": [{"oldText": "b", "newText": "a"}, {"oldText": "a", "newText": "b"}]}));
    assert_eq!(b.get("f"), "b\na\n");
}

#[test]
fn what_cannot_be_replaced_is_explained_and_changes_nothing() {
    let content = "alpha\n  beta\nalpha\ngamma beta\n";
    let b = Bench::with(&[("f", content), ("d/x", "")]);
    for (edits, expected) in [
        (
            json!([{"oldText": "alpha", "newText": "x"}]),
            "Found 2 occurrences of oldText in f, at lines 1, 3. It must be unique: add lines around it to oldText until it is.",
        ),
        (
            json!([{"oldText": "gamma", "newText": "x"}, {"oldText": "alpha", "newText": "x"}]),
            "Found 2 occurrences of edits[1].oldText in f, at lines 1, 3. It must be unique: add lines around it to oldText until it is.",
        ),
        (
            json!([{"oldText": "delta", "newText": "x"}]),
            "Could not find oldText in f. It must match the file exactly, including all whitespace and line breaks. \
             Read the file again and copy the text as it is.",
        ),
        (
            json!([{"oldText": "beta\nbeta", "newText": "x"}]),
            "Could not find oldText in f. It must match the file exactly, including all whitespace and line breaks. \
             Its first line is at line 2: read the file from there and copy the text as it is.",
        ),
        (
            json!([{"oldText": "alpha\n  b", "newText": "x"}, {"oldText": "beta\na", "newText": "y"}]),
            "edits[0].oldText and edits[1].oldText overlap in f (lines 1 and 2). Merge them into one edit.",
        ),
        (
            json!([{"oldText": "gamma", "newText": "gamma"}]),
            "No changes made to f. The replacement is identical to the text that is there.",
        ),
        (
            json!([{"oldText": "", "newText": "x"}]),
            "oldText must not be empty. Use write to create or replace a whole file.",
        ),
    ] {
        assert_eq!(b.err("edit", &json!({"path": "f", "edits": edits})), expected);
        assert_eq!(b.get("f"), content);
    }
    b.put("latin", b"caf\xe9");
    assert_eq!(
        b.err("edit", &json!({"path": "latin", "oldText": "caf", "newText": "x"})),
        "latin is not UTF-8 text (byte 3 cannot be read as such). edit works on UTF-8 text only: use bash instead."
    );
    assert_eq!(
        b.err("edit", &json!({"path": "d", "oldText": "a", "newText": "b"})),
        "d is a directory. Use ls to list it."
    );
    fs::File::create(b.path("big")).unwrap().set_len(17 << 20).unwrap();
    assert_eq!(
        b.err("edit", &json!({"path": "big", "oldText": "a", "newText": "b"})),
        "big is too large to edit (17.0MB, at most 16.0MB). Use bash, for instance sed -i."
    );
}

#[test]
fn byte_order_mark_and_line_ends_are_kept() {
    for (before, old, new, after) in [
        ("\u{feff}a\nb\n", "a", "x\ny", "\u{feff}x\ny\nb\n"),
        ("\u{feff}a\n", "\u{feff}a", "\u{feff}x", "\u{feff}x\n"),
        ("a\r\nb\r\nc\r\n", "a\nb\n", "x\n\ny\n", "x\r\n\r\ny\r\nc\r\n"),
        ("a\r\nb\r\nc\r\n", "b\r\nc", "x\r\ny", "a\r\nx\r\ny\r\n"),
        // What is not replaced keeps its own line end.
        ("a\r\nb\r\nc\nd\r\n", "b", "x", "a\r\nx\r\nc\nd\r\n"),
        ("a\nb", "b", "", "a\n"),
    ] {
        let b = Bench::with(&[("f", before)]);
        b.ok("edit", &json!({"path": "f", "oldText": old, "newText": new}));
        assert_eq!(b.get("f"), after, "{before:?}");
    }
}

#[test]
fn text_that_only_looks_different_is_found_and_the_rest_left_alone() {
    for (before, old, new, after) in [
        ("say “hi” – now\n", "\"hi\" - now", "'yo'", "say 'yo'\n"),
        ("a\u{a0}b  \nc\u{a0}d\n", "a b\nc", "x", "x\u{a0}d\n"),
        ("keep “this”  \nfoo  \nbar\n", "foo\nbar", "x", "keep “this”  \nx\n"),
        // Spaces at the end of a line of oldText that the file does not have.
        ("if x {\n}\n", "if x {   \n}", "y", "y\n"),
        ("cafe\u{301}\n", "caf\u{e9}", "tea", "tea\n"),
        ("ﬁne\n", "fine", "ok", "ok\n"),
        ("wait…\r\nnow  \r\n", "wait...\nnow\n", "go\n", "go\r\n"),
    ] {
        let b = Bench::with(&[("f", before)]);
        let text = b.ok("edit", &json!({"path": "f", "oldText": old, "newText": new}));
        assert_eq!(b.get("f"), after, "{before:?}");
        assert!(text.contains("found only without regard to"), "{text}");
    }
}

#[test]
fn a_loose_match_is_no_guess() {
    for (before, old) in [
        // `return ` is not the beginning of `returned`.
        ("returned\n", "return \u{20}"),
        // Half of a ligature cannot be replaced.
        ("ﬁne\n", "ine"),
        ("foo\u{a0}a\nfoo\u{202f}a\n", "foo a"),
        ("   \n", " \t "),
    ] {
        let b = Bench::with(&[("f", before)]);
        b.err("edit", &json!({"path": "f", "oldText": old, "newText": "x"}));
        assert_eq!(b.get("f"), before);
    }
    // To the letter once, loosely twice: the letter counts.
    let b = Bench::with(&[("f", "'a'\n’a’\n")]);
    b.ok("edit", &json!({"path": "f", "oldText": "'a'", "newText": "b"}));
    assert_eq!(b.get("f"), "b\n’a’\n");
    // Occurrences that overlap are two.
    let b = Bench::with(&[("f", "aaa")]);
    assert!(b.err("edit", &json!({"path": "f", "oldText": "aa", "newText": "b"})).starts_with("Found 2 occurrences"));
}

#[test]
fn edits_of_one_file_at_once_are_all_made() {
    let before: String = (0..32).map(|n| format!("<{n}>\n")).collect();
    let b = Bench::with(&[("f", &before)]);
    std::thread::scope(|scope| {
        for n in 0..32 {
            let b = &b;
            scope.spawn(move || {
                b.ok("edit", &json!({"path": "f", "oldText": format!("<{n}>"), "newText": format!("[{n}]")}))
            });
        }
    });
    assert_eq!(b.get("f"), before.replace('<', "[").replace('>', "]"));
}

#[test]
fn a_large_change_comes_with_a_short_diff() {
    let before: String = (0..5000).map(|n| format!("{n} {}\n", "x".repeat(300))).collect();
    let b = Bench::with(&[("f", &before)]);
    let text = b.ok("edit", &json!({"path": "f", "oldText": before, "newText": "gone\n"}));
    assert!(text.len() < 40_000 && text.ends_with("[4881 more lines of the diff not shown]"), "{}", text.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_edit_and_its_inverse_restore_the_file(
        before in "[a-c\u{a0}“ \r\n]{0,60}", old in "[a-c“ ]{1,4}", new in "[x-z ]{1,6}[xyz]",
    ) {
        let b = Bench::with(&[("f", &before)]);
        let out = b.run("edit", &json!({"path": "f", "oldText": old, "newText": new}));
        let after = b.get("f");
        if out.is_error {
            prop_assert_eq!(&after, &before);
        } else if before.matches(&old).count() == 1 {
            prop_assert_eq!(&after, &before.replacen(&old, &new, 1));
            b.ok("edit", &json!({"path": "f", "oldText": new, "newText": old}));
            prop_assert_eq!(b.get("f"), before);
        }
    }

    #[test]
    fn no_text_makes_it_panic(before in "\\PC{0,40}", old in "\\PC{1,8}", new in "\\PC{0,8}") {
        let b = Bench::with(&[("f", &before)]);
        let out = b.run("edit", &json!({"path": "f", "oldText": old, "newText": new}));
        prop_assert_eq!(out.is_error, b.get("f") == before);
    }
}
