//! Any bytes are frames or an error: never a panic, and what was read is written back as the same bytes.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use torpor_exec_channel::frame::Frame;
use torpor_exec_channel::message;

fuzz_target!(|bytes: &[u8]| {
    let (mut buf, mut back) = (BytesMut::from(bytes), BytesMut::new());
    while let Ok(Some(frame)) = Frame::decode(&mut buf) {
        frame.encode(&mut back);
        let _ = (frame.read_credit(), frame.read_gap(), frame.read_output());
        let _ = message::from_frame::<message::Call>(&frame);
        let _ = message::from_frame::<message::Hello>(&frame);
    }
    assert_eq!(back, bytes[..back.len()]);
});
