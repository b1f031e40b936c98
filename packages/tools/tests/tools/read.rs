use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use serde_json::json;
use torpor_tools::output::{MAX_BYTES, MAX_LINES};

use super::{Bench, make_pipe};

fn numbered(lines: usize) -> String {
    (1..=lines).map(|n| format!("line {n}\n")).collect()
}

#[test]
fn a_small_file_is_shown_as_it_is() {
    for content in ["a", "a\n", "a\r\nb\r\n", "\n", "\n\n", "tab\there ünï"] {
        let b = Bench::with(&[("f", content)]);
        assert_eq!(b.ok("read", &json!({"path": "f"})), content);
    }
    assert_eq!(Bench::with(&[("f", "")]).ok("read", &json!({"path": "f"})), "(empty file)");
}

#[test]
fn a_page_says_how_to_go_on() {
    let b = Bench::with(&[("f", &numbered(2500)), ("wide", &format!("{}\n", "w".repeat(999)).repeat(100))]);
    let cases = [
        (json!({"path": "f"}), "line 2000\n\n[Showing lines 1-2000 of 2500. Use offset=2001 to continue.]"),
        (json!({"path": "f", "limit": 9999}), "[Showing lines 1-2000 of 2500. Use offset=2001 to continue.]"),
        (
            json!({"path": "f", "offset": 2, "limit": 2}),
            "line 2\nline 3\n\n[2497 more lines in file. Use offset=4 to continue.]",
        ),
        (
            json!({"path": "f", "offset": 2498, "limit": 2}),
            "line 2499\n\n[1 more line in file. Use offset=2500 to continue.]",
        ),
        (json!({"path": "f", "offset": 2499}), "line 2499\nline 2500\n"),
        (json!({"path": "f", "offset": 2499, "limit": 2}), "line 2499\nline 2500\n"),
        (json!({"path": "wide"}), "w\n\n[Showing lines 1-51 of 100 (50.0KB limit). Use offset=52 to continue.]"),
    ];
    for (input, end) in cases {
        let text = b.ok("read", &input);
        assert!(text.ends_with(end), "{input}: …{}", &text[text.len().saturating_sub(120)..]);
    }
}

#[test]
fn an_offset_behind_the_end_names_the_number_of_lines() {
    let b = Bench::with(&[("three", "1\n2\n3\n"), ("open", "1\n2"), ("one", "1\n"), ("none", "")]);
    for (path, offset, expected) in [
        ("three", 4, "Offset 4 is beyond end of file: three has 3 lines. Use an offset between 1 and 3."),
        ("three", 400, "Offset 400 is beyond end of file: three has 3 lines. Use an offset between 1 and 3."),
        ("open", 3, "Offset 3 is beyond end of file: open has 2 lines. Use an offset between 1 and 2."),
        ("one", 2, "Offset 2 is beyond end of file: one has 1 line."),
        ("none", 2, "Offset 2 is beyond end of file: none is empty."),
    ] {
        assert_eq!(b.err("read", &json!({"path": path, "offset": offset})), expected);
    }
}

#[test]
fn a_line_longer_than_a_page_comes_with_a_way_to_see_it() {
    let long = "x".repeat(MAX_BYTES + 1);
    let b =
        Bench::with(&[("only one", &long), ("middle", &format!("a\n{long}\nz\n")), ("exact", &"x".repeat(MAX_BYTES))]);
    assert_eq!(
        b.ok("read", &json!({"path": "only one"})),
        "[Line 1 is 50.0KB, exceeds 50.0KB limit. Use bash: sed -n '1p;1q' 'only one' | head -c 51200]"
    );
    assert_eq!(
        b.ok("read", &json!({"path": "middle"})),
        "a\n\n[Showing lines 1-1 of 3. Line 2 is 50.0KB, exceeds 50.0KB limit. \
         Use bash: sed -n '2p;2q' middle | head -c 51200 (or offset=3 to go on after it)]"
    );
    assert_eq!(b.ok("read", &json!({"path": "exact"})).len(), MAX_BYTES);
}

#[test]
fn a_huge_file_is_neither_loaded_nor_read_to_its_end() {
    let b = Bench::new();
    let mut file = File::create(b.path("huge")).unwrap();
    file.write_all(numbered(3000).as_bytes()).unwrap();
    // 64 GB of nothing behind it takes no space.
    file.set_len(1 << 36).unwrap();
    let text = b.ok("read", &json!({"path": "huge"}));
    assert!(text.ends_with("[Showing lines 1-2000 of at least 3001. Use offset=2001 to continue.]"));

    let mut file = File::create(b.path("oneline")).unwrap();
    file.write_all(&b"x".repeat(20_000)).unwrap();
    file.seek(SeekFrom::Start(1 << 36)).unwrap();
    file.write_all(b"\nend\n").unwrap();
    let text = b.ok("read", &json!({"path": "oneline"}));
    assert!(text.starts_with("[Line 1 is more than 64."), "{text}");
    assert!(text.ends_with("MB, exceeds 50.0KB limit. Use bash: tail -n +1 oneline | head -c 51200]"), "{text}");
}

#[test]
fn what_is_no_text_is_described() {
    let b = Bench::new();
    b.put("p.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    b.put("i.bmp", b"BM\0\0\0\0");
    b.put("a b.bin", [0u8; 2048]);
    b.put("u.txt", b"\xff\xfeh\0i\0");
    for (path, expected) in [
        ("p.png", "[p.png begins like an image (image/png, 16B), but is damaged or cut off. It cannot be shown.]"),
        ("i.bmp", "[i.bmp is an image (image/bmp, 6B). It cannot be shown as text.]"),
        (
            "a b.bin",
            "[a b.bin is a binary file (application/octet-stream, 2.0KB). It cannot be shown as text. \
             Use bash to look into it: od -A d -t x1z 'a b.bin' | head -n 50]",
        ),
        ("u.txt", "[u.txt is UTF-16 text (6B). It cannot be shown as it is. Use bash: iconv -f UTF-16 -t UTF-8 u.txt]"),
    ] {
        assert_eq!(b.ok("read", &json!({"path": path})), expected);
    }
    b.put("latin", b"caf\xe9\n");
    assert_eq!(b.ok("read", &json!({"path": "latin"})), "caf\u{fffd}\n");
}

#[test]
fn only_regular_files_are_read_and_a_pipe_is_not_waited_for() {
    let b = Bench::with(&[("d/f", "")]);
    make_pipe(&b.path("pipe"));
    assert_eq!(b.err("read", &json!({"path": "d"})), "d is a directory. Use ls to list it.");
    assert_eq!(b.err("read", &json!({"path": "pipe"})), "pipe is a named pipe, not a regular file.");
    assert_eq!(b.err("read", &json!({"path": "/dev/zero"})), "/dev/zero is a device, not a regular file.");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pages_put_together_are_the_file(
        widths in proptest::collection::vec(0usize..60, 1..4000),
        ends in any::<bool>(),
        limit in proptest::option::of(1u64..3000),
    ) {
        let lines: Vec<String> = widths.iter().map(|w| "é".repeat(*w)).collect();
        let mut content = lines.join("\n");
        if ends || content.is_empty() || content.ends_with('\n') { content.push('\n'); }
        let b = Bench::with(&[("f", &content)]);
        let (mut offset, mut pages) = (1, Vec::new());
        loop {
            let text = b.ok("read", &json!({"path": "f", "offset": offset, "limit": limit}));
            match text.rsplit_once("\n\n[") {
                Some((page, notice)) if notice.contains("Use offset=") => {
                    prop_assert!(page.len() <= MAX_BYTES && page.split('\n').count() <= MAX_LINES);
                    pages.push(page.to_owned());
                    let next = notice.split("offset=").nth(1).unwrap().split(' ').next().unwrap();
                    offset = next.parse().unwrap();
                }
                _ => {
                    prop_assert!(text.len() <= MAX_BYTES);
                    pages.push(text);
                    break;
                }
            }
        }
        prop_assert_eq!(pages.join("\n"), content);
    }

    #[test]
    fn any_bytes_can_be_read_edited_and_searched(
        content in proptest::collection::vec(any::<u8>(), 0..400),
        offset in 1u64..20,
    ) {
        let b = Bench::new();
        b.put("f", &content);
        let text = b.run("read", &json!({"path": "f", "offset": offset})).text;
        prop_assert!(!text.is_empty());
        let _ = b.run("edit", &json!({"path": "f", "oldText": "a", "newText": "b"}));
        let _ = b.run("grep", &json!({"pattern": ".", "context": 1}));
    }
}

/// A picture of one pixel.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\
    \0\0\0\rIDATx\x9cc\xf8\xcf\xc0\xf0\x1f\0\x05\0\x01\xff\x89\x99=\x1d\0\0\0\0IEND\xaeB`\x82";

/// The same, with other sides and so many bytes in an extra chunk.
fn png(sides: [u32; 2], extra: usize) -> Vec<u8> {
    let mut bytes = PNG.to_vec();
    bytes[16..20].copy_from_slice(&sides[0].to_be_bytes());
    bytes[20..24].copy_from_slice(&sides[1].to_be_bytes());
    let chunk = [&u32::try_from(extra).unwrap().to_be_bytes()[..], b"teXt", &vec![0; extra], &[0; 4]].concat();
    bytes.splice(33..33, chunk);
    bytes
}

#[test]
fn pictures_are_shown_whatever_they_are_called() {
    let b = Bench::new();
    for name in ["p.png", "p.jpg", "notes.txt", "no extension"] {
        b.put(name, PNG);
        let out = b.run("read", &json!({"path": name, "offset": 7}));
        let bytes = PNG.len();
        assert_eq!(out.text, format!("[{name} is an image (image/png, {bytes}B, 1 x 1 pixels), shown here.]"));
        let image = out.image.unwrap();
        assert_eq!(image.media_type, "image/png");
        assert!(image.data.starts_with("iVBORw0KGgo") && image.data.len() == bytes.div_ceil(3) * 4);
    }
    b.put("fake.png", "no picture\n");
    let out = b.run("read", &json!({"path": "fake.png"}));
    assert_eq!((out.text.as_str(), out.image), ("no picture\n", None));
}

#[test]
fn pictures_that_no_provider_takes_are_described_and_what_to_do() {
    let b = Bench::new();
    b.put("big.png", png([9, 9], 4_000_000));
    b.put("wide.png", png([8_001, 2], 0));
    b.put("none.png", png([0, 2], 0));
    b.put("cut.png", &PNG[..PNG.len() - 5]);
    let huge = File::create(b.path("huge.png")).unwrap();
    huge.write_all_at(PNG, 0).unwrap();
    huge.set_len(1 << 40).unwrap();
    for (path, wants) in [
        ("big.png", ["is an image (image/png, 3.8MB); at most 3932160 bytes can be shown.", "convert big.png -resize"]),
        ("wide.png", ["8001 x 2 pixels; at most 8000 a side", "/tmp/smaller.png"]),
        ("none.png", ["damaged or cut off", "cannot be shown"]),
        ("cut.png", ["damaged or cut off", "cannot be shown"]),
        ("huge.png", ["1.0TB", "at most 3932160 bytes"]),
    ] {
        let out = b.run("read", &json!({"path": path}));
        assert!(wants.iter().all(|want| out.text.contains(want)), "{}", out.text);
        assert!(out.image.is_none() && !out.is_error, "{}", out.text);
    }
    b.put("most.png", png([8_000, 8_000], 3_932_160 - PNG.len() - 12));
    let image = b.run("read", &json!({"path": "most.png"})).image.unwrap();
    assert_eq!(image.data.len(), 5 * 1024 * 1024);
}
