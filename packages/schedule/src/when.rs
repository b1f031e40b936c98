//! When a schedule is due: a cron expression of five fields, read in a time zone.
//!
//! Owns: what an expression means, also where clocks are put forward and back. Must not know: what happens then.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Zoned;
use jiff::tz::TimeZone;
use torpor_core::Timestamp;

/// The names of the five fields, in their order.
const FIELDS: [&str; 5] = ["minute", "hour", "day of the month", "month", "day of the week"];

/// What `@daily` and the like stand for is known by the parser; these are offered in messages.
const EXPECTED: &str = "must be a cron expression of five fields (minute, hour, day of the month, month, day of the \
                        week) such as \"0 2 * * 1-5\", or @hourly, @daily, @weekly, @monthly or @yearly";

/// The instants at which a schedule is due: whole minutes.
///
/// Where clocks are put forward over an instant that is named by hour and minute, it is due when they have moved; one
/// that is named by a pattern (`*`, ranges, steps) has one occurrence less. Where they are put back, the former is due
/// once, at the first pass, and the latter at both.
#[derive(Debug, Clone)]
pub struct When {
    cron: Cron,
    zone: TimeZone,
    /// As it was written, for people and to notice a change.
    expression: String,
    zone_name: String,
}

/// What cannot be read: the field of the schedule, and what is wrong with it.
pub(crate) type Wrong = (&'static str, String);

impl When {
    /// Reads an expression, for the time zone with this name of the IANA database.
    pub(crate) fn parse(expression: &str, zone: &str) -> Result<Self, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let cron = parse_cron(expression).map_err(|e| wrong.push(("cron", e))).ok();
        let known = TimeZone::get(zone);
        if known.is_err() {
            let expected = "must be the name of a time zone such as \"Europe/Berlin\" or \"UTC\"";
            wrong.push(("timezone", format!("{expected}, got {zone:?}")));
        }
        let (Some(cron), Ok(zone)) = (cron, known) else { return Err(wrong) };
        let zone_name = zone.iana_name().unwrap_or("UTC").to_owned();
        let when = Self { cron, zone, expression: expression.trim().to_owned(), zone_name };
        // Judged at a fixed instant, so that a file that can be read today can be read tomorrow.
        match when.next(Timestamp(0)) {
            Some(_) => Ok(when),
            None => Err(vec![("cron", format!("never comes: {expression:?} names no day that there is"))]),
        }
    }

    /// The first instant after `after` at which it is due.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let found = self.cron.find_next_occurrence(&self.local(after)?, false).ok()?;
        instant(&found)
    }

    /// The last instant at which it was due, `upto` included.
    #[must_use]
    pub fn last(&self, upto: Timestamp) -> Option<Timestamp> {
        let found = self.cron.find_previous_occurrence(&self.local(upto)?, true).ok()?;
        instant(&found)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The name of the time zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    fn local(&self, at: Timestamp) -> Option<Zoned> {
        let at = jiff::Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
        Some(at.to_zoned(self.zone.clone()))
    }
}

fn instant(at: &Zoned) -> Option<Timestamp> {
    u64::try_from(at.timestamp().as_millisecond()).ok().map(Timestamp)
}

fn parse_cron(expression: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let parsed = parser.parse(expression);
    let Err(e) = parsed else { return parsed.map_err(|e| e.to_string()) };
    let fields: Vec<&str> = expression.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("{EXPECTED}, got {expression:?}"));
    }
    // Which field it is: the one that cannot be read among others that are open.
    let alone = |i: usize| {
        let mut open = ["*"; FIELDS.len()];
        open[i] = fields[i];
        parser.parse(&open.join(" ")).err()
    };
    let found = (0..FIELDS.len()).find_map(|i| alone(i).map(|e| (i, e)));
    Err(match found {
        Some((i, e)) => format!("cannot be read: the {} {:?}: {}", FIELDS[i], fields[i], reason(&e)),
        None => format!("cannot be read: {}", reason(&e)),
    })
}

/// The parser's words, without its own name for the kind of error.
fn reason(e: &croner::errors::CronError) -> String {
    let said = e.to_string();
    let said = said.split_once(": ").map_or(said.as_str(), |(_, said)| said);
    said.trim_end_matches('.').to_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    /// The first `n` instants after `from`.
    fn dues(expression: &str, zone: &str, from: &str, n: usize) -> Vec<String> {
        let when = When::parse(expression, zone).unwrap();
        let all = std::iter::successors(when.next(at(from)), |t| when.next(*t));
        all.take(n).map(|t| t.rfc3339().replace(":00.000Z", "Z")).collect()
    }

    #[test]
    fn an_expression_is_read_in_its_time_zone() {
        for (expression, zone, from, want) in [
            ("0 2 * * *", "UTC", "2026-11-20T02:00:00Z", ["2026-11-21T02:00Z", "2026-11-22T02:00Z"]),
            ("0 2 * * *", "UTC", "2026-11-20T01:59:59.999Z", ["2026-11-20T02:00Z", "2026-11-21T02:00Z"]),
            ("0 2 * * *", "Asia/Kolkata", "2026-11-20T00:00:00Z", ["2026-11-20T20:30Z", "2026-11-21T20:30Z"]),
            ("*/20 9-10 * * mon-fri", "UTC", "2026-11-20T10:20:00Z", ["2026-11-20T10:40Z", "2026-11-23T09:00Z"]),
            ("@daily", "America/New_York", "2026-11-20T12:00:00Z", ["2026-11-21T05:00Z", "2026-11-22T05:00Z"]),
            // Both days named: either will do, as in every cron.
            ("0 0 1 * 1", "UTC", "2026-11-29T00:00:00Z", ["2026-11-30T00:00Z", "2026-12-01T00:00Z"]),
            ("0 12 l * *", "UTC", "2028-02-01T00:00:00Z", ["2028-02-29T12:00Z", "2028-03-31T12:00Z"]),
            ("0 0 29 2 *", "UTC", "2026-11-20T00:00:00Z", ["2028-02-29T00:00Z", "2032-02-29T00:00Z"]),
        ] {
            assert_eq!(dues(expression, zone, from, 2), want, "{expression} {zone}");
        }
    }

    /// In Berlin clocks go from 02:00 to 03:00 on 29 March 2026, and from 03:00 back to 02:00 on 25 October. On Lord Howe
    /// Island they move by half an hour; in Santiago at midnight.
    #[test]
    fn no_fire_is_lost_or_doubled_where_clocks_are_put_forward_or_back() {
        for (expression, zone, from, want) in [
            // Forward: due when the clocks have moved, and at its own time from the next day on.
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]),
            ("0 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", ["2026-03-29T01:00Z", "2026-03-30T00:00Z"]),
            ("59 1 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", ["2026-03-29T00:59Z", "2026-03-29T23:59Z"]),
            ("30 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", ["2026-09-06T04:00Z", "2026-09-07T03:30Z"]),
            ("0 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", ["2026-10-03T15:30Z", "2026-10-04T15:00Z"]),
            ("0 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", ["2026-03-29T01:00Z", "2026-03-29T02:00Z"]),
            ("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", ["2026-03-30T00:00Z", "2026-03-30T00:30Z"]),
            // Back: a time that is named is due once, a pattern at every pass.
            ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]),
            ("0 2 * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", ["2026-10-26T01:00Z", "2026-10-27T01:00Z"]),
            ("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", ["2026-10-25T00:30Z", "2026-10-25T01:30Z"]),
            ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", ["2026-04-04T14:45Z", "2026-04-05T15:15Z"]),
        ] {
            assert_eq!(dues(expression, zone, from, 2), want, "{expression} {zone}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_expected() {
        for (expression, zone, want) in [
            ("0 2 * *", "UTC", ("cron", "must be a cron expression of five fields")),
            ("", "UTC", ("cron", "must be a cron expression of five fields")),
            ("0 0 2 * * *", "UTC", ("cron", "must be a cron expression of five fields")),
            ("0 25 * * *", "UTC", ("cron", "the hour \"25\": number out of bounds")),
            ("0 2 * * funday", "UTC", ("cron", "the day of the week \"funday\"")),
            ("*/0 * * * *", "UTC", ("cron", "the minute \"*/0\": step cannot be zero")),
            ("0 0 31 2 *", "UTC", ("cron", "never comes")),
            ("0 2 * * *", "Europe/Berlln", ("timezone", "got \"Europe/Berlln\"")),
            ("0 2 * * *", "+02:00", ("timezone", "must be the name of a time zone")),
        ] {
            let wrong = When::parse(expression, zone).unwrap_err();
            assert_eq!(wrong.len(), 1);
            assert!(wrong[0].0 == want.0 && wrong[0].1.contains(want.1), "{expression} {zone}: {wrong:?}");
        }
        assert_eq!(When::parse("x", "x").unwrap_err().len(), 2);
    }

    /// Slow and certain: every minute is asked whether its local time fits.
    fn minutes_that_fit(minute: u8, hours: std::ops::Range<u8>, zone: &str, from: i64, hours_long: i64) -> Vec<i64> {
        let zone = TimeZone::get(zone).unwrap();
        let fits = |s: &i64| {
            let local = jiff::Timestamp::from_second(*s).unwrap().to_zoned(zone.clone());
            local.minute().unsigned_abs() == minute && hours.contains(&local.hour().unsigned_abs())
        };
        (from / 60 + 1..=from / 60 + hours_long * 60).map(|m| m * 60).filter(fits).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A pattern over hours fires at every minute of the zone's own clock that fits, also where that is moved.
        #[test]
        fn a_pattern_is_due_whenever_the_clock_on_the_wall_fits(
            minute in 0u8..60,
            first in 0u8..20,
            days in 0i64..400,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]),
        ) {
            let last = first + 3;
            let when = When::parse(&format!("{minute} {first}-{last} * * *"), zone).unwrap();
            let from = 1_767_225_600 + days * 86_400; // from 2026 on
            let want = minutes_that_fit(minute, first..last + 1, zone, from, 72);
            let start = Timestamp(u64::try_from(from).unwrap() * 1_000);
            let all = std::iter::successors(when.next(start), |t| when.next(*t));
            let got: Vec<i64> = all.take(want.len()).map(|t| i64::try_from(t.0 / 1_000).unwrap()).collect();
            prop_assert_eq!(got, want);
        }

        /// What is next after one instant was last at the next, wherever one looks.
        #[test]
        fn forward_and_back_agree(
            minute in 0u8..60,
            hour in 0u8..24,
            ms in 1_767_225_600_000u64..1_830_297_600_000,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Santiago"]),
        ) {
            let when = When::parse(&format!("{minute} {hour} * * *"), zone).unwrap();
            let last = when.last(Timestamp(ms)).unwrap();
            let next = when.next(Timestamp(ms)).unwrap();
            prop_assert!(last.0 <= ms && ms < next.0);
            prop_assert_eq!(when.next(last), Some(next));
            prop_assert_eq!(when.last(Timestamp(next.0 - 1)), Some(last));
            prop_assert_eq!(when.last(next), Some(next));
            prop_assert!(next.0 - last.0 <= 25 * 3_600_000 && next.0.is_multiple_of(60_000));
        }

        #[test]
        fn no_expression_upsets_the_reader(text in ".{0,40}", zone in ".{0,20}") {
            let _ = When::parse(&text, &zone);
        }
    }
}
