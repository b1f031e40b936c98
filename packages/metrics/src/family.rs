//! Metrics with labels: a table with one cell for every combination of values there can be.
//!
//! Owns: which values a label may have. A cell is made when it is first counted, and only those are shown; nothing is ever
//! removed. Must not know: what is counted.

use std::sync::OnceLock;

use crate::kinds::Metric;

/// Stands for every value that has no place of its own.
const OTHER: &str = "other";

/// A label with the values it may have.
pub(crate) struct Label {
    name: &'static str,
    /// Filled from the front; what is free may still be taken.
    values: Box<[OnceLock<Box<str>>]>,
}

impl Label {
    /// A label with these values and no more.
    pub(crate) fn of<'a>(name: &'static str, values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut known: Vec<&str> = Vec::new();
        for value in values {
            if !known.contains(&value) {
                known.push(value);
            }
        }
        Self { name, values: known.into_iter().map(|v| OnceLock::from(Box::from(v))).collect() }
    }

    /// A label that takes the first `most` values it meets. For values that this program's source bounds.
    pub(crate) fn open(name: &'static str, most: usize) -> Self {
        Self { name, values: (0..most).map(|_| OnceLock::new()).collect() }
    }

    /// The place of a value; that after the last is everybody else's.
    fn place(&self, value: &str) -> usize {
        let holds = |slot: &OnceLock<Box<str>>| **slot.get_or_init(|| value.into()) == *value;
        self.values.iter().position(holds).unwrap_or(self.values.len())
    }

    fn value(&self, place: usize) -> &str {
        self.values.get(place).and_then(OnceLock::get).map_or(OTHER, |v| v)
    }

    fn places(&self) -> usize {
        self.values.len() + 1
    }
}

/// See the module's page.
pub(crate) struct Family<const N: usize, M: Metric> {
    labels: [Label; N],
    cells: Box<[OnceLock<M>]>,
    shape: M::Shape,
}

impl<const N: usize, M: Metric> Family<N, M> {
    pub(crate) fn new(labels: [Label; N], shape: M::Shape) -> Self {
        let cells = (0..labels.iter().map(Label::places).product()).map(|_| OnceLock::new()).collect();
        Self { labels, cells, shape }
    }

    /// Counts for these values.
    pub(crate) fn with(&self, values: [&str; N], count: impl FnOnce(&M)) {
        let place = |cell, (label, value): (&Label, &str)| cell * label.places() + label.place(value);
        let cell = self.labels.iter().zip(values).fold(0, place);
        if let Some(cell) = self.cells.get(cell) {
            count(cell.get_or_init(|| M::new(self.shape)));
        }
    }

    /// Every cell that was counted in, with its labels.
    pub(crate) fn each(&self, mut show: impl FnMut(&[(&str, &str)], &M)) {
        for (index, cell) in self.cells.iter().enumerate() {
            let Some(metric) = cell.get() else { continue };
            let mut rest = index;
            let mut labels = [("", ""); N];
            for (shown, label) in labels.iter_mut().zip(&self.labels).rev() {
                *shown = (label.name, label.value(rest % label.places()));
                rest /= label.places();
            }
            show(&labels, metric);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Counter;

    #[test]
    fn values_are_bounded_whatever_comes() {
        let family: Family<2, Counter> = Family::new([Label::open("a", 3), Label::of("b", ["x", "y", "x"])], ());
        for n in 0..1_000 {
            family.with([&n.to_string(), ["x", "y", "z"][n % 3]], |c| c.add(1));
        }
        let mut seen = Vec::new();
        family.each(|labels, _| seen.push(format!("{labels:?}")));
        assert_eq!(seen.len(), 3 + 3, "{seen:?}");
        assert!(seen.contains(&r#"[("a", "0"), ("b", "x")]"#.to_owned()), "{seen:?}");
        assert!(seen.contains(&r#"[("a", "2"), ("b", "other")]"#.to_owned()), "{seen:?}");
        assert!(seen.contains(&r#"[("a", "other"), ("b", "other")]"#.to_owned()), "{seen:?}");
    }
}
