use serde_json::json;

use super::Bench;

fn tree() -> Bench {
    Bench::with(&[
        (".gitignore", "*.log\n/build/\n"),
        (".git/config", ""),
        (".github/ci.yml", ""),
        ("build/out.rs", ""),
        ("src/main.rs", ""),
        ("src/deep/lib.rs", ""),
        ("src/deep/trace.log", ""),
        ("src/deep/.gitignore", "!keep.log\nsecret.*\n"),
        ("src/deep/keep.log", ""),
        ("src/deep/secret.rs", ""),
        ("tests/main.rs", ""),
    ])
}

#[test]
fn patterns_match_names_or_paths() {
    let b = tree();
    let absolute = format!("{}/tests/*.rs", b.ctx.workdir.display());
    for (input, expected) in [
        (json!({"pattern": "*.rs"}), "src/deep/lib.rs\nsrc/main.rs\ntests/main.rs"),
        (json!({"pattern": "**/*.rs"}), "src/deep/lib.rs\nsrc/main.rs\ntests/main.rs"),
        (json!({"pattern": "src/*.rs"}), "src/main.rs"),
        (json!({"pattern": "./src/**/*.rs"}), "src/deep/lib.rs\nsrc/main.rs"),
        (json!({"pattern": "*.rs", "path": "src"}), "src/deep/lib.rs\nsrc/main.rs"),
        (json!({"pattern": "deep/*.rs", "path": "src"}), "src/deep/lib.rs"),
        (json!({"pattern": "src/deep/*.rs", "path": "src"}), "src/deep/lib.rs"),
        (json!({"pattern": "*.{yml,toml}"}), ".github/ci.yml"),
        (json!({"pattern": "d*"}), "src/deep/"),
        (json!({"pattern": "main.rs/"}), "No files found matching pattern"),
        (json!({"pattern": "src/"}), "src/"),
        (json!({"pattern": absolute}), "tests/main.rs"),
    ] {
        assert_eq!(b.ok("find", &input), expected, "{input}");
    }
}

#[test]
fn what_git_ignores_is_left_out_also_from_a_subdirectory() {
    let b = tree();
    for (input, expected) in [
        (json!({"pattern": "*.log"}), "src/deep/keep.log"),
        (
            json!({"pattern": "out.rs"}),
            "No files found matching pattern. It must match a whole name: *out.rs* also finds a part of one.",
        ),
        (json!({"pattern": "trace.*", "path": "src/deep"}), "No files found matching pattern"),
        // Asked for by name, an ignored directory is searched.
        (json!({"pattern": "*.rs", "path": "build"}), "build/out.rs"),
        (
            json!({"pattern": "config"}),
            "No files found matching pattern. It must match a whole name: *config* also finds a part of one.",
        ),
    ] {
        assert_eq!(b.ok("find", &input), expected, "{input}");
    }
}

#[test]
fn rules_above_the_working_directory_do_not_count() {
    let outer = Bench::with(&[(".gitignore", "*\n"), ("work/a.rs", "")]);
    let ctx = torpor_tools::Context { workdir: outer.path("work"), ..outer.ctx.clone() };
    assert_eq!(torpor_tools::run("find", &json!({"pattern": "*.rs"}), &ctx).text, "a.rs");
}

#[test]
fn limits_come_with_a_notice() {
    let b = Bench::new();
    for n in 0..2100 {
        b.put(&format!("many/{n:04}"), "");
    }
    for (limit, end) in [
        (json!(null), "many/0999\n\n[1000 results limit reached. Use limit=2000 for more, or refine pattern]"),
        (json!(2), "many/0000\nmany/0001\n\n[2 results limit reached. Use limit=4 for more, or refine pattern]"),
        (json!(9999), "many/1999\n\n[2000 results limit reached. Refine pattern or give a narrower path]"),
    ] {
        let text = b.ok("find", &json!({"pattern": "[0-9]*", "limit": limit}));
        assert!(text.ends_with(end), "…{}", &text[text.len().saturating_sub(120)..]);
    }
    assert!(!b.ok("find", &json!({"pattern": "000*", "limit": 10})).contains('['), "exactly the limit is no cut");
}

#[test]
fn what_cannot_be_searched_is_explained() {
    let b = Bench::with(&[("f", "")]);
    assert_eq!(
        b.err("find", &json!({"pattern": "a[", "path": "."})),
        "Invalid glob pattern: error parsing glob 'a[': unclosed character class; missing ']'. \
         Put a backslash before a special character to mean it."
    );
    assert_eq!(
        b.err("find", &json!({"pattern": "*", "path": "f"})),
        "Not a directory: f. Give the directory to search in as path."
    );
    assert_eq!(
        b.err("find", &json!({"pattern": "./"})),
        "pattern must not be empty. Use * for every file, or for instance **/*.rs."
    );
}
