use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use super::{Bench, make_pipe};

#[test]
fn a_file_is_written_whole_and_its_bytes_are_counted() {
    let b = Bench::new();
    assert_eq!(
        b.ok("write", &json!({"path": "a/b/c.txt", "content": "grüße\n"})),
        "Successfully wrote 8 bytes to a/b/c.txt"
    );
    assert_eq!(b.get("a/b/c.txt"), "grüße\n");
    assert_eq!(b.ok("write", &json!({"path": "a/b/c.txt", "content": ""})), "Successfully wrote 0 bytes to a/b/c.txt");
    assert_eq!(b.get("a/b/c.txt"), "");
    let left: Vec<_> = fs::read_dir(b.path("a/b")).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file is left behind");
}

#[test]
fn the_mode_of_an_existing_file_is_kept() {
    let b = Bench::with(&[("run.sh", "old")]);
    fs::set_permissions(b.path("run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
    b.ok("write", &json!({"path": "run.sh", "content": "new"}));
    assert_eq!(fs::metadata(b.path("run.sh")).unwrap().permissions().mode() & 0o7777, 0o750);

    fs::write(b.path("reference"), "").unwrap();
    b.ok("write", &json!({"path": "fresh", "content": ""}));
    let mode = |path| fs::metadata(b.path(path)).unwrap().permissions().mode();
    assert_eq!(mode("fresh"), mode("reference"), "a new file has the usual mode");
}

#[test]
fn a_link_stays_and_its_target_is_written() {
    let b = Bench::with(&[("real/file", "old")]);
    symlink("real/file", b.path("link")).unwrap();
    symlink("real/new", b.path("dangling")).unwrap();
    symlink("loop", b.path("loop")).unwrap();
    b.ok("write", &json!({"path": "link", "content": "new"}));
    b.ok("write", &json!({"path": "dangling", "content": "made"}));
    assert!(b.path("link").is_symlink() && b.path("dangling").is_symlink());
    assert_eq!((b.get("real/file").as_str(), b.get("real/new").as_str()), ("new", "made"));
    assert_eq!(
        b.err("write", &json!({"path": "loop", "content": ""})),
        "Cannot write loop: its symbolic links form a loop."
    );
}

#[test]
fn what_cannot_be_written_is_explained() {
    let b = Bench::with(&[("file", ""), ("dir/x", "")]);
    make_pipe(&b.path("pipe"));
    let long = "n".repeat(300);
    for (path, expected) in [
        ("dir", "dir is a directory. Give the path of a file in it.".to_owned()),
        ("new/", "new/ is a directory. Give the path of a file in it.".to_owned()),
        ("file/below", "Cannot write file/below: file is a file, not a directory.".to_owned()),
        ("pipe", "pipe is a named pipe, not a regular file.".to_owned()),
        ("/dev/null", "/dev/null is a device, not a regular file.".to_owned()),
        (&long, format!("Cannot write {long}: the name is too long.")),
    ] {
        assert_eq!(b.err("write", &json!({"path": path, "content": "x"})), expected);
    }
}
