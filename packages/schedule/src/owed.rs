//! What is owed at an instant: the dues since the last one that was dealt with, after the schedule's own wish for those
//! that were missed.
//!
//! Owns: that rule. Must not know: what is done with it.

use std::time::Duration;

use torpor_core::Timestamp;

use crate::file::CatchUp;
use crate::when::When;

/// What is fired so soon after its time was not missed.
pub(crate) const ON_TIME: Duration = Duration::from_secs(5 * 60);

/// Most missed fires that are made up for; beyond them the oldest are not.
pub(crate) const MAX_CATCH_UP: usize = 100;

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Owed {
    /// Nothing up to here is owed, before any of it is fired.
    pub(crate) pass: Option<Timestamp>,
    /// What is to be fired, oldest first.
    pub(crate) fire: Vec<Timestamp>,
}

/// What is owed at `now`, when everything up to `considered` was dealt with.
pub(crate) fn owed(when: &When, catch_up: CatchUp, considered: Timestamp, now: Timestamp) -> Owed {
    let back = std::iter::successors(when.last(now), |due| when.last(Timestamp(due.0.checked_sub(1)?)));
    let mut missed = back.take_while(|due| *due > considered).peekable();
    let mut fire = Vec::new();
    let most = if catch_up == CatchUp::Once { 1 } else { MAX_CATCH_UP };
    let wanted = |due: &Timestamp| catch_up != CatchUp::Skip || now.since(*due) <= ON_TIME;
    while let Some(due) = missed.next_if(|due| fire.len() < most && wanted(due)) {
        fire.push(due);
    }
    fire.reverse();
    Owed { pass: missed.next(), fire }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(&format!("2026-11-{text}:00Z")).unwrap()
    }

    #[test]
    fn what_was_missed_is_made_up_for_as_the_schedule_wishes() {
        use CatchUp::{All, Once, Skip};

        for (cron, catch_up, considered, now, pass, fire) in [
            // Nothing is due, or nothing new.
            ("0 2 * * *", All, "20T02:00", "20T02:00", None, &[][..]),
            ("0 2 * * *", All, "20T02:00", "21T01:59", None, &[]),
            // On time: whatever the wish.
            ("0 2 * * *", Skip, "20T02:00", "21T02:00", None, &["21T02:00"]),
            ("0 2 * * *", Skip, "20T02:00", "21T02:05", None, &["21T02:00"]),
            ("0 2 * * *", Once, "20T02:00", "21T02:00", None, &["21T02:00"]),
            ("0 2 * * *", All, "20T02:00", "21T02:00", None, &["21T02:00"]),
            // Missed.
            ("0 2 * * *", Skip, "20T02:00", "21T02:06", Some("21T02:00"), &[]),
            ("0 2 * * *", Once, "18T02:00", "21T12:00", Some("20T02:00"), &["21T02:00"]),
            ("0 2 * * *", All, "18T02:00", "21T12:00", None, &["19T02:00", "20T02:00", "21T02:00"]),
            // Some missed, one on time.
            ("0 2 * * *", Skip, "18T02:00", "21T02:01", Some("20T02:00"), &["21T02:00"]),
            ("*/2 * * * *", Skip, "21T02:00", "21T02:08", Some("21T02:02"), &["21T02:04", "21T02:06", "21T02:08"]),
        ] {
            let when = When::parse(cron, "UTC").unwrap();
            let want = Owed { pass: pass.map(at), fire: fire.iter().map(|t| at(t)).collect() };
            assert_eq!(owed(&when, catch_up, at(considered), at(now)), want, "{cron} {catch_up:?} {considered} {now}");
        }
    }

    #[test]
    fn making_up_is_bounded() {
        let when = When::parse("* * * * *", "UTC").unwrap();
        let all = owed(&when, CatchUp::All, at("01T00:00"), at("21T00:00"));
        assert_eq!((all.fire.len(), all.fire.last()), (MAX_CATCH_UP, Some(&at("21T00:00"))));
        assert_eq!(all.pass, when.last(Timestamp(all.fire[0].0 - 1)), "the older ones are passed over");
    }
}
