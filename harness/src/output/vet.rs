//! Which schemas are taken: those that stand alone, and whose check takes a bounded time whatever the result.
//!
//! A schema is walked as a validator would apply it, every reference taken as if its target stood there. That ends only
//! if nothing refers to itself, and its size is what a check costs for each part of the result.

use serde_json::{Map, Value};

/// Most schemas there may be, with every reference counted as its target.
const MAX_EXPANDED: usize = 10_000;
/// Deepest nesting of schemas, references included.
const MAX_DEPTH: usize = 100;
/// Most patterns, each of which is compiled.
const MAX_PATTERNS: usize = 64;
/// Keywords whose meaning depends on where a schema was come from.
const DYNAMIC: [&str; 4] = ["$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$recursiveAnchor"];
/// The dialects that are read, by the part of their address that tells them apart.
const DIALECTS: [&str; 3] = ["draft-07/", "draft/2019-09/", "draft/2020-12/"];

/// Keywords that hold a schema, a list of them, or schemas by name.
const ONE: [&str; 12] = [
    "items",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
];
const LIST: [&str; 5] = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
const NAMED: [&str; 4] = ["properties", "patternProperties", "dependentSchemas", "dependencies"];

/// Checks a schema.
///
/// # Errors
/// A sentence that names the place and what is wrong.
pub(super) fn check(root: &Value) -> Result<(), String> {
    if let Some(dialect) = root.get("$schema") {
        let known = |text: &str| DIALECTS.iter().any(|d| text.contains(&format!("json-schema.org/{d}schema")));
        if !dialect.as_str().is_some_and(known) {
            return Err(format!(
                "has the `$schema` {dialect}, which is not read here; there are draft-07, 2019-09 and 2020-12"
            ));
        }
    }
    Walk { root, left: MAX_EXPANDED, patterns: MAX_PATTERNS, within: Vec::new() }.schema(root, "", 0)
}

struct Walk<'a> {
    root: &'a Value,
    left: usize,
    patterns: usize,
    /// The references that are being followed.
    within: Vec<&'a str>,
}

impl<'a> Walk<'a> {
    fn schema(&mut self, schema: &'a Value, at: &str, depth: usize) -> Result<(), String> {
        let Some(map) = schema.as_object() else { return Ok(()) }; // what is no schema at all, the compiler refuses
        if depth > MAX_DEPTH {
            return Err(format!("is nested more than {MAX_DEPTH} schemas deep at `{at}`, references included"));
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            format!("stands for more than {MAX_EXPANDED} schemas when every reference counts as its target; use fewer")
        })?;
        if let Some(name) = DYNAMIC.iter().find(|name| map.contains_key(**name)) {
            return Err(format!("uses `{name}` at `{at}/{name}`, which is not supported; use `$ref` and `$defs`"));
        }
        if map.contains_key("$id") && !at.is_empty() {
            return Err(format!("has an `$id` at `{at}/$id`; only the whole schema may have one"));
        }
        let named = map.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
        let patterns = named + usize::from(map.contains_key("pattern"));
        self.patterns = self
            .patterns
            .checked_sub(patterns)
            .ok_or_else(|| format!("has more than {MAX_PATTERNS} patterns, references counted as their targets"))?;
        if let Some(target) = map.get("$ref") {
            self.reference(target, at, depth)?;
        }
        for (key, value) in map {
            let at = || format!("{at}/{}", escaped(key));
            let key = key.as_str();
            match value {
                Value::Object(_) if ONE.contains(&key) => self.schema(value, &at(), depth + 1)?,
                Value::Array(items) if LIST.contains(&key) => {
                    for (i, item) in items.iter().enumerate() {
                        self.schema(item, &format!("{}/{i}", at()), depth + 1)?;
                    }
                }
                Value::Object(named) if NAMED.contains(&key) => {
                    for (name, schema) in named {
                        self.schema(schema, &format!("{}/{}", at(), escaped(name)), depth + 1)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn reference(&mut self, target: &'a Value, at: &str, depth: usize) -> Result<(), String> {
        let refused = |why: &str| Err(format!("has the `$ref` {target} at `{at}/$ref`, {why}"));
        let Some(text) = target.as_str() else { return refused("which is not a string") };
        let Some(path) = text.strip_prefix('#').filter(|p| p.is_empty() || p.starts_with('/')) else {
            return refused("which leads out of the schema; only `#/…` is followed, and nothing is ever fetched");
        };
        if path.contains('%') {
            return refused("which is percent-encoded; write the name as it is");
        }
        let Some(schema) = self.root.pointer(path) else { return refused("which leads nowhere") };
        if path.is_empty() || self.within.contains(&text) || is_within(at, path) {
            return refused("which leads back to itself; write out as many levels as the result needs");
        }
        self.within.push(text);
        self.schema(schema, path, depth + 1)?;
        self.within.pop();
        Ok(())
    }
}

/// Whether a place is the one at `path`, or in it.
fn is_within(at: &str, path: &str) -> bool {
    at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_could_reach_out_or_run_away_is_refused_by_place() {
        let chain = |links: usize| {
            let link = |n: usize| (format!("d{n}"), json!({"$ref": format!("#/$defs/d{}", n + 1)}));
            let mut defs: Map<String, Value> = (0..links).map(link).collect();
            defs.insert(format!("d{links}"), json!({}));
            json!({"$ref": "#/$defs/d0", "$defs": defs})
        };
        let doubling = |levels: usize| {
            let level = |n: usize| {
                let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
                (format!("d{n}"), json!({"allOf": [next, next]}))
            };
            let mut defs: Map<String, Value> = (0..levels).map(level).collect();
            defs.insert(format!("d{levels}"), json!({}));
            json!({"$ref": "#/$defs/d0", "$defs": defs})
        };
        let patterns: Vec<Value> = (0..=MAX_PATTERNS).map(|n| json!({"pattern": format!("a{n}")})).collect();
        for (schema, want) in [
            (json!({"$ref": "https://example.com/s.json"}), "at `/$ref`, which leads out of the schema"),
            (json!({"items": {"$ref": "file:///etc/passwd"}}), "at `/items/$ref`, which leads out of the schema"),
            (json!({"items": {"$ref": "other.json#/a"}}), "nothing is ever fetched"),
            (json!({"$ref": "#name"}), "only `#/…` is followed"),
            (json!({"$ref": "#/$defs/a%20b", "$defs": {"a b": {}}}), "percent-encoded"),
            (json!({"$ref": "#/$defs/none"}), "which leads nowhere"),
            (json!({"properties": {"next": {"$ref": "#"}}}), "at `/properties/next/$ref`, which leads back to itself"),
            (
                json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}}}),
                "at `/$defs/b/not/$ref`, which leads back to itself",
            ),
            (json!({"properties": {"a": {"items": {"$ref": "#/properties/a"}}}}), "leads back to itself"),
            (chain(200), "nested more than 100 schemas deep"),
            (doubling(40), "stands for more than 10000 schemas"),
            (json!({"anyOf": patterns}), "more than 64 patterns"),
            (json!({"not": {"$dynamicRef": "#x"}}), "`/not/$dynamicRef`"),
            (json!({"not": {"$id": "http://x/y"}}), "`/not/$id`"),
            (json!({"$schema": "http://example.com/mine"}), "is not read here"),
        ] {
            let e = check(&schema).unwrap_err();
            assert!(e.contains(want), "{schema}: {e}");
        }
        for fine in [
            json!({}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}),
            json!({"$id": "https://example.com/mine", "$ref": "#/$defs/a", "$defs": {"a": {"const": {"$ref": "x"}}}}),
            json!({"properties": {"$ref": {"type": "string"}, "a~/b": {"items": [{"$ref": "#/properties/$ref"}]}}}),
            chain(50),
            doubling(8),
        ] {
            assert_eq!(check(&fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn what_the_walk_lets_through_the_compiler_sees_without_reaching_out() {
        for (schema, want) in [
            (json!({"type": "objekt"}), "is no JSON Schema that can be used at `/type`"),
            (json!({"pattern": "(?=a)"}), "is no JSON Schema that can be used"),
            (json!({"pattern": "(a{1000}){1000}"}), "is no JSON Schema that can be used"),
            (json!({"properties": []}), "is no JSON Schema that can be used"),
            (json!({"$defs": {"unused": {"$ref": "http://127.0.0.1:1/x"}}}), "is no JSON Schema that can be used"),
        ] {
            let e = super::super::Output::new(&schema).map(drop).unwrap_err();
            assert!(e.contains(want), "{schema}: {e}");
        }
    }
}
