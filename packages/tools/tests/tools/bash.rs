use proptest::prelude::*;
use torpor_tools::output::{BashEnd, MAX_BYTES, MAX_LINES, format_bash};

/// The end of a command that printed `output`, of which the last `kept` bytes are at hand.
fn end(output: &[u8], kept: usize) -> BashEnd<'_> {
    let breaks = output.iter().filter(|b| **b == b'\n').count();
    let open = !output.is_empty() && !output.ends_with(b"\n");
    BashEnd {
        exit: Some(0),
        tail: &output[output.len() - kept.min(output.len())..],
        total_bytes: output.len() as u64,
        total_lines: (breaks + usize::from(open)) as u64,
        output_path: Some("/out/17"),
        ..BashEnd::default()
    }
}

#[test]
fn the_end_of_a_command_is_put_in_words() {
    let ok = end(b"hello\n", 100);
    let silent = end(b"", 100);
    for (end, text, is_error) in [
        (ok, "hello", false),
        (silent, "(no output)", false),
        (BashEnd { exit: Some(2), ..ok }, "hello\n\nCommand exited with code 2", true),
        (BashEnd { exit: Some(2), ..silent }, "(no output)\n\nCommand exited with code 2", true),
        (
            BashEnd { exit: None, signal: Some(9), ..ok },
            "hello\n\nCommand was killed by signal 9 (SIGKILL, possibly out of memory)",
            true,
        ),
        (BashEnd { exit: None, signal: Some(64), ..silent }, "Command was killed by signal 64", true),
        (
            BashEnd { exit: None, signal: Some(9), timed_out_after: Some(5), ..ok },
            "hello\n\nCommand timed out after 5 seconds",
            true,
        ),
        (BashEnd { exit: None, timed_out_after: Some(1), ..silent }, "Command timed out after 1 second", true),
        (BashEnd { exit: None, signal: Some(9), aborted: true, ..ok }, "hello\n\nCommand aborted", true),
        (BashEnd { exit: None, over: Some("Too much."), ..ok }, "hello\n\nCommand was ended. Too much.", true),
        (BashEnd { exit: None, ..silent }, "Command ended, but its exit code is not known", true),
    ] {
        let out = format_bash(&end);
        assert_eq!((out.text.as_str(), out.is_error), (text, is_error));
    }
}

#[test]
fn a_long_output_keeps_its_end_and_says_where_the_rest_is() {
    let lines: String = (1..=5000).map(|n| format!("{n}\n")).collect();
    let wide = format!("{}\n", "w".repeat(999)).repeat(100);
    let one = "x".repeat(200_000);
    for (end, start, notice) in [
        (end(lines.as_bytes(), 1 << 20), "3001\n", "[Showing lines 3001-5000 of 5000. Full output: /out/17]"),
        (end(wide.as_bytes(), 1 << 20), "www", "[Showing lines 50-100 of 100 (50.0KB limit). Full output: /out/17]"),
        (end(one.as_bytes(), 1 << 20), "xxx", "[Showing last 50.0KB of line 1. Full output: /out/17]"),
        // Only a part of it is at hand: the line that was cut in two is not shown.
        (end(wide.as_bytes(), 10_500), "www", "[Showing lines 91-100 of 100 (50.0KB limit). Full output: /out/17]"),
        (end(one.as_bytes(), 60_000), "xxx", "[Showing last 50.0KB of line 1. Full output: /out/17]"),
        (
            BashEnd { missing_bytes: 3 << 20, ..end(lines.as_bytes(), 1 << 20) },
            "3001\n",
            "[Showing lines 3001-5000 of 5000. Output: /out/17 (incomplete: 3.0MB were not stored because the output is \
             too large)]",
        ),
        (
            BashEnd { output_path: None, ..end(lines.as_bytes(), 1 << 20) },
            "3001\n",
            "[Showing lines 3001-5000 of 5000. The rest was not stored; redirect the output to a file if you need it]",
        ),
    ] {
        let text = format_bash(&end).text;
        let (page, rest) = text.rsplit_once("\n\n").unwrap();
        assert_eq!(rest, notice);
        assert!(page.starts_with(start), "{}", &page[..40]);
        assert!(page.len() <= MAX_BYTES && page.lines().count() <= MAX_LINES);
    }
}

#[test]
fn output_is_shown_as_a_terminal_would_leave_it() {
    for (output, text) in [
        (&b"\x1b[1;32mok\x1b[0m done\r\n"[..], "ok done"),
        (b"\x1b]0;title\x07text", "text"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1b(Bplain\x1b7", "plain"),
        (b"a\0b\x08c\tD", "abc\tD"),
        (b"caf\xe9", "caf\u{fffd}"),
        (b"\x1b[\nstays", "\nstays"),
        (b"\x1b]never ends\nstays", "\nstays"),
        (b"\x1b[31\xc3\xa9", "é"),
    ] {
        assert_eq!(format_bash(&end(output, 1000)).text, text, "{:?}", String::from_utf8_lossy(output));
    }
    // Cut in the middle of a character.
    assert!(format_bash(&end("ééé".as_bytes(), 3)).text.starts_with("é\n\n[Showing last 2B of line 1."));
}

proptest! {
    #[test]
    fn any_output_stays_within_the_limits(
        block in proptest::collection::vec(any::<u8>(), 0..200), times in 1usize..2000, kept in 0usize..200_000,
    ) {
        let output = block.repeat(times);
        let text = format_bash(&end(&output, kept)).text;
        prop_assert!(!text.is_empty());
        let page = text.rsplit_once("\n\n[").map_or(text.as_str(), |(page, _)| page);
        prop_assert!(page.len() <= MAX_BYTES);
        prop_assert!(page.split('\n').count() <= MAX_LINES);
    }
}
