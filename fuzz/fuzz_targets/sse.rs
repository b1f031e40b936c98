//! Server-sent events from a hostile server: no panic, no growth past the limit, and the same events wherever the
//! stream is cut. The first two bytes choose the limit and the size of the pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_model::sse::{Decoder, Event, TooLarge};

fn decode(stream: &[u8], piece: usize, limit: usize) -> (Vec<Event>, Result<(), TooLarge>) {
    let (mut decoder, mut events) = (Decoder::new(limit), Vec::new());
    for piece in stream.chunks(piece) {
        if let Err(e) = decoder.push(piece, &mut events) {
            return (events, Err(e));
        }
    }
    (events, Ok(()))
}

fuzz_target!(|input: &[u8]| {
    let [limit, piece, stream @ ..] = input else { return };
    let (limit, piece) = (usize::from(*limit) * 4, usize::from(*piece).max(1));
    let whole = decode(stream, stream.len().max(1), limit);
    assert_eq!(decode(stream, piece, limit), whole);
    // U+FFFD is longer than the byte it stands for.
    assert!(whole.0.iter().all(|e| e.name.len() + e.data.len() <= limit * 3));
});
