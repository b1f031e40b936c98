//! The result of a run with an `outputSchema`: the tool that delivers it, and whether it fits.
//!
//! Owns: the schema as it is compiled, as the model is shown it, and what the model is told of a result that does not
//! fit. Pure: after a crash the same schema and the same arguments give the same answer. Must not know: how often a model
//! may try (the log counts, `finish.rs` decides).

use jsonschema::{PatternOptions, Validator};
use serde_json::{Map, Value, json};
use torpor_core::tool::Spec;

use crate::catalogue::{self, SUBMIT_RESULT};

mod vet;

/// Memory that one compiled pattern of a schema may take, in bytes.
const PATTERN_SIZE: usize = 256 * 1024;
/// Problems that are named to the model at once.
const MAX_PROBLEMS: usize = 10;
/// Most characters of one problem, and of a value that it quotes.
const PROBLEM_CHARS: usize = 300;
const QUOTE_CHARS: usize = 60;

/// What a run must deliver.
pub(crate) struct Output {
    validator: Validator,
    /// Whether the schema has a property of the wrapper's name. Where it has not, `{"result": …}` is always the wrapper,
    /// though a schema that allows further properties would take it for a result.
    has_result: bool,
    spec: Spec,
}

impl Output {
    /// Vets and compiles a schema.
    ///
    /// # Errors
    /// A sentence that names the place in the schema and what is wrong with it.
    pub(crate) fn new(schema: &Value) -> Result<Self, String> {
        vet::check(schema)?;
        // Patterns run in linear time, and nothing is ever fetched.
        let patterns = PatternOptions::regex().size_limit(PATTERN_SIZE);
        let validator = jsonschema::options().offline().with_pattern_options(patterns).build(schema).map_err(|e| {
            let place = e.instance_path().to_string();
            let at = if place.is_empty() { String::new() } else { format!(" at `{place}`") };
            format!("is no JSON Schema that can be used{at}: {}", plain(&e.masked_with("the value").to_string()))
        })?;
        let general = catalogue::find(SUBMIT_RESULT).map(|known| known.tool.spec());
        let (name, description) = general.map_or((SUBMIT_RESULT, ""), |s| (s.name, s.description));
        let has_result = schema.pointer("/properties/result").is_some();
        Ok(Self { validator, has_result, spec: Spec { name, description, schema: arguments(schema) } })
    }

    /// `submit_result` as this run's model is offered it.
    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The result in a call's arguments, if it fits.
    ///
    /// # Errors
    /// What is wrong, on one line, for the model and for people.
    pub(crate) fn read(&self, input: &Value) -> Result<Value, String> {
        let wrapped = match input {
            Value::Object(map) if map.len() == 1 => map.get("result"),
            _ => None,
        };
        // Lenient where models are known to differ: some leave the wrapper out.
        let bare = wrapped.is_none_or(|result| self.has_result && !self.validator.is_valid(result));
        if bare && self.validator.is_valid(input) {
            return Ok(input.clone());
        }
        let Some(result) = wrapped else {
            return Err("the call must have exactly one argument, `result`, which holds the whole result".to_owned());
        };
        if self.validator.is_valid(result) {
            return Ok(result.clone());
        }
        // And some send JSON as text.
        let meant = result.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        if let Some(meant) = meant.filter(|meant| self.validator.is_valid(meant)) {
            return Ok(meant);
        }
        let mut problems: Vec<String> =
            self.validator.iter_errors(result).take(MAX_PROBLEMS + 1).map(problem).collect();
        if problems.len() > MAX_PROBLEMS {
            problems[MAX_PROBLEMS] = "and more".to_owned();
        }
        Err(problems.join("; "))
    }
}

/// One problem: where, what was expected, and what was there if that is short.
fn problem(e: jsonschema::ValidationError<'_>) -> String {
    let place = format!("/result{}", e.instance_path());
    let (expected, value) = (e.masked_with("the value").to_string(), e.instance().to_string());
    let got = if value.chars().count() > QUOTE_CHARS { String::new() } else { format!(", got {value}") };
    plain(&format!("at `{place}`: {expected}{got}"))
}

/// On one line, and not too long.
fn plain(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = line.take(PROBLEM_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The schema of the tool's arguments: an object with the one property `result`.
///
/// Always wrapped, whatever the schema: providers want a plain object at the top of a tool's arguments, without `anyOf`
/// and the like beside it, and a result need not be an object. Definitions move to the top, where references already look
/// for them; other references are made to point to where their target has gone.
fn arguments(schema: &Value) -> Value {
    let mut result = schema.clone();
    let mut top = Map::new();
    top.insert("type".to_owned(), json!("object"));
    if let Some(map) = result.as_object_mut() {
        map.shift_remove("$schema");
        map.shift_remove("$id");
        for name in ["$defs", "definitions"] {
            if let Some(definitions) = map.shift_remove(name) {
                top.insert(name.to_owned(), definitions);
            }
        }
    }
    top.insert("properties".to_owned(), json!({"result": result}));
    top.insert("required".to_owned(), json!(["result"]));
    top.insert("additionalProperties".to_owned(), json!(false));
    let mut arguments = Value::Object(top);
    move_references(&mut arguments);
    arguments
}

/// What is shown only: values in an `enum` that look like references are moved too, and what counts is the original.
fn move_references(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(target) if key == "$ref" => {
                        let hoisted = target.starts_with("#/$defs/") || target.starts_with("#/definitions/");
                        if let Some(path) = target.strip_prefix('#').filter(|_| !hoisted) {
                            *target = format!("#/properties/result{path}");
                        }
                    }
                    other => move_references(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(move_references),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invoice() -> Value {
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "total": {"type": "number", "minimum": 0},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
                "paid": {"$ref": "#/properties/total"},
            },
            "required": ["total", "lines"],
            "additionalProperties": false,
            "$defs": {"line": {"type": "object", "properties": {"sku": {"type": "string", "pattern": "^[A-Z]{2}\\d+$"}},
                "required": ["sku"]}},
        })
    }

    #[test]
    fn a_result_that_fits_is_taken_and_one_that_does_not_is_explained_by_place() {
        let output = Output::new(&invoice()).unwrap();
        let good = json!({"total": 1.5, "lines": [{"sku": "AB12"}]});
        assert_eq!(output.read(&json!({"result": good})), Ok(good.clone()));
        assert_eq!(output.read(&json!({"result": good.to_string()})), Ok(good.clone()), "as JSON in a string");
        assert_eq!(output.read(&good), Ok(good), "without the wrapper");
        for (input, wants) in [
            (json!({"result": {"total": "1", "lines": []}}), &["at `/result/total`: ", "\"number\", got \"1\""][..]),
            (json!({"result": {"total": 1}}), &["at `/result`: \"lines\" is a required property"]),
            (json!({"result": {"total": -1, "lines": [{"sku": "a"}]}}), &["`/result/total`", "`/result/lines/0/sku`"]),
            (json!({"result": {"total": 1, "lines": [], "x": 1}}), &["'x' was unexpected"]),
            (json!({"result": "not JSON"}), &["at `/result`: the value is not of type \"object\", got \"not JSON\""]),
            (json!({"total": 1}), &["exactly one argument, `result`"]),
            (json!({}), &["exactly one argument, `result`"]),
        ] {
            let problem = output.read(&input).unwrap_err();
            assert!(wants.iter().all(|want| problem.contains(want)), "{input}: {problem}");
            assert!(!problem.contains('\n'), "{problem}");
        }
    }

    #[test]
    fn a_wrapper_is_never_taken_for_a_result_unless_it_can_be_one() {
        let lenient = Output::new(&json!({"type": "object", "properties": {"total": {"type": "integer"}}})).unwrap();
        let problem = lenient.read(&json!({"result": {"total": "12"}})).unwrap_err();
        assert!(problem.contains("at `/result/total`"), "{problem}");
        assert_eq!(lenient.read(&json!({"total": 12})), Ok(json!({"total": 12})));

        let own = json!({"type": "object", "properties": {"result": {"type": "integer"}}, "required": ["result"]});
        let nested = Output::new(&own).unwrap();
        assert_eq!(nested.read(&json!({"result": 5})), Ok(json!({"result": 5})));
        assert_eq!(nested.read(&json!({"result": {"result": 5}})), Ok(json!({"result": 5})));
    }

    #[test]
    fn many_and_long_problems_stay_short() {
        let output = Output::new(&json!({"type": "array", "items": {"type": "integer"}})).unwrap();
        let wrong: Vec<String> = (0..500).map(|_| "x".repeat(10_000)).collect();
        let problem = output.read(&json!({"result": wrong})).unwrap_err();
        assert!(problem.ends_with("; and more") && problem.len() < (MAX_PROBLEMS + 1) * 400, "{problem}");
    }

    #[test]
    fn the_model_is_shown_an_object_whose_references_lead_somewhere() {
        let shown = &Output::new(&invoice()).unwrap().spec.schema;
        assert_eq!((&shown["type"], &shown["required"]), (&json!("object"), &json!(["result"])));
        assert_eq!(shown["$defs"]["line"]["required"], json!(["sku"]));
        let result = &shown["properties"]["result"];
        assert_eq!(result["properties"]["lines"]["items"]["$ref"], "#/$defs/line");
        assert_eq!(result["properties"]["paid"]["$ref"], "#/properties/result/properties/total");
        assert!(result.get("$schema").is_none() && result.get("$defs").is_none());
        // It means the same: what fits the one fits the other.
        let wrapped = jsonschema::validator_for(shown).unwrap();
        assert!(wrapped.is_valid(&json!({"result": {"total": 1, "lines": [{"sku": "AB1"}]}})));
        assert!(!wrapped.is_valid(&json!({"result": {"total": 1, "lines": [{}]}})));
    }
}
