//! Placeholders in a script's strings.
//!
//! Owns: which there are and how they are filled. Must not know: where a string stands.
//! What is filled in is not looked at again, and `{{anything_else}}` stays as it is: commands may use braces.

use serde_json::Value;

const MARKER: &str = "item_id=\"";

/// What the placeholders stand for.
#[derive(Debug)]
pub(super) struct Values<'a> {
    prompt: &'a str,
    item_id: Option<&'a str>,
    last_result: Option<&'a str>,
}

impl<'a> Values<'a> {
    /// Takes `item_id` from `item_id="…"` in the prompt.
    pub(super) fn new(prompt: &'a str, last_result: Option<&'a str>) -> Self {
        let item_id = prompt.split_once(MARKER).and_then(|(_, rest)| rest.split_once('"')).map(|(id, _)| id);
        Self { prompt, item_id, last_result }
    }

    /// A string with its placeholders filled; an error if one has nothing to stand for.
    pub(super) fn text(&self, template: &str) -> Result<String, String> {
        let (mut out, mut rest) = (String::with_capacity(template.len()), template);
        while let Some(at) = rest.find("{{") {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let named = [
                ("{{prompt}}", Some(self.prompt), ""),
                ("{{item_id}}", self.item_id, "the last user message holds no item_id=\"…\""),
                ("{{last_result}}", self.last_result, "no tool has answered yet"),
            ];
            match named.into_iter().find(|(name, ..)| rest.starts_with(name)) {
                Some((name, value, missing)) => {
                    out.push_str(value.ok_or_else(|| format!("the script uses {name}, but {missing}"))?);
                    rest = &rest[name.len()..];
                }
                None => {
                    out.push('{');
                    rest = &rest[1..];
                }
            }
        }
        Ok(out + rest)
    }

    /// A value with the placeholders in all its strings filled; keys stay as they are.
    pub(super) fn value(&self, template: &Value) -> Result<Value, String> {
        Ok(match template {
            Value::String(s) => Value::String(self.text(s)?),
            Value::Array(items) => items.iter().map(|v| self.value(v)).collect::<Result<_, _>>()?,
            Value::Object(fields) => {
                fields.iter().map(|(k, v)| Ok((k.clone(), self.value(v)?))).collect::<Result<_, String>>()?
            }
            other => other.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn placeholders_are_filled_everywhere_and_once() {
        let values = Values::new("check item_id=\"a-7\" {{last_result}}", Some("42 {{prompt}}"));
        let cases = [
            ("{{item_id}}", "a-7"),
            ("<{{last_result}}>", "<42 {{prompt}}>"),
            ("{{prompt}}!", "check item_id=\"a-7\" {{last_result}}!"),
            ("{{{item_id}}} {{other}} {{ item_id }} {{", "{a-7} {{other}} {{ item_id }} {{"),
        ];
        for (template, expected) in cases {
            assert_eq!(values.text(template).unwrap(), expected, "{template}");
        }
        let nested = values.value(&json!({"a": ["{{item_id}}", 1, null], "{{item_id}}": {"b": "x"}}));
        assert_eq!(nested.unwrap(), json!({"a": ["a-7", 1, null], "{{item_id}}": {"b": "x"}}));
    }

    #[test]
    fn a_placeholder_without_a_value_is_named() {
        let values = Values::new("item_id=\"never ends", None);
        for name in ["{{item_id}}", "{{last_result}}"] {
            assert!(values.text(name).unwrap_err().contains(name));
        }
    }
}
