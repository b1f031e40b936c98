//! What is said about a set of samples.
//!
//! Owns: the arithmetic. Must not know: what was sampled.

use serde::Serialize;

/// A set of samples in short.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many.
    pub(crate) n: usize,
    /// The middle one; the mean of the middle two.
    pub(crate) median: f64,
    /// Mean.
    pub(crate) mean: f64,
    /// Smallest.
    pub(crate) min: f64,
    /// 95th percentile.
    pub(crate) p95: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
    /// Largest.
    pub(crate) max: f64,
}

impl Summary {
    /// `None` without samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let n = sorted.len();
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let (p95, p99) = (percentile(&sorted, 95), percentile(&sorted, 99));
        Some(Self { n, median: f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]), mean, min, p95, p99, max })
    }
}

/// The smallest sample that at least `percent` of all do not exceed (nearest rank). `sorted` is not empty.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len());
    sorted[rank - 1]
}

/// The median, or not a number.
pub(crate) fn median(samples: &[f64]) -> f64 {
    Summary::of(samples).map_or(f64::NAN, |s| s.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_of_the_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let s = Summary::of(&hundred).unwrap();
        assert_eq!((s.n, s.median, s.mean), (100, 50.5, 50.5));
        assert_eq!((s.min, s.p95, s.p99, s.max), (1.0, 95.0, 99.0, 100.0));
    }

    #[test]
    fn few_samples_make_sense_too() {
        assert_eq!(Summary::of(&[]), None);
        assert!(median(&[]).is_nan());
        let one = Summary::of(&[7.0]).unwrap();
        assert_eq!((one.median, one.min, one.p95, one.p99, one.max), (7.0, 7.0, 7.0, 7.0, 7.0));
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
