//! What the makers of models ask for them.
//!
//! Owns: list prices by model id. Must not know: what is done with them. Operators declare what is missing or what they
//! have agreed on.

use torpor_core::price::{Known, Price, Rates};

/// Above this many input tokens OpenAI's long-context rates hold.
const OPENAI_LONG: u64 = 272_000;

/// Rates in thousandths of a dollar for a million tokens: input, output, cache read, cache write.
const fn rates(input: u64, output: u64, cache_read: u64, cache_write: u64) -> Rates {
    Rates { input, output, cache_read, cache_write }
}

const fn flat(input: u64, output: u64, cache_read: u64, cache_write: u64) -> Price {
    Price { rates: rates(input, output, cache_read, cache_write), long: None }
}

/// A model without a price for writing to the cache: that is input like any other.
const fn plain(input: u64, output: u64, cache_read: u64) -> Price {
    flat(input, output, cache_read, input)
}

/// Beyond [`OPENAI_LONG`]: twice for input and cache, one and a half times for output.
const fn tiered(input: u64, output: u64, cache_read: u64, cache_write: u64) -> Price {
    let long = rates(2 * input, output + output / 2, 2 * cache_read, 2 * cache_write);
    Price { rates: rates(input, output, cache_read, cache_write), long: Some((OPENAI_LONG, long)) }
}

/// List prices for standard processing in US dollars, cache writes for the shortest lifetime, as of 2026-11-20.
/// Source: the makers' price pages (platform.claude.com "Pricing"; developers.openai.com "Pricing") and, where these could
/// not be read, release notes of other projects that had compared theirs with them (September to November 2026).
pub const KNOWN: &[Known] = &[
    ("claude-fable-5-1", flat(10_000, 50_000, 250, 12_500)),
    ("claude-fable-5", flat(10_000, 50_000, 1_000, 12_500)),
    ("claude-mythos-5-1", flat(10_000, 50_000, 250, 12_500)),
    ("claude-mythos-5", flat(10_000, 50_000, 1_000, 12_500)),
    ("claude-opus-5-5", flat(4_000, 20_000, 200, 5_000)),
    ("claude-opus-5", flat(5_000, 25_000, 500, 6_250)),
    ("claude-opus-4-8", flat(5_000, 25_000, 500, 6_250)),
    ("claude-opus-4-7", flat(5_000, 25_000, 500, 6_250)),
    ("claude-opus-4-6", flat(5_000, 25_000, 500, 6_250)),
    ("claude-opus-4-5", flat(5_000, 25_000, 500, 6_250)),
    ("claude-opus-4-1", flat(15_000, 75_000, 1_500, 18_750)),
    ("claude-opus-4-0", flat(15_000, 75_000, 1_500, 18_750)),
    ("claude-opus-4", flat(15_000, 75_000, 1_500, 18_750)),
    ("claude-sonnet-5-5", flat(2_000, 10_000, 100, 2_500)),
    ("claude-sonnet-5", flat(2_000, 10_000, 200, 2_500)),
    ("claude-sonnet-4-6", flat(3_000, 15_000, 300, 3_750)),
    ("claude-sonnet-4-5", flat(3_000, 15_000, 300, 3_750)),
    ("claude-sonnet-4-0", flat(3_000, 15_000, 300, 3_750)),
    ("claude-sonnet-4", flat(3_000, 15_000, 300, 3_750)),
    ("claude-3-7-sonnet", flat(3_000, 15_000, 300, 3_750)),
    ("claude-haiku-5-5", Price { rates: rates(100, 500, 10, 125), long: Some((100_000, rates(500, 2_500, 50, 625))) }),
    ("claude-haiku-4-5", flat(1_000, 5_000, 100, 1_250)),
    ("claude-3-5-haiku", flat(800, 4_000, 80, 1_000)),
    ("gpt-6.1-sol", tiered(2_000, 10_000, 100, 2_500)),
    ("gpt-6.1-terra", tiered(1_000, 5_000, 50, 1_250)),
    ("gpt-6-astra", tiered(10_000, 50_000, 1_000, 12_500)),
    ("gpt-6-sol", tiered(2_000, 10_000, 200, 2_500)),
    ("gpt-6-luna", tiered(100, 500, 10, 125)),
    ("gpt-5.6-sol", tiered(4_000, 20_000, 400, 5_000)),
    ("gpt-5.6-terra", tiered(2_000, 12_000, 200, 2_500)),
    ("gpt-5.6-luna", tiered(200, 1_200, 20, 250)),
    ("gpt-5.5", tiered(5_000, 30_000, 500, 5_000)),
    ("gpt-5.4", tiered(2_500, 15_000, 250, 2_500)),
    ("gpt-5.4-mini", plain(750, 4_500, 75)),
    ("gpt-5.4-nano", plain(200, 1_250, 20)),
    ("gpt-5.3-codex", plain(1_750, 14_000, 175)),
    ("gpt-5.2-codex", plain(1_750, 14_000, 175)),
    ("gpt-5.2", plain(1_750, 14_000, 175)),
    ("gpt-5.1", plain(1_250, 10_000, 125)),
    ("gpt-5-codex", plain(1_250, 10_000, 125)),
    ("gpt-5", plain(1_250, 10_000, 125)),
    ("gpt-5-mini", plain(250, 2_000, 25)),
    ("gpt-5-nano", plain(50, 400, 5)),
    ("gpt-4.1", plain(2_000, 8_000, 500)),
    ("gpt-4.1-mini", plain(400, 1_600, 100)),
    ("gpt-4.1-nano", plain(100, 400, 25)),
    ("gpt-4o", plain(2_500, 10_000, 1_250)),
    ("gpt-4o-mini", plain(150, 600, 75)),
    ("o4-mini", plain(1_100, 4_400, 275)),
    ("o3-mini", plain(1_100, 4_400, 550)),
    ("o3", plain(2_000, 8_000, 500)),
    ("o1", plain(15_000, 60_000, 7_500)),
];

#[cfg(test)]
mod tests {
    use torpor_core::message::Usage;
    use torpor_core::model::Ref;
    use torpor_core::price::{Prices, Usd};

    use super::*;

    #[test]
    fn every_model_is_there_once_and_output_is_the_dearest() {
        for (i, (id, price)) in KNOWN.iter().enumerate() {
            assert!(KNOWN[..i].iter().all(|(other, _)| other != id), "{id} is there twice");
            let r = price.rates;
            assert!(0 < r.cache_read && r.cache_read < r.input && r.input < r.output, "{id}: {r:?}");
            assert!(r.input <= r.cache_write && r.cache_write < r.output, "{id}: {r:?}");
            assert!(price.long.is_none_or(|(_, long)| long.input > r.input && long.output > r.output), "{id}");
        }
    }

    #[test]
    fn a_call_is_priced_by_its_model_and_length() {
        let prices = Prices::new(Default::default(), KNOWN);
        let cost = |name: &str, usage: Usage| prices.of(&Ref::parse(name).unwrap())?.cost(&usage);
        let million = Usage { input: 90_000, output: 10_000, ..Usage::default() };
        assert_eq!(cost("anthropic/claude-opus-4-8", million), Usd::parse("0.70"));
        assert_eq!(cost("anthropic/claude-opus-4-5-20251101", million), Usd::parse("0.70"));
        assert_eq!(cost("anthropic/claude-haiku-5-5", million), Usd::parse("0.014"));
        let longer = Usage { cache_read: 20_000, ..million };
        assert_eq!(cost("anthropic/claude-haiku-5-5", longer), Usd::parse("0.071"));
        assert_eq!(cost("openai/gpt-5.4", million), Usd::parse("0.375"));
        assert_eq!(cost("scripted:/gpt-5.json", million), Usd::parse("0"), "what a file holds is free");
        for unknown in ["anthropic/claude-opus-9", "openai/gpt-5.9", "openai/gpt-oss-120b"] {
            assert_eq!(cost(unknown, million), None, "{unknown}");
        }
    }
}
