//! What model calls cost.
//!
//! Owns: amounts of money, rates, and the sum for one call. All in whole nano-dollars: sums of many small amounts are
//! exact, and the same log always says the same. Must not know: any model's price.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::message::Usage;
use crate::model;

/// Nano-dollars in a dollar.
const NANO: u64 = 1_000_000_000;

/// Digits behind the point of a nano-dollar.
const DIGITS: usize = 9;

/// US dollars, in billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Usd(pub u64);

impl Usd {
    /// Reads a decimal number of dollars such as `2`, `0.125` or `.5`, exactly: at most nine digits behind the point,
    /// no sign, no exponent.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.len() + part.len() == 0 || part.len() > DIGITS || !digits(whole) || !digits(part) {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let part: u64 = format!("{part:0<DIGITS$}").parse().ok()?;
        whole.checked_mul(NANO)?.checked_add(part).map(Self)
    }

    /// The nearest amount to a JSON number; `None` for one that is negative, or beyond what can be told exactly.
    #[must_use]
    pub fn from_number(dollars: f64) -> Option<Self> {
        let nano = (dollars * NANO as f64).round();
        // 2^53: up to there every whole number is told apart.
        (0.0..=9_007_199_254_740_992.0).contains(&nano).then_some(Self(nano as u64))
    }

    /// As a JSON number. For showing; sums are made before.
    #[must_use]
    pub fn as_number(self) -> f64 {
        self.0 as f64 / NANO as f64
    }
}

impl std::ops::AddAssign for Usd {
    fn add_assign(&mut self, other: Self) {
        // What a provider reports is input: absurd numbers must exhaust a budget, not wrap around it.
        self.0 = self.0.saturating_add(other.0);
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = format!("{:09}", self.0 % NANO);
        let part = part.trim_end_matches('0');
        write!(f, "${}.{part:0<2}", self.0 / NANO)
    }
}

/// Nano-dollars for one token of each kind: the thousandths of a dollar for a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Fresh input.
    pub input: u64,
    /// Output, thinking included.
    pub output: u64,
    /// Input served from the provider's cache.
    pub cache_read: u64,
    /// Input written to the provider's cache.
    pub cache_write: u64,
}

impl Rates {
    fn cost(&self, usage: &Usage) -> Usd {
        let pairs = [
            (usage.input, self.input),
            (usage.output, self.output),
            (usage.cache_read, self.cache_read),
            (usage.cache_write, self.cache_write),
        ];
        Usd(pairs.iter().fold(0, |sum: u64, (tokens, rate)| sum.saturating_add(tokens.saturating_mul(*rate))))
    }
}

/// What a model costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// The usual rates.
    pub rates: Rates,
    /// Rates of a call with more input than so many tokens, cached ones included; they hold for all of its tokens.
    pub long: Option<(u64, Rates)>,
}

impl Price {
    /// What one call costs; `None` where its tokens were not counted, since nothing can be said then.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> Option<Usd> {
        let prompt = usage.total() - usage.output.min(usage.total());
        let rates = self.long.filter(|(from, _)| prompt > *from).map_or(self.rates, |(_, rates)| rates);
        (usage.total() > 0).then(|| rates.cost(usage))
    }

    /// What a call that was cut off counts, by its estimated input.
    #[must_use]
    pub fn estimate(&self, input: u64) -> Usd {
        self.cost(&Usage { input, ..Usage::default() }).unwrap_or_default()
    }
}

/// A model's id and its price.
pub type Known = (&'static str, Price);

/// The price table.
#[derive(Debug, Clone, Default)]
pub struct Prices {
    declared: BTreeMap<String, Price>,
    known: &'static [Known],
}

impl Prices {
    /// What operators declared, by model id or `provider/id`, over what is known by id.
    #[must_use]
    pub fn new(declared: BTreeMap<String, Price>, known: &'static [Known]) -> Self {
        Self { declared, known }
    }

    /// The price of a model; `None` if nobody has said it. A known id also stands for its dated snapshots
    /// (`id-20260131`, `id-2026-01-31`) and `id-latest`, and for nothing else: the next version of a model has a price of
    /// its own. Gateways put the maker before the id (`maker/model`).
    #[must_use]
    pub fn of(&self, model: &model::Ref) -> Option<Price> {
        let declared = self.declared.get(&model.to_string()).or_else(|| self.declared.get(&model.model));
        let name = model.model.rsplit('/').next().unwrap_or(&model.model);
        let is = |id: &str| name.strip_prefix(id).is_some_and(|rest| rest.is_empty() || is_snapshot(rest));
        // Answers that a file holds cost nothing, unless somebody says what they stand for.
        let free = (model.provider == "scripted").then_some(Price { rates: Rates::default(), long: None });
        let known = || self.known.iter().find(|(id, _)| is(id)).map(|(_, price)| *price);
        declared.copied().or(free).or_else(known)
    }
}

fn is_snapshot(rest: &str) -> bool {
    let Some(rest) = rest.strip_prefix('-') else { return false };
    let digits = rest.bytes().filter(u8::is_ascii_digit).count();
    rest == "latest" || (digits == 8 && rest.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { input: 3_000, output: 15_000, cache_read: 300, cache_write: 3_750 };
    const LONG: Rates = Rates { input: 6_000, output: 22_500, cache_read: 600, cache_write: 7_500 };

    #[test]
    fn amounts_are_read_and_shown_exactly() {
        for (text, nano, shown) in [
            ("2", 2_000_000_000, "$2.00"),
            ("0.125", 125_000_000, "$0.125"),
            (".5", 500_000_000, "$0.50"),
            ("0.000000001", 1, "$0.000000001"),
            ("18446744073.709551615", u64::MAX, "$18446744073.709551615"),
        ] {
            assert_eq!(Usd::parse(text), Some(Usd(nano)), "{text}");
            assert_eq!(Usd(nano).to_string(), shown);
        }
        for wrong in ["", ".", "-1", "+1", "1e3", "1,5", "0.0000000001", "1.2.3", "18446744073.709551616", " 1"] {
            assert_eq!(Usd::parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(Usd::from_number(0.1), Some(Usd(100_000_000)));
        assert!(
            Usd::from_number(-0.1).is_none()
                && Usd::from_number(1e12).is_none()
                && Usd::from_number(f64::NAN).is_none()
        );
        assert_eq!(Usd(1_500_000).as_number(), 0.0015);
    }

    #[test]
    fn a_call_costs_the_sum_of_its_kinds_and_absurd_counts_do_not_wrap() {
        let price = Price { rates: RATES, long: Some((1_000, LONG)) };
        let usage = Usage { input: 10, output: 5, cache_read: 900, cache_write: 90 };
        assert_eq!(price.cost(&usage), Some(Usd(10 * 3_000 + 5 * 15_000 + 900 * 300 + 90 * 3_750)));
        let longer = Usage { input: 11, ..usage };
        assert_eq!(price.cost(&longer), Some(Usd(11 * 6_000 + 5 * 22_500 + 900 * 600 + 90 * 7_500)));
        assert_eq!(price.cost(&Usage::default()), None, "nobody counted");
        assert_eq!(price.cost(&Usage { input: u64::MAX, output: 1, ..usage }), Some(Usd(u64::MAX)));
        assert_eq!((price.estimate(100), price.estimate(0)), (Usd(300_000), Usd(0)));
    }

    #[test]
    fn a_model_has_the_price_that_is_said_for_it_and_no_other() {
        const KNOWN: &[Known] = &[("gpt-5", Price { rates: RATES, long: None })];
        let mine = Price { rates: LONG, long: None };
        let prices = Prices::new(BTreeMap::from([("a/gpt-5".into(), mine), ("own".into(), mine)]), KNOWN);
        let of = |name: &str| prices.of(&model::Ref::parse(name).unwrap()).map(|p| p.rates);
        for known in ["b/gpt-5", "b/maker/gpt-5", "b/gpt-5-2026-01-31", "b/gpt-5-20260131", "b/gpt-5-latest"] {
            assert_eq!(of(known), Some(RATES), "{known}");
        }
        for declared in ["a/gpt-5", "a/own", "b/own"] {
            assert_eq!(of(declared), Some(LONG), "{declared}");
        }
        for unknown in ["b/gpt-5.1", "b/gpt-5-1", "b/gpt-5-mini", "b/gpt-5-2026-01-31-x", "b/own-2"] {
            assert_eq!(of(unknown), None, "{unknown}");
        }
    }
}
