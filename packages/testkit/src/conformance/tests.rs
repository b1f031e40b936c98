//! That what is written is also run.

/// A promise that is written but not run would be a promise in name only.
#[test]
fn every_case_is_in_the_macro() {
    let this = include_str!("../conformance.rs");
    for (suite, source) in [
        ("log", include_str!("log.rs")),
        ("accept", include_str!("accept.rs")),
        ("queue", include_str!("queue.rs")),
        ("cancel", include_str!("cancel.rs")),
        ("gates", include_str!("gates.rs")),
        ("outbox", include_str!("outbox.rs")),
        ("files", include_str!("files.rs")),
        ("runs", include_str!("runs.rs")),
        ("letters", include_str!("letters.rs")),
        ("sessions", include_str!("sessions.rs")),
        ("sandbox", include_str!("sandbox.rs")),
        ("model", include_str!("model.rs")),
        ("keys", include_str!("keys.rs")),
        ("schedules", include_str!("schedules.rs")),
        ("volume", include_str!("volume.rs")),
    ] {
        let list = format!("{this}{source}");
        let list = list.split(&format!("{suite}: [")).nth(1).and_then(|s| s.split(']').next()).unwrap();
        let listed: Vec<&str> = list.split_whitespace().collect();
        let written: Vec<&str> = source.split("\npub async fn ").skip(1).filter_map(|s| s.split('(').next()).collect();
        assert_eq!(listed, written, "suite {suite}");
    }
}
