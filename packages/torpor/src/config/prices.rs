//! The settings about money: what models cost, and the limit of runs that name none.
//!
//! Owns: how these two are written. Must not know: what any model costs.

use std::collections::BTreeMap;

use torpor_core::envelope::MAX_COST_USD;
use torpor_core::price::{Price, Prices, Rates, Usd};

use super::Reader;

/// Nano-dollars a token in a dollar for a million.
const PER_MILLION: u64 = 1_000_000;

/// What operators declare, over the makers' list prices.
pub(super) fn read(r: &mut Reader<'_>) -> Prices {
    let expected = "`id=input/output/cacheRead/cacheWrite` in dollars for a million tokens, to the thousandth, \
                    separated by `,`";
    let declared = r.parse("TORPOR_MODEL_PRICES", expected, |t| {
        let parts = t.split(',').map(str::trim).filter(|p| !p.is_empty());
        parts.map(price).collect::<Option<BTreeMap<_, _>>>()
    });
    Prices::new(declared.unwrap_or_default(), torpor_model::price::KNOWN)
}

/// The limit of a run's cost.
pub(super) fn limit(r: &mut Reader<'_>) -> Option<Usd> {
    let max = Usd(u64::from(MAX_COST_USD) * 1_000_000_000);
    let expected = format!("a number of dollars above 0 and at most {MAX_COST_USD}");
    r.parse("TORPOR_MAX_COST_USD", &expected, |t| Usd::parse(t).filter(|usd| (Usd(1)..=max).contains(usd)))
}

/// An id may hold `/` and `=` itself.
fn price(text: &str) -> Option<(String, Price)> {
    let (id, rates) = text.rsplit_once('=')?;
    let rates: Vec<u64> = rates.split('/').map(rate).collect::<Option<_>>()?;
    let [input, output, cache_read, cache_write] = rates[..] else { return None };
    let rates = Rates { input, output, cache_read, cache_write };
    (!id.is_empty()).then(|| (id.to_owned(), Price { rates, long: None }))
}

/// Dollars for a million tokens as nano-dollars a token; finer amounts are refused instead of rounded.
fn rate(text: &str) -> Option<u64> {
    let Usd(nano) = Usd::parse(text)?;
    nano.is_multiple_of(PER_MILLION).then_some(nano / PER_MILLION)
}
