use proptest::prelude::*;

use super::*;

fn decode(pieces: &[&[u8]], limit: usize) -> (Vec<Event>, Result<(), TooLarge>) {
    let (mut decoder, mut events) = (Decoder::new(limit), Vec::new());
    for piece in pieces {
        if let Err(e) = decoder.push(piece, &mut events) {
            return (events, Err(e));
        }
    }
    (events, Ok(()))
}

fn event(name: &str, data: &str) -> Event {
    Event { name: name.into(), data: data.into() }
}

#[test]
fn streams_are_read_as_the_standard_says() {
    let cases: &[(&str, &[u8], Vec<Event>)] = &[
        ("a plain event", b"event: a\ndata: 1\n\n", vec![event("a", "1")]),
        ("no space after the colon", b"event:a\ndata:1\n\n", vec![event("a", "1")]),
        ("one space only is taken away", b"data:  1\n\n", vec![event("", " 1")]),
        ("CR LF", b"event: a\r\ndata: 1\r\n\r\n", vec![event("a", "1")]),
        ("CR alone", b"event: a\rdata: 1\r\r", vec![event("a", "1")]),
        ("mixed line ends", b"event: a\r\ndata: 1\r\ndata: 2\n\r", vec![event("a", "1\n2")]),
        ("data over several lines", b"data: 1\ndata: 2\ndata\n\n", vec![event("", "1\n2\n")]),
        ("comments", b": hello\n\n:\ndata: 1\n: more\n\n", vec![event("", "1")]),
        ("an event without data is none", b"event: a\n\ndata: 1\n\n", vec![event("", "1")]),
        ("a field without a colon", b"data\n\n", vec![event("", "")]),
        ("id, retry and unknown fields", b"id: 7\nretry: 1\nwhat: x\ndata: 1\n\n", vec![event("", "1")]),
        ("the last name counts", b"event: a\nevent: b\ndata: 1\n\n", vec![event("b", "1")]),
        ("a byte order mark", b"\xef\xbb\xbfdata: 1\n\n", vec![event("", "1")]),
        ("a second mark is a field name", b"\xef\xbb\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\n", vec![event("", "1")]),
        ("an unfinished event is cut", b"data: 1\n\ndata: 2\n", vec![event("", "1")]),
        ("bytes that are no UTF-8", b"data: \xff\n\n", vec![event("", "\u{fffd}")]),
        ("nothing", b"", vec![]),
    ];
    for (what, bytes, expected) in cases {
        assert_eq!(decode(&[bytes], 1000), (expected.clone(), Ok(())), "{what}");
    }
}

#[test]
fn an_event_beyond_the_limit_is_refused_in_every_shape() {
    let long = "x".repeat(50);
    let many = "data: 123456\n".repeat(10);
    for stream in [format!("data: {long}"), format!("data: {long}\n\n"), format!(": {long}\n"), many] {
        assert_eq!(decode(&[stream.as_bytes()], 40), (vec![], Err(TooLarge { limit: 40 })), "{stream:?}");
    }
    let small = "data: 123456\n\n".repeat(100);
    let (events, end) = decode(&[small.as_bytes()], 40);
    assert_eq!((events.len(), end), (100, Ok(())), "the limit is for one event, not for the stream");
}

/// Streams made of the pieces that matter, with line ends and field names more often than chance would have them.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b"data: ".to_vec()),
        Just(b"data".to_vec()),
        Just(b"event: ".to_vec()),
        Just(b":".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n\n".to_vec()),
        Just(BOM.to_vec()),
        proptest::collection::vec(any::<u8>(), 0..12),
    ];
    proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn where_the_stream_is_cut_makes_no_difference(stream in streams(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts {
            pieces.push(&stream[from..cut]);
            from = cut;
        }
        pieces.push(&stream[from..]);
        for limit in [8, 30, 10_000] {
            prop_assert_eq!(decode(&pieces, limit), decode(&[&stream], limit));
        }
    }

    #[test]
    fn what_is_written_is_what_is_read(events in proptest::collection::vec(("[a-z_]{0,8}", "[^\r]{0,40}"), 0..8)) {
        let (mut stream, mut expected) = (String::new(), Vec::new());
        for (name, data) in events {
            let lines: Vec<String> = data.split('\n').map(|l| format!("data: {l}\n")).collect();
            stream.push_str(&format!("event: {name}\n{}\n", lines.concat()));
            expected.push(Event { name, data });
        }
        prop_assert_eq!(decode(&[stream.as_bytes()], 10_000), (expected, Ok(())));
    }
}
