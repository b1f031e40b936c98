//! When a provider wants to be asked again.
//!
//! Owns: the three forms of that wish. Must not know: what is done about it.
//! A date is compared with the answer's own `Date`, so nobody's clock but the server's matters.

use std::time::Duration;

use jiff::fmt::rfc2822;

/// Reads `retry-after-ms`, or else `retry-after` as seconds or as an HTTP date.
/// Malformed values and dates without a `Date` to compare with count as absent; a date in the past means now.
pub(crate) fn parse(ms: Option<&str>, after: Option<&str>, date: Option<&str>) -> Option<Duration> {
    if let Some(wait) = ms.and_then(|ms| number(ms, 1e-3)) {
        return Some(wait);
    }
    let after = after?;
    if let Some(wait) = number(after, 1.0) {
        return Some(wait);
    }
    let (then, now) = (instant(after)?, instant(date?)?);
    Some(Duration::from_secs(u64::try_from(then - now).unwrap_or(0)))
}

/// Some servers send fractions, though the standard has whole seconds only.
fn number(text: &str, unit: f64) -> Option<Duration> {
    let n: f64 = text.trim().parse().ok()?;
    Duration::try_from_secs_f64(n * unit).ok()
}

fn instant(text: &str) -> Option<i64> {
    Some(rfc2822::parse(text.trim()).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_wish_is_read() {
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let later = Some("Sun, 06 Nov 1994 08:50:07 GMT");
        let cases = [
            (None, None, None, None),
            (None, Some("0"), None, Some(0)),
            (None, Some(" 7 "), None, Some(7_000)),
            (None, Some("1.5"), None, Some(1_500)),
            (Some("250"), Some("7"), None, Some(250)),
            (Some("soon"), Some("7"), None, Some(7_000)),
            (None, later, now, Some(30_000)),
            (None, now, later, Some(0)),
            (None, later, None, None),
            (None, Some("soon"), now, None),
            (None, Some("-1"), now, None),
            (None, Some("inf"), None, None),
            (None, Some("NaN"), None, None),
            (None, Some("1e300"), None, None),
        ];
        for (ms, after, date, expected) in cases {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(parse(ms, after, date), expected, "{ms:?} {after:?} {date:?}");
        }
    }
}
