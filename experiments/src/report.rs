//! What was measured, as one table and as JSON.
//!
//! Owns: goals, rounding, layout. Must not know: how anything was measured.

use std::fmt::Write as _;

use serde::Serialize;
use torpor_core::{Clock as _, SystemClock};

use crate::machine::Machine;
use crate::stats::Summary;
use crate::world::Context;

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measure {
    row: &'static str,
    what: String,
    unit: &'static str,
    goal: Option<Goal>,
    /// The median where there are samples.
    value: f64,
    spread: Option<Summary>,
    how: String,
}

impl Measure {
    /// Of samples.
    pub(crate) fn of(row: &'static str, what: impl Into<String>, unit: &'static str, samples: &[f64]) -> Self {
        let spread = Summary::of(samples);
        let value = spread.map_or(f64::NAN, |s| s.median);
        Self { row, what: what.into(), unit, goal: None, value, spread, how: String::new() }
    }

    /// Of one number.
    pub(crate) fn one(row: &'static str, what: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { row, what: what.into(), unit, goal: None, value, spread: None, how: String::new() }
    }

    /// Aims at no more than `limit`.
    pub(crate) fn at_most(self, limit: f64) -> Self {
        Self { goal: Some(Goal::AtMost(limit)), ..self }
    }

    /// Aims at no less than `limit`.
    pub(crate) fn at_least(self, limit: f64) -> Self {
        Self { goal: Some(Goal::AtLeast(limit)), ..self }
    }

    /// Says what was run.
    pub(crate) fn how(self, how: impl Into<String>) -> Self {
        Self { how: how.into(), ..self }
    }

    fn met(&self) -> Option<bool> {
        self.goal.map(|goal| match goal {
            Goal::AtMost(limit) => self.value <= limit,
            Goal::AtLeast(limit) => self.value >= limit,
        })
    }

    fn line(&self) -> String {
        let unit = self.unit;
        let goal = match self.goal {
            None => String::new(),
            Some(Goal::AtMost(limit)) => format!("≤ {} {unit}", number(limit)),
            Some(Goal::AtLeast(limit)) => format!("≥ {} {unit}", number(limit)),
        };
        let met = self.met().map_or("", |met| if met { "yes" } else { "**no**" });
        let value = format!("{} {unit}", number(self.value));
        let (tail, range, n) = match self.spread.filter(|s| s.n > 1) {
            Some(s) => (
                format!("{} / {}", number(s.p95), number(s.p99)),
                format!("{} – {}", number(s.min), number(s.max)),
                s.n.to_string(),
            ),
            None => (String::new(), String::new(), "1".to_owned()),
        };
        let cells = [self.row, &self.what, goal.trim(), value.trim(), met, &tail, &range, &n, &self.how];
        format!("| {} |", cells.join(" | "))
    }
}

/// Three significant digits, and thousands apart.
fn number(v: f64) -> String {
    if !v.is_finite() {
        return "–".to_owned();
    }
    if v.abs() >= 1000.0 {
        let digits = format!("{:.0}", v.abs());
        let mut out = String::new();
        for (i, c) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                out.push(',');
            }
            out.push(c);
        }
        return if v < 0.0 { format!("-{out}") } else { out };
    }
    let decimals = match v.abs() {
        a if a >= 100.0 || a == 0.0 => 0,
        a if a >= 10.0 => 1,
        a if a >= 0.1 => 2,
        _ => 4,
    };
    let text = format!("{v:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Everything that one start of the program measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    at: String,
    command: String,
    version: String,
    store: String,
    machine: Machine,
    quick: bool,
    measures: Vec<Measure>,
    failures: Vec<String>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(ctx: &Context) -> Self {
        Self {
            at: SystemClock.now().rfc3339(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            version: ctx.version(),
            store: ctx.store(),
            machine: Machine::here(&ctx.dir),
            quick: ctx.quick,
            measures: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds a row's lines.
    pub(crate) fn add(&mut self, measures: Vec<Measure>) {
        self.measures.extend(measures);
    }

    /// Notes that a row could not be measured.
    pub(crate) fn failed(&mut self, row: &str, why: &anyhow::Error) {
        self.failures.push(format!("{row}: {why:#}"));
    }

    /// Whether a row is missing.
    pub(crate) fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    /// The table, with what one must know to read it.
    pub(crate) fn markdown(&self) -> String {
        let mut out =
            format!("{} · {} · store: {}\n{}\n`{}`\n\n", self.at, self.version, self.store, self.machine, self.command);
        if self.quick {
            out.push_str("**Quick: a tenth of the counts. Not to be quoted.**\n\n");
        }
        out.push_str("| row | what | goal | value (median) | met | p95 / p99 | min – max | n | what was run |\n");
        out.push_str("|---|---|---|---|---|---|---|---|---|\n");
        for m in &self.measures {
            let _ = writeln!(out, "{}", m.line());
        }
        for f in &self.failures {
            let _ = writeln!(out, "\nNot measured: {f}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_their_size() {
        for (v, want) in [
            (0.0, "0"),
            (0.001_23, "0.0012"),
            (0.5, "0.5"),
            (1.0, "1"),
            (9.876, "9.88"),
            (98.76, "98.8"),
            (987.6, "988"),
            (1234.5, "1,234"),
            (25_000.0, "25,000"),
            (1_234_567.0, "1,234,567"),
            (-12_345.0, "-12,345"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(v), want, "{v}");
        }
    }

    #[test]
    fn a_line_says_goal_value_and_spread() {
        let m = Measure::of("turn", "overhead", "ms", &[0.5, 0.7, 0.9]).at_most(1.0).how("3 turns");
        assert_eq!(m.line(), "| turn | overhead | ≤ 1 ms | 0.7 ms | yes | 0.9 / 0.9 | 0.5 – 0.9 | 3 | 3 turns |");
        let m = Measure::one("drain", "rate", "/s", 1500.0).at_least(2500.0);
        assert_eq!(m.line(), "| drain | rate | ≥ 2,500 /s | 1,500 /s | **no** |  |  | 1 |  |");
        assert_eq!(Measure::of("x", "nothing", "ms", &[]).at_most(1.0).met(), Some(false), "no samples meet no goal");
    }
}
