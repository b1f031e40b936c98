//! Which fire it is: the id under which everybody who fires a schedule for one instant meets.
//!
//! Owns: where an id comes from when a command is to fire. Must not know: who fires.

use torpor_core::Timestamp;
use torpor_core::schedule::FireId;

use crate::when::When;

/// How many digits the minute has at the end of the name of a Job that a CronJob made; enough for the years 1989 to 3871.
const MINUTE_DIGITS: std::ops::RangeInclusive<usize> = 8..=9;

/// What was said about the fire.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'a> {
    /// An id of one's own, or an RFC 3339 time: then it is the fire of that minute.
    pub fire: Option<&'a str>,
    /// The name of a Kubernetes Job. One that a CronJob made ends in the minute it was due, and is the fire of that
    /// minute; any other is an id of its own.
    pub job: Option<&'a str>,
}

/// Where the id of a fire comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was said.
    Given,
    /// The schedule was last due then.
    Due(Timestamp),
    /// Nothing was said and the schedule has no time of its own: it is the minute in which it was fired.
    Minute,
}

/// The id of the fire that is meant: what was said, else the schedule's own time.
///
/// # Errors
/// What is wrong with what was said.
pub fn fire_id(given: Given<'_>, when: Option<&When>, now: Timestamp) -> Result<(FireId, Origin), String> {
    if let Some(text) = given.fire {
        let id = Timestamp::parse_rfc3339(text).map_or_else(|| FireId::new(text), |at| Ok(FireId::of_minute(at)));
        let id = id.map_err(|e| format!("{e}, or be an RFC 3339 time; got {text:?}"))?;
        return Ok((id, Origin::Given));
    }
    if let Some(name) = given.job {
        let id = due_of(name).map_or_else(|| FireId::new(name), |at| Ok(FireId::of_minute(at)));
        return Ok((id.map_err(|e| format!("{e}; got {name:?}"))?, Origin::Given));
    }
    match when.and_then(|when| when.last(now)) {
        Some(due) => Ok((FireId::of_minute(due), Origin::Due(due))),
        None => Ok((FireId::of_minute(now), Origin::Minute)),
    }
}

/// When the Job with this name was due, if a CronJob made it: it then ends in the minutes since the epoch.
fn due_of(job: &str) -> Option<Timestamp> {
    let (_, minute) = job.rsplit_once('-')?;
    let digits = MINUTE_DIGITS.contains(&minute.len()) && minute.bytes().all(|b| b.is_ascii_digit());
    let minute: u64 = minute.parse().ok().filter(|_| digits)?;
    Some(Timestamp(minute * 60_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-20T09:30:15Z";

    fn id(fire: Option<&str>, job: Option<&str>, cron: Option<&str>) -> Result<(String, Origin), String> {
        let when = cron.map(|cron| When::parse(cron, "Europe/Berlin").unwrap());
        let now = Timestamp::parse_rfc3339(NOW).unwrap();
        fire_id(Given { fire, job }, when.as_ref(), now).map(|(id, origin)| (id.to_string(), origin))
    }

    /// Whoever means the 20th at 02:00 in Berlin finds the same id, however they say it.
    #[test]
    fn everybody_finds_the_same_id() {
        let due = Timestamp::parse_rfc3339("2026-11-20T01:00:00Z").unwrap();
        let job = format!("nightly-{}", due.0 / 60_000);
        for (fire, job, cron, origin) in [
            (None, None, Some("0 2 * * *"), Origin::Due(due)),
            (None, Some(job.as_str()), None, Origin::Given),
            (None, Some(job.as_str()), Some("0 9 * * *"), Origin::Given),
            (Some("2026-11-20T02:00:00+01:00"), None, None, Origin::Given),
            (Some("2026-11-20T01:00:59Z"), Some("other"), Some("0 9 * * *"), Origin::Given),
        ] {
            let want = Ok(("20261120T0100Z".to_owned(), origin));
            assert_eq!(id(fire, job, cron), want, "{fire:?} {job:?} {cron:?}");
        }
    }

    #[test]
    fn an_id_of_ones_own_is_taken_as_it_is() {
        let given = |text: &str| Ok((text.to_owned(), Origin::Given));
        assert_eq!(id(Some("nightly-20261120"), None, None), given("nightly-20261120"), "a date, not minutes");
        assert_eq!(id(None, Some("manual-1"), None), given("manual-1"), "a Job that no CronJob made");
        assert_eq!(id(None, Some("nightly-2026112"), None), given("nightly-2026112"));
        assert_eq!(id(None, None, None), Ok(("20261120T0930Z".into(), Origin::Minute)));
        for wrong in ["", "a b", "2026-11-20 02:00", "../x"] {
            assert!(id(Some(wrong), None, None).unwrap_err().contains("RFC 3339"), "{wrong}");
        }
        assert!(id(None, Some("a/b"), None).unwrap_err().contains("got \"a/b\""));
    }
}
