//! Tool calls that arrive in pieces.
//!
//! Owns: which piece belongs to which call, though servers leave out indices, repeat ids and names, or give every call
//! the same index. Must not know: the rest of an answer.

use serde_json::{Map, Value};
use torpor_core::message::{Block, StopReason};
use torpor_core::model::Error;

use crate::answer::{self, broken, cut_call, cuts_calls};

/// More calls than any answer has; keeps a broken server from filling the memory with empty ones.
const MAX_CALLS: usize = 1_024;
/// Fields that come whole each time; all other texts grow.
const WHOLE: &[&str] = &["id", "type", "index", "format", "name", "role", "signature"];

/// A call on its way.
#[derive(Debug, Default)]
struct Call {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    /// What the provider has beside it, to be sent back.
    extra: Map<String, Value>,
}

/// The calls of one answer.
#[derive(Debug, Default)]
pub(super) struct Calls(Vec<Call>);

/// What one piece says.
struct Piece<'a> {
    index: Option<u64>,
    id: &'a str,
    name: &'a str,
    arguments: &'a str,
}

impl Piece<'_> {
    /// Whether this goes on with a call, which is the latest one that it could mean.
    fn continues(&self, call: &Call) -> bool {
        if !self.id.is_empty() && !call.id.is_empty() {
            // Another id is another call, even under an index that was there before, unless the id itself comes in
            // pieces.
            let id_grows = call.name.is_empty() && call.arguments.is_empty() && self.name.is_empty();
            return self.id == call.id || (id_grows && self.index.is_some());
        }
        let begins = !self.name.is_empty() && !call.name.is_empty();
        match self.index {
            // With neither id nor index only a name tells where a call begins.
            None => !begins,
            // The same where every call has the same index; a name that is repeated or comes in pieces comes before
            // the arguments are complete.
            Some(_) => !(begins && !self.arguments.is_empty() && is_complete(&call.arguments)),
        }
    }
}

impl Calls {
    /// Takes a piece: an entry of `tool_calls`. `index` is used where the entry has none of its own.
    pub(super) fn add(&mut self, entry: &Map<String, Value>, index: Option<u64>) -> Result<(), Error> {
        let function = entry.get("function").unwrap_or(&Value::Null);
        let text = |of: Option<&Value>| of.and_then(Value::as_str).map(str::to_owned).unwrap_or_default();
        let arguments = match &function["arguments"] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            // Some servers do not write JSON into a text.
            object => object.to_string(),
        };
        let (id, name) = (text(entry.get("id")), text(function.get("name")));
        let index = entry.get("index").and_then(Value::as_u64).or(index);
        let piece = Piece { index, id: &id, name: &name, arguments: &arguments };
        let latest = self.0.iter().rposition(|c| match (index, id.as_str()) {
            (Some(_), _) => c.index == index,
            (None, "") => true,
            (None, id) => c.id == id || c.id.is_empty(),
        });
        let at = match latest {
            Some(at) if piece.continues(&self.0[at]) => at,
            _ if self.0.len() >= MAX_CALLS => return Err(broken("it holds too many tool calls")),
            _ => {
                self.0.push(Call { index, ..Call::default() });
                self.0.len() - 1
            }
        };
        let call = &mut self.0[at];
        for (text, more) in [(&mut call.id, &id), (&mut call.name, &name)] {
            // Repeated whole by some servers, in pieces by others.
            if text != more {
                text.push_str(more);
            }
        }
        call.arguments.push_str(&arguments);
        for (key, value) in
            entry.iter().filter(|(key, _)| !matches!(key.as_str(), "id" | "index" | "type" | "function"))
        {
            grow(&mut call.extra, key, value.clone());
        }
        Ok(())
    }

    /// The calls as blocks, and what the provider has beside them, by id. Calls without an id get one from `answer_id`.
    pub(super) fn close(self, answer_id: &str, stop: StopReason) -> Result<(Vec<Block>, Vec<Value>), Error> {
        let (mut blocks, mut extras) = (Vec::with_capacity(self.0.len()), Vec::new());
        for (n, mut call) in self.0.into_iter().enumerate() {
            let input = match answer::arguments(&call.arguments) {
                Ok(input) => input,
                Err(_) if cuts_calls(stop) => {
                    blocks.push(cut_call(&call.name, stop));
                    continue;
                }
                Err(e) => return Err(e),
            };
            if call.id.is_empty() {
                call.id = format!("call_{answer_id}_{n}");
            }
            if !call.extra.is_empty() {
                call.extra.insert("id".into(), call.id.clone().into());
                extras.push(Value::Object(call.extra));
            }
            blocks.push(answer::tool_use(call.id, call.name, input)?);
        }
        Ok((blocks, extras))
    }
}

fn is_complete(arguments: &str) -> bool {
    serde_json::from_str::<Map<String, Value>>(arguments).is_ok()
}

/// Works a piece of a field into what came before: texts and lists grow, entries of lists that carry an `index` grow
/// each by itself, all else is replaced.
pub(super) fn grow(fields: &mut Map<String, Value>, key: &str, new: Value) {
    match (fields.get_mut(key), new) {
        (_, Value::Null) => {}
        (Some(Value::String(text)), Value::String(more)) if !WHOLE.contains(&key) => text.push_str(&more),
        (Some(Value::Object(object)), Value::Object(more)) => {
            more.into_iter().for_each(|(key, value)| grow(object, &key, value));
        }
        (Some(Value::Array(list)), Value::Array(more)) => {
            for item in more {
                let same = |old: &&mut Value| item["index"].is_number() && old["index"] == item["index"];
                match (list.iter_mut().rev().find(same), item) {
                    (Some(Value::Object(old)), Value::Object(item)) => {
                        item.into_iter().for_each(|(key, value)| grow(old, &key, value));
                    }
                    (_, item) => list.push(item),
                }
            }
        }
        (_, new) => drop(fields.insert(key.to_owned(), new)),
    }
}

#[cfg(test)]
mod tests;
