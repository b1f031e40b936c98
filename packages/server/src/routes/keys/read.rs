//! What the bodies of `/keys` may say.
//!
//! Owns: the fields and the words for what is wrong with them. Must not know: who asks.

use std::time::Duration;

use serde_json::{Map, Value};
use torpor_core::Timestamp;
use torpor_core::envelope;
use torpor_core::key::{Rate, Scope, Scopes, Wish};
use torpor_core::problem::Code;

use crate::problem::Problem;

/// The longest overlap of a rotation, in seconds: 30 days.
pub const MAX_OVERLAP_SECONDS: u64 = 30 * 86_400;

/// The most unknown fields that are named in one answer.
const MAX_NAMED: usize = 20;

/// A new key, as asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) wish: Wish,
    pub(super) every_tenant: bool,
}

/// The fields of a body, with what was wrong with them.
struct Fields {
    left: Map<String, Value>,
    problems: Vec<envelope::Problem>,
}

impl Fields {
    fn new(body: Value) -> Result<Self, Problem> {
        match body {
            Value::Object(left) => Ok(Self { left, problems: Vec::new() }),
            _ => Err(Problem::field(Code::RequestInvalid, "body", "must be a JSON object")),
        }
    }

    fn problem(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(envelope::Problem { field: field.to_owned(), message: message.into() });
    }

    /// The field as `read` understands it, if it is there and not null.
    fn take<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.left.shift_remove(name).filter(|v| !v.is_null())?;
        let read = read(&value);
        if read.is_none() {
            self.problem(name, format!("must be {expected}"));
        }
        read
    }

    fn finish(mut self) -> Result<(), Problem> {
        let unknown: Vec<String> = self.left.keys().take(MAX_NAMED).cloned().collect();
        for name in unknown {
            self.problem(&name, "is not a known field");
        }
        if self.problems.is_empty() { Ok(()) } else { Err(Problem::fields(Code::RequestInvalid, self.problems)) }
    }
}

/// `{name, scopes, tenant?, everyTenant?, expiresAt?, rate? {perSecond, burst}}`.
pub(super) fn wish(body: Value, now: Timestamp) -> Result<Asked, Problem> {
    let mut fields = Fields::new(body)?;
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let name = fields.take("name", "a string", text);
    if name.is_none() && fields.problems.is_empty() {
        fields.problem("name", "is required: what people call the key");
    }
    let every_tenant = fields.take("everyTenant", "true or false", Value::as_bool).unwrap_or(false);
    let tenant = fields.take("tenant", "a string", text);
    if every_tenant && tenant.is_some() {
        fields.problem("tenant", "must be absent with `everyTenant`");
    }
    let known = format!("an array of at least one of {}", Scope::ALL.map(Scope::as_str).join(", "));
    let before = fields.problems.len();
    let scopes = fields.take("scopes", &known, |v| {
        let names = v.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?;
        Scopes::parse(names).ok().filter(|s| !s.is_empty())
    });
    if scopes.is_none() && fields.problems.len() == before {
        fields.problem("scopes", format!("is required: {known}"));
    }
    let expected = "an RFC 3339 time in the future, such as \"2027-01-31T08:00:00Z\"";
    let expires_at =
        fields.take("expiresAt", expected, |v| v.as_str().and_then(Timestamp::parse_rfc3339).filter(|end| *end > now));
    let rate = fields.take("rate", "an object with `perSecond` and `burst`, integers from 1 to 1000000", |v| {
        let number = |name: &str| v.get(name)?.as_u64().and_then(|n| u32::try_from(n).ok());
        let whole = v.as_object()?.len() == 2;
        whole.then(|| Rate::new(number("perSecond")?, number("burst")?)).flatten()
    });
    let wish = Wish { tenant, name: name.unwrap_or_default(), scopes: scopes.unwrap_or_default(), rate, expires_at };
    if fields.problems.is_empty()
        && let Err((field, why)) = wish.check()
    {
        fields.problem(field, why.to_string());
    }
    fields.finish()?;
    Ok(Asked { wish, every_tenant })
}

/// `{overlapSeconds?}`.
pub(super) fn overlap(body: Value) -> Result<Option<Duration>, Problem> {
    let mut fields = Fields::new(body)?;
    let expected = format!("an integer from 0 to {MAX_OVERLAP_SECONDS}");
    let seconds = fields.take("overlapSeconds", &expected, |v| v.as_u64().filter(|n| *n <= MAX_OVERLAP_SECONDS));
    fields.finish()?;
    Ok(seconds.map(Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    #[test]
    fn a_wish_is_read_whole() {
        let body = json!({
            "name": "ci", "tenant": "t", "scopes": ["runs:read", "runs:write"],
            "expiresAt": "2030-01-01T00:00:00Z", "rate": {"perSecond": 5, "burst": 10},
        });
        let asked = wish(body, NOW).unwrap();
        let want = Wish {
            tenant: Some("t".into()),
            name: "ci".into(),
            scopes: Scopes::of([Scope::RunsRead, Scope::RunsWrite]),
            rate: Rate::new(5, 10),
            expires_at: Timestamp::parse_rfc3339("2030-01-01T00:00:00Z"),
        };
        assert_eq!((asked.wish, asked.every_tenant), (want, false));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = json!({"name": "n", "scopes": ["admin"]});
        for (field, value, expected) in [
            ("name", json!(1), "must be a string"),
            ("name", Value::Null, "is required"),
            ("name", json!("a\nb"), "must not contain control characters"),
            ("scopes", json!([]), "at least one of runs:write"),
            ("scopes", json!(["runs:*"]), "at least one of runs:write"),
            ("scopes", Value::Null, "is required"),
            ("expiresAt", json!("2020-01-01T00:00:00Z"), "in the future"),
            ("rate", json!({"perSecond": 0, "burst": 1}), "integers from 1"),
            ("rate", json!({"perSecond": 1, "burst": 1, "more": 1}), "integers from 1"),
            ("colour", json!("red"), "is not a known field"),
        ] {
            let mut body = good.clone();
            body[field] = value;
            let said = String::from_utf8(wish(body, NOW).unwrap_err().body("/")).unwrap();
            assert!(said.contains(&format!("`{field}` ")) && said.contains(expected), "{field}: {said}");
        }
        assert!(wish(json!([]), NOW).is_err());
        assert!(wish(json!({"name": "n", "scopes": ["admin"], "tenant": "t", "everyTenant": true}), NOW).is_err());
        assert!(overlap(json!({"overlapSeconds": MAX_OVERLAP_SECONDS + 1})).is_err());
        assert_eq!(overlap(json!({})).unwrap(), None);
        assert_eq!(overlap(json!({"overlapSeconds": 0})).unwrap(), Some(Duration::ZERO));
    }
}
