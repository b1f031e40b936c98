//! The envelope's field about the result: the JSON Schema that it must fit.
//!
//! Owns: its size and depth, which bound the work of everybody who reads it later. Must not know: what a schema means.

use serde_json::Value;

use super::fields::Fields;

/// Most JSON that an `outputSchema` may hold; it is part of every record, and of every request to the model.
const MAX_SCHEMA_BYTES: usize = 64 * 1024;
/// Deepest nesting of objects and arrays in it.
const MAX_SCHEMA_DEPTH: usize = 64;

/// Reads `outputSchema`.
pub(super) fn schema(f: &mut Fields, beside_item: bool) -> Option<Value> {
    let schema = f.any_object("outputSchema")?;
    if beside_item {
        f.problem("outputSchema", "must not be given beside `item`: a review ends with a verdict");
    }
    let bytes = schema.to_string().len();
    if bytes > MAX_SCHEMA_BYTES {
        f.problem("outputSchema", format!("must be at most {MAX_SCHEMA_BYTES} bytes of JSON, got {bytes}"));
    }
    if is_deeper(&schema, MAX_SCHEMA_DEPTH) {
        f.problem("outputSchema", format!("must not be nested more than {MAX_SCHEMA_DEPTH} levels deep"));
    }
    Some(schema)
}

fn is_deeper(value: &Value, levels: usize) -> bool {
    let Some(left) = levels.checked_sub(1) else { return value.is_object() || value.is_array() };
    match value {
        Value::Object(map) => map.values().any(|v| is_deeper(v, left)),
        Value::Array(items) => items.iter().any(|v| is_deeper(v, left)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::parse;
    use super::*;

    fn problems(envelope: Value) -> String {
        parse(envelope).map(|_| String::new()).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn a_schema_is_an_object_of_bounded_size_and_depth_beside_a_prompt() {
        let good = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let e = parse(json!({"prompt": "x", "outputSchema": good})).unwrap();
        assert_eq!(e.spec.output_schema, Some(good.clone()));

        assert_eq!(
            problems(json!({"prompt": "x", "outputSchema": true})),
            "`outputSchema` must be an object, got true"
        );
        let item = json!({"item_id": "a", "file": "b", "pattern": "c"});
        assert!(problems(json!({"item": item, "outputSchema": good})).contains("must not be given beside `item`"));
        let large = json!({"description": "x".repeat(MAX_SCHEMA_BYTES)});
        assert!(problems(json!({"prompt": "x", "outputSchema": large})).contains("at most 65536 bytes of JSON"));
        let deep = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({"not": inner}));
        assert_eq!(problems(json!({"prompt": "x", "outputSchema": deep(MAX_SCHEMA_DEPTH)})), "");
        assert!(problems(json!({"prompt": "x", "outputSchema": deep(MAX_SCHEMA_DEPTH + 1)})).contains("64 levels"));
    }
}
