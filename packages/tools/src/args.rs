//! Takes arguments out of a JSON object one by one, collecting everything that is wrong with them.
//!
//! Owns: the wording of argument errors: each names the field and what was expected. Must not know any tool.

use serde_json::{Map, Value};

/// The arguments of one call under inspection. `null` counts as absent.
pub(crate) struct Fields {
    tool: &'static str,
    left: Map<String, Value>,
    known: Vec<&'static str>,
    problems: Vec<String>,
}

impl Fields {
    pub(crate) fn new(tool: &'static str, input: &Value) -> Result<Self, String> {
        match input {
            Value::Object(map) => Ok(Self { tool, left: map.clone(), known: Vec::new(), problems: Vec::new() }),
            other => Err(format!("Invalid arguments for {tool}: expected an object, got {}.", describe(other))),
        }
    }

    /// Whether nothing has been found wrong so far.
    pub(crate) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn problem(&mut self, field: &str, message: impl AsRef<str>) {
        self.problems.push(format!("{field}: {}", message.as_ref()));
    }

    /// Takes a field as it is.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.left.shift_remove(name).filter(|v| !v.is_null())
    }

    fn typed<T>(&mut self, name: &'static str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.take(name)?;
        let read = read(&value);
        if read.is_none() {
            self.problem(name, format!("expected {expected}, got {}", describe(&value)));
        }
        read
    }

    pub(crate) fn string(&mut self, name: &'static str) -> Option<String> {
        self.typed(name, "a string", |v| v.as_str().map(str::to_owned))
    }

    /// A missing one is a problem; the empty string returned then is never seen, because `finish` fails.
    pub(crate) fn required_string(&mut self, name: &'static str) -> String {
        let before = self.problems.len();
        let value = self.string(name);
        if value.is_none() && self.problems.len() == before {
            self.problem(name, "required, expected a string");
        }
        value.unwrap_or_default()
    }

    pub(crate) fn flag(&mut self, name: &'static str) -> bool {
        self.typed(name, "true or false", Value::as_bool).unwrap_or(false)
    }

    /// A whole number; `10.0` is one, `"10"` is not.
    pub(crate) fn count(&mut self, name: &'static str, least: u64) -> Option<u64> {
        let whole = |v: &Value| v.as_u64().or_else(|| v.as_f64().and_then(whole_number)).filter(|n| *n >= least);
        self.typed(name, &format!("a whole number of at least {least}"), whole)
    }

    /// Fails with all problems found, the fields that nobody took included.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        let unknown: Vec<String> = self.left.keys().cloned().collect();
        for name in unknown {
            self.problem(&name, "unknown argument");
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(format!(
            "Invalid arguments for {}: {}. {} takes: {}.",
            self.tool,
            self.problems.join("; "),
            self.tool,
            self.known.join(", ")
        ))
    }
}

/// JSON numbers beyond 2^53 are not exact as floats, and no line or match count comes near.
fn whole_number(n: f64) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked in the same expression
    (n.fract() == 0.0 && (0.0..EXACT).contains(&n)).then_some(n as u64)
}

/// A value in words, short enough for an error text.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_problem_names_its_field_and_what_was_expected() {
        let mut f = Fields::new("t", &json!({"n": 0, "b": "yes", "s": [1], "extra": 1, "gone": null})).unwrap();
        assert_eq!(f.required_string("s"), "");
        f.required_string("must");
        f.count("n", 1);
        f.flag("b");
        assert_eq!(f.string("gone"), None);
        assert_eq!(
            f.finish().unwrap_err(),
            "Invalid arguments for t: s: expected a string, got an array; must: required, expected a string; \
             n: expected a whole number of at least 1, got 0; b: expected true or false, got a string; \
             extra: unknown argument. t takes: s, must, n, b, gone."
        );
    }

    #[test]
    fn a_whole_float_is_a_count_and_nothing_else_is() {
        let cases = [
            (json!(3), Some(3)),
            (json!(3.0), Some(3)),
            (json!(3.5), None),
            (json!(-1), None),
            (json!(1e300), None),
            (json!("3"), None),
        ];
        for (value, expected) in cases {
            let mut f = Fields::new("t", &json!({"n": value})).unwrap();
            assert_eq!(f.count("n", 0), expected, "{value}");
        }
    }

    #[test]
    fn arguments_that_are_no_object_are_refused() {
        let Err(text) = Fields::new("ls", &json!("src")) else { panic!("accepted") };
        assert_eq!(text, "Invalid arguments for ls: expected an object, got a string.");
    }
}
