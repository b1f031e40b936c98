//! A strict reader of Prometheus' text format, version 0.0.4: what it accepts, every scraper accepts.
//!
//! Owns: the grammar, and what makes a page of metrics a good one (a type and a help for everything, names that say their
//! unit, buckets that rise, no series twice). Must not know: which metrics there are.

use std::collections::{BTreeMap, BTreeSet};

/// One number with its labels, which are sorted.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The series' own name, `_bucket` and the like included.
    pub name: String,
    /// Label and value.
    pub labels: BTreeMap<String, String>,
    /// The number.
    pub value: f64,
}

/// A page that was read.
#[derive(Debug, Clone, Default)]
pub struct Exposition {
    /// Name and type of every metric.
    pub types: BTreeMap<String, String>,
    /// Every sample, in order.
    pub samples: Vec<Sample>,
}

impl Exposition {
    /// The sum of all samples of this name whose labels include these; `None` when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |s: &&Sample| s.name == name && labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|x| x == v));
        self.samples.iter().filter(has).map(|s| s.value).reduce(|a, b| a + b)
    }
}

/// Reads a page.
///
/// # Errors
/// The first line that breaks a rule, and the rule.
pub fn read(page: &str) -> Result<Exposition, String> {
    if !page.ends_with('\n') {
        return Err("the last line has no end".into());
    }
    let (mut read, mut helped) = (Exposition::default(), BTreeSet::new());
    let (mut current, mut seen) = (String::new(), BTreeSet::new());
    for line in page.lines() {
        let wrong = |why: &str| format!("{why}: {line:?}");
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').ok_or_else(|| wrong("a help without text"))?;
            if text.trim().is_empty() || !helped.insert(name.to_owned()) {
                return Err(wrong("an empty or second help"));
            }
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').ok_or_else(|| wrong("a type without a name"))?;
            if !helped.contains(name) || read.types.insert(name.to_owned(), kind.to_owned()).is_some() {
                return Err(wrong("a type before its help, or a second one"));
            }
            check_name(name, kind).map_err(|why| wrong(&why))?;
            name.clone_into(&mut current);
        } else {
            let sample = sample(line).map_err(|why| wrong(&why))?;
            let kind = read.types.get(&current).map_or("", String::as_str);
            let suffix =
                sample.name.strip_prefix(current.as_str()).ok_or_else(|| wrong("a sample of another metric"))?;
            let fits = match kind {
                "histogram" => matches!(suffix, "_bucket" | "_sum" | "_count"),
                _ => suffix.is_empty(),
            };
            if !fits {
                return Err(wrong("a sample that does not fit its metric's type"));
            }
            if !seen.insert((sample.name.clone(), format!("{:?}", sample.labels))) {
                return Err(wrong("the same series twice"));
            }
            if kind != "gauge" && (sample.value < 0.0 || !sample.value.is_finite()) {
                return Err(wrong("a count that is no number of 0 or more"));
            }
            read.samples.push(sample);
        }
    }
    check_histograms(&read)?;
    Ok(read)
}

/// What Prometheus' own linter wants of names.
fn check_name(name: &str, kind: &str) -> Result<(), String> {
    let fine = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if !fine || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err("a name that is not snake_case".into());
    }
    if !matches!(kind, "counter" | "gauge" | "histogram") {
        return Err("a type that is not known".into());
    }
    if (kind == "counter") != name.ends_with("_total") {
        return Err("counters, and only they, end in _total".into());
    }
    for unit in ["_milliseconds", "_ms", "_minutes", "_kilobytes", "_kb", "_bucket", "_sum", "_count"] {
        if name.trim_end_matches("_total").ends_with(unit) {
            return Err(format!("a name that ends in {unit}"));
        }
    }
    Ok(())
}

fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, rest) = line.split_at(end);
    let (labels, value) = match rest.strip_prefix('{') {
        None => (BTreeMap::new(), rest),
        Some(rest) => labels(rest)?,
    };
    let value = value.strip_prefix(' ').ok_or("no space before the value")?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        text => text.parse().map_err(|_| "a value that is no number")?,
    };
    Ok(Sample { name: name.to_owned(), labels, value })
}

fn labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, tail) = rest.split_once("=\"").ok_or("a label without a value")?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            return Err(format!("the label {name:?}"));
        }
        let (mut value, mut chars) = (String::new(), tail.char_indices());
        let end = loop {
            match chars.next().ok_or("a label without an end")? {
                (at, '"') => break at,
                (_, '\\') => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c @ ('\\' | '"'))) => value.push(c),
                    _ => return Err("a strange escape".into()),
                },
                (_, c) => value.push(c),
            }
        };
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("the label {name:?} twice"));
        }
        rest = &tail[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok((labels, rest.strip_prefix('}').ok_or("labels without an end")?)),
        }
    }
}

/// Buckets rise to `+Inf`, which is the count.
fn check_histograms(read: &Exposition) -> Result<(), String> {
    for (name, _) in read.types.iter().filter(|(_, kind)| *kind == "histogram") {
        let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for s in read.samples.iter().filter(|s| s.name == format!("{name}_bucket")) {
            let mut labels = s.labels.clone();
            let bound = labels.remove("le").ok_or_else(|| format!("{name}: a bucket without `le`"))?;
            let bound =
                if bound == "+Inf" { f64::INFINITY } else { bound.parse().map_err(|_| format!("le={bound}"))? };
            series.entry(format!("{labels:?}")).or_default().push((bound, s.value));
        }
        for (labels, buckets) in &series {
            let rises = buckets.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1);
            let last = buckets.last().filter(|last| last.0.is_infinite());
            let count =
                read.samples.iter().find(|s| s.name == format!("{name}_count") && format!("{:?}", s.labels) == *labels);
            if !rises || last.map(|l| l.1) != count.map(|c| c.value) {
                return Err(format!("{name}{labels}: buckets that contradict each other: {buckets:?}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# HELP a_total Things.\n# TYPE a_total counter\n";

    #[test]
    fn good_pages_are_read() {
        let page = format!("{HEAD}a_total{{x=\"1\\\"\",y=\"\"}} 2\na_total 3\n");
        let read = read(&page).unwrap();
        assert_eq!(read.samples[0].labels["x"], "1\"");
        assert_eq!((read.sum("a_total", &[]), read.sum("a_total", &[("y", "z")])), (Some(5.0), None));
    }

    #[test]
    fn every_rule_is_insisted_on() {
        for page in [
            "a_total 1\n",
            "# TYPE a_total counter\na_total 1\n",
            "# HELP a Things.\n# TYPE a counter\na 1\n",
            "# HELP a_total Things.\n# TYPE a_total gauge\na_total 1\n",
            "# HELP a_ms Things.\n# TYPE a_ms gauge\na_ms 1\n",
            "# HELP A Things.\n# TYPE A gauge\nA 1\n",
            &format!("{HEAD}a_total 1"),
            &format!("{HEAD}a_total 1\na_total 2\n"),
            &format!("{HEAD}a_total -1\n"),
            &format!("{HEAD}a_total NaN\n"),
            &format!("{HEAD}a_total one\n"),
            &format!("{HEAD}b_total 1\n"),
            &format!("{HEAD}a_total{{x=\"1\"\n"),
            &format!("{HEAD}a_total{{x=\"1\",x=\"2\"}} 1\n"),
            &format!("{HEAD}{HEAD}a_total 1\n"),
            "# HELP h Things.\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
            "# HELP h Things.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n",
        ] {
            assert!(read(page).is_err(), "{page}");
        }
    }
}
