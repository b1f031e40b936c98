//! One item of a schedule, and what a fire makes of it.
//!
//! Owns: the placeholder for the fire's id, and the session that an item's run gets. Must not know: the file's format,
//! or the fields of an envelope beyond those that a schedule decides.

use serde_json::{Map, Value};
use torpor_core::schedule::{FireId, check_name};

/// Stands for the fire's id in any text of an item, at any depth.
pub const PLACEHOLDER: &str = "__FIRE__";

/// An item as it stands in its file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    pub(crate) name: String,
    body: Map<String, Value>,
}

/// What is posted for an item at a fire.
#[derive(Debug, Clone, PartialEq)]
pub struct Post {
    /// Which item it is, counted from 1.
    pub number: usize,
    /// The item's name; its number where it has none.
    pub name: String,
    /// The session of its run: the same at every repetition of the fire, and another at every other fire.
    pub session: String,
    /// The envelope.
    pub body: Value,
}

impl Item {
    /// Reads the item with this number; tells `wrong` of every field that a schedule decides and that is not right. The
    /// fields of the envelope are not looked at.
    pub(crate) fn read(number: usize, value: Value, mut wrong: impl FnMut(&str, String)) -> Option<Self> {
        let Value::Object(mut body) = value else {
            wrong("", "must be an object with the fields of `POST /runs`".into());
            return None;
        };
        body.retain(|_, value| !value.is_null());
        let name = match body.shift_remove("name") {
            None => number.to_string(),
            Some(Value::String(name)) => {
                if let Err(e) = check_name(&name) {
                    wrong("name", format!("{e}; got {name:?}"));
                }
                name
            }
            Some(_) => {
                wrong("name", "must be a string".into());
                number.to_string()
            }
        };
        if body.get("async").is_some_and(|v| *v != Value::Bool(true)) {
            wrong("async", "must be true or absent: nobody waits for the answer to a fire".into());
        }
        if body.contains_key("decision") {
            wrong("decision", "makes no sense here: every fire makes runs of its own".into());
        }
        if body.get("sessionId").and_then(Value::as_str).is_some_and(|id| !id.contains(PLACEHOLDER)) {
            let why = "without it every fire after the first would find the first one's run";
            wrong("sessionId", format!("must contain {PLACEHOLDER}, or be absent: {why}"));
        }
        Some(Self { name, body })
    }

    /// The tenant that it names.
    pub(crate) fn tenant(&self) -> Option<&str> {
        self.body.get("tenant").and_then(Value::as_str)
    }

    /// What a fire posts for it.
    pub(crate) fn post(&self, number: usize, schedule: &str, tenant: Option<&str>, fire: &FireId) -> Post {
        let mut body = self.body.clone();
        body.values_mut().for_each(|value| fill(value, fire.as_str()));
        let own = body.get("sessionId").and_then(Value::as_str).map(str::to_owned);
        // None of the three holds a `/`, so no two items of any two fires share a session.
        let session = own.unwrap_or_else(|| format!("{schedule}/{fire}/{}", self.name));
        body.insert("sessionId".into(), Value::from(session.as_str()));
        body.insert("async".into(), Value::Bool(true));
        if let Some(tenant) = tenant {
            body.insert("tenant".into(), tenant.into());
        }
        Post { number, name: self.name.clone(), session, body: body.into() }
    }
}

/// Puts the fire's id where its placeholder stands.
fn fill(value: &mut Value, fire: &str) {
    match value {
        Value::String(text) if text.contains(PLACEHOLDER) => *text = text.replace(PLACEHOLDER, fire),
        Value::Array(all) => all.iter_mut().for_each(|value| fill(value, fire)),
        Value::Object(map) => map.values_mut().for_each(|value| fill(value, fire)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> (Option<Item>, Vec<String>) {
        let mut wrong = Vec::new();
        let item = Item::read(3, value, |field, why| wrong.push(format!("{field}: {why}")));
        (item, wrong)
    }

    fn fire() -> FireId {
        FireId::new("f1").unwrap()
    }

    #[test]
    fn the_fires_id_reaches_every_depth_and_the_session() {
        let (item, wrong) = read(json!({
            "name": "tests", "prompt": "of __FIRE__ and __FIRE__", "workspaceRef": "/srv/__FIRE__",
            "metadata": {"a": [{"b": ["x__FIRE__y", 7, null]}]}, "tools": ["bash"], "model": null,
        }));
        assert_eq!(wrong, [""; 0]);
        let post = item.unwrap().post(3, "nightly", Some("acme"), &fire());
        assert_eq!((post.number, post.name.as_str(), post.session.as_str()), (3, "tests", "nightly/f1/tests"));
        let want = json!({
            "prompt": "of f1 and f1", "workspaceRef": "/srv/f1", "metadata": {"a": [{"b": ["xf1y", 7, null]}]},
            "tools": ["bash"], "sessionId": "nightly/f1/tests", "async": true, "tenant": "acme",
        });
        assert_eq!(post.body, want);
    }

    #[test]
    fn an_item_without_a_name_is_known_by_its_number_and_may_choose_its_session() {
        let session = |value| read(value).0.unwrap().post(3, "s", None, &fire()).session;
        assert_eq!(session(json!({"prompt": "p"})), "s/f1/3");
        assert_eq!(session(json!({"prompt": "p", "sessionId": "audit-__FIRE__"})), "audit-f1");
    }

    #[test]
    fn what_a_schedule_decides_is_checked() {
        for (value, want) in [
            (json!("prompt"), ": must be an object"),
            (json!({"name": "a/b"}), "name: must be 1 to 64 letters"),
            (json!({"name": 7}), "name: must be a string"),
            (json!({"async": false}), "async: must be true or absent"),
            (json!({"decision": {}}), "decision: makes no sense"),
            (json!({"sessionId": "always"}), "sessionId: must contain __FIRE__"),
        ] {
            let wrong = read(value).1;
            assert!(wrong.len() == 1 && wrong[0].starts_with(want), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn texts_without_the_placeholder_stay_as_they_are(text in "[^_]*", key in ".*") {
            let body = json!({"prompt": text, "metadata": {key: [text, true]}});
            let post = read(body.clone()).0.unwrap().post(1, "s", None, &fire());
            prop_assert_eq!(&post.body["prompt"], &body["prompt"]);
            prop_assert_eq!(&post.body["metadata"], &body["metadata"]);
        }
    }
}
