//! Schedule files: JSON or TOML in, a checked [`Schedule`] out, or every problem with its item and field.
//!
//! Owns: the format. Must not know: where a file comes from, or what is done with a schedule.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};
use torpor_core::schedule::{FireId, check_name};
use torpor_core::{Timestamp, envelope, json};

use crate::item::{Item, Post};
use crate::when::When;

#[cfg(test)]
mod tests;

/// Most items of a schedule.
pub const MAX_ITEMS: usize = 1_000;

/// The time zone of a schedule that names none.
const DEFAULT_ZONE: &str = "UTC";

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// TOML.
    Toml,
}

impl Format {
    /// By the name of a file; `None` where that says nothing.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "toml" => Some(Self::Toml),
            _ => None,
        }
    }

    /// By what a text begins with: JSON is an object here, and nothing in TOML begins like one.
    #[must_use]
    pub fn guess(text: &str) -> Self {
        if text.trim_start().starts_with('{') { Self::Json } else { Self::Toml }
    }
}

/// What becomes of fires that were missed while nothing ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// Nothing.
    Skip,
    /// The last one is made up for.
    #[default]
    Once,
    /// All are made up for, oldest first.
    All,
}

impl CatchUp {
    const ALL: [Self; 3] = [Self::Skip, Self::Once, Self::All];

    /// The name used in files and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }
}

/// A schedule that was read and checked.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What it is called: part of the session ids of its runs.
    pub name: String,
    /// Whose runs it makes; `None` leaves it to whoever posts them.
    pub tenant: Option<String>,
    /// When it is due; `None` for one that others fire.
    pub when: Option<When>,
    /// What becomes of missed fires.
    pub catch_up: CatchUp,
    items: Vec<Item>,
}

/// Everything that is wrong with a schedule file, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(pub Vec<String>);

/// All of it on one line.
impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Invalid {}

impl Schedule {
    /// Reads a file. `stem` is what the schedule is called if it does not say so itself.
    ///
    /// # Errors
    /// [`Invalid`] names every item and field that is wrong, unknown or missing.
    pub fn parse(text: &str, format: Format, stem: Option<&str>) -> Result<Self, Invalid> {
        let alone = |e: String| Invalid(vec![e]);
        let value = match format {
            Format::Json => json::parse(text.as_bytes()).map_err(|e| alone(format!("is not JSON: {e}")))?,
            Format::Toml => {
                let table: toml::Table = text.parse().map_err(|e: toml::de::Error| alone(not_toml(text, &e)))?;
                json_of(toml::Value::Table(table))
            }
        };
        let Value::Object(map) = value else {
            return Err(alone("must be an object with `items`".into()));
        };
        let mut wrong = Wrong::default();
        let schedule = read(map, stem, &mut wrong);
        wrong.end()?;
        schedule.check(&FireId::of_minute(Timestamp(0)))?;
        Ok(schedule)
    }

    /// What a fire posts, in the order of the items.
    #[must_use]
    pub fn posts(&self, fire: &FireId) -> Vec<Post> {
        let post = |(i, item): (usize, &Item)| item.post(i + 1, &self.name, self.tenant.as_deref(), fire);
        self.items.iter().enumerate().map(post).collect()
    }

    /// How many items it has.
    #[must_use]
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// Checks what this fire would post, with the code that checks it at the server.
    ///
    /// # Errors
    /// [`Invalid`] names every item and field that is wrong.
    pub fn check(&self, fire: &FireId) -> Result<(), Invalid> {
        let mut wrong = Wrong::default();
        let mut sessions = HashMap::new();
        for post in self.posts(fire) {
            if let Err(envelope::Invalid(problems)) = envelope::parse(post.body) {
                problems.iter().for_each(|p| wrong.item(post.number, &post.name, &p.field, &p.message));
            }
            if let Some(other) = sessions.insert(post.session, post.number) {
                let message = format!("is that of item {other}: every item needs a session of its own");
                wrong.item(post.number, &post.name, "sessionId", &message);
            }
        }
        wrong.end()
    }

    /// Checks every envelope with somebody else's eyes: those of whoever will take them.
    ///
    /// # Errors
    /// [`Invalid`] names every item that `check` refuses, with its words.
    pub fn check_with(&self, check: impl Fn(Value) -> Result<(), String>) -> Result<(), Invalid> {
        let mut wrong = Wrong::default();
        for post in self.posts(&FireId::of_minute(Timestamp(0))) {
            if let Err(e) = check(post.body) {
                wrong.item(post.number, &post.name, "", &e);
            }
        }
        wrong.end()
    }
}

/// Collects what is wrong.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn end(self) -> Result<(), Invalid> {
        if self.0.is_empty() { Ok(()) } else { Err(Invalid(self.0)) }
    }

    fn field(&mut self, field: &str, message: impl fmt::Display) {
        self.0.push(format!("`{field}` {message}"));
    }

    fn item(&mut self, number: usize, name: &str, field: &str, message: &str) {
        let named = if name == number.to_string() { String::new() } else { format!(" ({name})") };
        let field = if field.is_empty() { String::new() } else { format!("`{field}` ") };
        self.0.push(format!("item {number}{named}: {field}{message}"));
    }
}

fn read(map: Map<String, Value>, stem: Option<&str>, wrong: &mut Wrong) -> Schedule {
    let (mut name, mut cron, mut zone, mut tenant, mut catch_up) = (None, None, None, None, CatchUp::default());
    let mut items = None;
    for (field, value) in map {
        let text = || value.as_str().map(str::to_owned);
        let into = match field.as_str() {
            "name" => &mut name,
            "cron" => &mut cron,
            "timezone" => &mut zone,
            "tenant" => &mut tenant,
            "catchUp" => {
                match CatchUp::ALL.into_iter().find(|known| value.as_str() == Some(known.as_str())) {
                    Some(known) => catch_up = known,
                    None => wrong.field(&field, format_args!("must be \"skip\", \"once\" or \"all\", got {value}")),
                }
                continue;
            }
            "items" => {
                items = Some(read_items(value, wrong));
                continue;
            }
            _ => {
                let known = "there are name, cron, timezone, catchUp, tenant and items";
                wrong.field(&field, format_args!("is not a known field; {known}"));
                continue;
            }
        };
        *into = text();
        if into.is_none() {
            wrong.field(&field, "must be a string");
        }
    }
    let items = items.unwrap_or_else(|| {
        wrong.field("items", "is required: the envelopes that every fire posts");
        Vec::new()
    });
    let name = name.or_else(|| stem.map(str::to_owned)).unwrap_or_else(|| {
        wrong.field("name", "is required where no file's name can stand for it");
        "unnamed".into()
    });
    if let Err(e) = check_name(&name) {
        wrong.field("name", format_args!("{e}; got {name:?}"));
    }
    let tenant = one_tenant(tenant, &items, wrong);
    let when = match (cron, zone) {
        (Some(cron), zone) => When::parse(&cron, zone.as_deref().unwrap_or(DEFAULT_ZONE))
            .map_err(|all| all.into_iter().for_each(|(field, e)| wrong.field(field, e)))
            .ok(),
        (None, Some(_)) => {
            wrong.field("timezone", "means nothing without `cron`");
            None
        }
        (None, None) => None,
    };
    Schedule { name, tenant, when, catch_up, items }
}

fn read_items(value: Value, wrong: &mut Wrong) -> Vec<Item> {
    let Value::Array(all) = value else {
        wrong.field("items", "must be an array of envelopes");
        return Vec::new();
    };
    if all.is_empty() {
        wrong.field("items", "must hold at least one envelope");
    }
    if all.len() > MAX_ITEMS {
        wrong.field("items", format_args!("must hold at most {MAX_ITEMS} envelopes, got {}", all.len()));
        return Vec::new();
    }
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut items = Vec::with_capacity(all.len());
    for (i, value) in all.into_iter().enumerate() {
        let number = i + 1;
        let unnamed = number.to_string();
        let Some(item) = Item::read(number, value, |field, e| wrong.item(number, &unnamed, field, &e)) else {
            continue;
        };
        if let Some(other) = names.insert(item.name.clone(), number) {
            wrong.item(number, &item.name, "name", &format!("is that of item {other}"));
        }
        items.push(item);
    }
    items
}

/// The tenant of a schedule: the one that it names, else the one that its items name; all must mean the same.
fn one_tenant(named: Option<String>, items: &[Item], wrong: &mut Wrong) -> Option<String> {
    let theirs: Vec<Option<&str>> = items.iter().map(Item::tenant).collect();
    let meant = named.or_else(|| theirs.iter().flatten().next().map(|t| (*t).to_owned()));
    let other = theirs.iter().flatten().find(|t| Some(**t) != meant.as_deref());
    if let Some(other) = other {
        let meant = meant.as_deref().unwrap_or_default();
        wrong.field("tenant", format_args!("must be one for all items: it is {meant:?}, and one item says {other:?}"));
    }
    meant
}

/// A date becomes the text it was written as: envelopes have times as RFC 3339.
fn json_of(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(n) => n.into(),
        toml::Value::Float(n) => n.into(),
        toml::Value::Boolean(b) => b.into(),
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Array(all) => all.into_iter().map(json_of).collect(),
        toml::Value::Table(table) => Value::Object(table.into_iter().map(|(k, v)| (k, json_of(v))).collect()),
    }
}

/// The parser's words, with the line.
fn not_toml(text: &str, e: &toml::de::Error) -> String {
    let line = e.span().map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
    let place = line.map(|n| format!(" at line {n}")).unwrap_or_default();
    format!("is not TOML: {}{place}", e.message().trim().replace('\n', ", "))
}
