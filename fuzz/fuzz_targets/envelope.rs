//! Any JSON is an accepted envelope or a list of named problems; an accepted one survives the way into the store and
//! back, and its hash does not depend on how it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_core::envelope::{Invalid, Spec, parse};

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    match parse(value.clone()) {
        Err(Invalid(problems)) => assert!(problems.iter().all(|p| !p.field.is_empty() && !p.message.is_empty())),
        Ok(envelope) => {
            let again = parse(value).map(|e| e.body_hash);
            assert_eq!(again.as_ref(), Ok(&envelope.body_hash));
            let stored = serde_json::to_vec(&envelope.spec).expect("a spec is JSON");
            let back: Spec = serde_json::from_slice(&stored).expect("a stored spec can be read");
            assert_eq!(back, envelope.spec);
        }
    }
});
