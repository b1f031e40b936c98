//! Takes fields out of a JSON object one by one, collecting what is wrong; what is left at the end is unknown.

use serde_json::{Map, Value};

use super::{Problem, id_problem};
use crate::clock::Timestamp;
use crate::price::Usd;

/// The object under inspection.
pub(super) struct Fields {
    left: Map<String, Value>,
    prefix: String,
    problems: Vec<Problem>,
}

impl Fields {
    pub(super) fn new(map: Map<String, Value>, prefix: impl Into<String>) -> Self {
        Self { left: map, prefix: prefix.into(), problems: Vec::new() }
    }

    /// Whether nothing has been found wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn problem(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(Problem { field: format!("{}{field}", self.prefix), message: message.into() });
    }

    /// Takes over what a nested object found.
    pub(super) fn absorb(&mut self, inner: Self) {
        self.problems.extend(inner.finish());
    }

    /// Everything found, the fields that nobody took included.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        let unknown: Vec<String> = self.left.keys().cloned().collect();
        for name in unknown {
            self.problem(&name, "is not a known field");
        }
        self.problems
    }

    /// The field, if it is there and not null.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.shift_remove(name).filter(|v| !v.is_null())
    }

    /// Takes a field through `read`; a value that `read` does not accept is reported as not being `expected`.
    fn typed<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(Value) -> Result<T, Value>) -> Option<T> {
        match read(self.take(name)?) {
            Ok(v) => Some(v),
            Err(v) => {
                self.problem(name, format!("must be {expected}, got {}", describe(&v)));
                None
            }
        }
    }

    pub(super) fn refuse(&mut self, name: &str, why: &str) {
        if self.take(name).is_some() {
            self.problem(name, why);
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.typed(name, "a string", |v| match v {
            Value::String(s) => Ok(s),
            other => Err(other),
        })
    }

    pub(super) fn required_text(&mut self, name: &str) -> Option<String> {
        let before = self.problems.len();
        match self.text(name) {
            Some(s) if !s.trim().is_empty() => Some(s),
            Some(_) => {
                self.problem(name, "must not be blank");
                None
            }
            None => {
                if self.problems.len() == before {
                    self.problem(name, "is required");
                }
                None
            }
        }
    }

    pub(super) fn id(&mut self, name: &str) -> Option<String> {
        let id = self.text(name)?;
        if let Some(message) = id_problem(&id) {
            self.problem(name, message);
            return None;
        }
        Some(id)
    }

    pub(super) fn boolean(&mut self, name: &str) -> Option<bool> {
        self.typed(name, "true or false", |v| v.as_bool().ok_or(v))
    }

    pub(super) fn integer(&mut self, name: &str, min: u64, max: u64) -> Option<u64> {
        let expected = if max >= u64::from(u32::MAX) {
            format!("an integer of at least {min}")
        } else {
            format!("an integer from {min} to {max}")
        };
        self.typed(name, &expected, |v| v.as_u64().filter(|n| (min..=max).contains(n)).ok_or(v))
    }

    pub(super) fn dollars(&mut self, name: &str, max: u32) -> Option<Usd> {
        let range = Usd(1)..=Usd(u64::from(max) * 1_000_000_000);
        self.typed(name, &format!("a number of dollars above 0 and at most {max}"), |v| {
            v.as_f64().and_then(Usd::from_number).filter(|usd| range.contains(usd)).ok_or(v)
        })
    }

    pub(super) fn signed(&mut self, name: &str, min: i64, max: i64) -> Option<i64> {
        let expected = format!("an integer from {min} to {max}");
        self.typed(name, &expected, |v| v.as_i64().filter(|n| (min..=max).contains(n)).ok_or(v))
    }

    pub(super) fn strings(&mut self, name: &str) -> Option<Vec<String>> {
        self.typed(name, "an array of strings", |v| {
            let all = v.as_array().and_then(|a| a.iter().map(|s| s.as_str().map(str::to_owned)).collect());
            all.ok_or(v)
        })
    }

    pub(super) fn array(&mut self, name: &str) -> Option<Vec<Value>> {
        self.typed(name, "an array", |v| match v {
            Value::Array(a) => Ok(a),
            other => Err(other),
        })
    }

    pub(super) fn object(&mut self, name: &str) -> Option<Map<String, Value>> {
        self.typed(name, "an object", |v| match v {
            Value::Object(m) => Ok(m),
            other => Err(other),
        })
    }

    pub(super) fn any_object(&mut self, name: &str) -> Option<Value> {
        self.object(name).map(Value::Object)
    }

    pub(super) fn timestamp(&mut self, name: &str) -> Option<Timestamp> {
        self.typed(name, "an RFC 3339 time such as \"2027-01-31T08:00:00Z\"", |v| {
            v.as_str().and_then(Timestamp::parse_rfc3339).ok_or(v)
        })
    }
}

/// The value in a few characters, for a message.
pub(super) fn describe(v: &Value) -> String {
    match v {
        Value::Object(_) => "an object".into(),
        Value::Array(_) => "an array".into(),
        Value::String(s) if s.chars().count() > 40 => "a long string".into(),
        other => other.to_string(),
    }
}
