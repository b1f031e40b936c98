//! Webhooks as the configuration asks for them: the file of secrets, and the sender.
//!
//! Owns: the file's format. Must not know: how a message is signed or sent, or when.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::{Table, Value};
use torpor_core::id::DEFAULT_TENANT;
use torpor_core::webhook::MAX_SECRET_NAME_BYTES;
use torpor_core::{Clock, SessionKey};
use torpor_webhook::{ATTEMPT, Secret, Secrets, Sender, Settings};

use crate::cli::Error;
use crate::config::Config;
use crate::watched_file::WatchedFile;

/// Most secrets of a file.
const MAX_SECRETS: usize = 10_000;

/// What sends.
///
/// # Errors
/// [`Error::Usage`] when the file of secrets cannot be read.
pub(crate) fn sender(config: &Config, clock: Arc<dyn Clock>) -> Result<Arc<Sender>, Error> {
    let open = |path| WatchedFile::open("file of webhook secrets", path, |text, _| parse(text));
    let file = config.webhook_secrets_file.as_deref().map(open);
    let file = file.transpose().map_err(|e| Error::Usage(format!("TORPOR_WEBHOOK_SECRETS_FILE: {e}")))?;
    let settings = Settings {
        allow: config.webhook_allow.clone(),
        secrets: Arc::new(OfFile(file)),
        tls: torpor_model::tls,
        attempt: ATTEMPT,
    };
    Ok(Arc::new(Sender::new(settings, clock)))
}

/// The secrets by tenant and name, the current one of each first.
type All = BTreeMap<(String, String), Vec<Secret>>;

/// The secrets of the file, if there is one.
struct OfFile(Option<WatchedFile<All>>);

impl Secrets for OfFile {
    fn find(&self, tenant: &str, name: &str) -> Vec<Secret> {
        let Some(file) = &self.0 else { return Vec::new() };
        file.look().said.get(&(tenant.to_owned(), name.to_owned())).cloned().unwrap_or_default()
    }
}

/// Reads `[[secret]]` tables. No message quotes a value.
fn parse(text: &str) -> Result<All, String> {
    // The parser's own message would quote the line, which may hold a secret.
    let mut root: Table = text.parse().map_err(|e: toml::de::Error| format!("not TOML: {}", e.message()))?;
    let tables = match root.remove("secret") {
        Some(Value::Array(tables)) => tables,
        None => Vec::new(),
        Some(_) => return Err("`secret`: expected tables, each begun by [[secret]]".into()),
    };
    if let Some(name) = root.keys().next() {
        return Err(format!("`{name}`: is not known; there are [[secret]] tables"));
    }
    if tables.len() > MAX_SECRETS {
        return Err(format!("has {} secrets; there may be {MAX_SECRETS}", tables.len()));
    }
    let mut all = All::new();
    for (n, table) in tables.into_iter().enumerate() {
        let Value::Table(table) = table else { return Err("`secret`: expected tables".into()) };
        let (of, secrets) = one(table).map_err(|e| format!("secret {}: {e}", n + 1))?;
        if all.contains_key(&of) {
            return Err(format!("secret {}: its tenant has another one of this `name`", n + 1));
        }
        all.insert(of, secrets);
    }
    Ok(all)
}

fn one(mut table: Table) -> Result<((String, String), Vec<Secret>), String> {
    let mut text = |field: &str| match table.remove(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{field}`: expected a string")),
    };
    let tenant = text("tenant")?.unwrap_or_else(|| DEFAULT_TENANT.to_owned());
    let name = text("name")?.ok_or("`name` is missing")?;
    let value = text("value")?.ok_or("`value` is missing")?;
    let previous = text("previous")?;
    if let Some(field) = table.keys().next() {
        return Err(format!("`{field}`: is not a field; there are tenant, name, value, previous"));
    }
    if let Err(e) = SessionKey::new(&tenant, "any") {
        return Err(format!("`tenant`: {e}"));
    }
    if name.trim().is_empty() || name.len() > MAX_SECRET_NAME_BYTES {
        return Err(format!("`name`: expected 1 to {MAX_SECRET_NAME_BYTES} bytes"));
    }
    let read = |field: &str, text: &str| Secret::parse(text).map_err(|e| format!("`{field}`: {e}"));
    let mut secrets = vec![read("value", &value)?];
    if let Some(previous) = previous {
        secrets.push(read("previous", &previous)?);
    }
    Ok(((tenant, name), secrets))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
[[secret]]
name = \"billing\"
value = \"whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5\"

[[secret]]
tenant = \"a/b\"
name = \"billing\"
value = \"canary, which is long enough\"
previous = \"canary, which is long as well\"
";

    #[test]
    fn secrets_belong_to_one_tenant() {
        let all = parse(GOOD).unwrap();
        let count = |tenant: &str, name: &str| all.get(&(tenant.to_owned(), name.to_owned())).map_or(0, Vec::len);
        assert_eq!((count(DEFAULT_TENANT, "billing"), count("a/b", "billing")), (1, 2));
        assert_eq!((count("other", "billing"), count(DEFAULT_TENANT, "other")), (0, 0));
        assert!(!format!("{all:?}").contains("canary"));
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_without_its_value() {
        for (from, to, want) in [
            ("value = \"whsec_", "value = \"whsec_?", "secret 1: `value`: expected base64"),
            (", which is long enough", "", "secret 2: `value`: expected a key of"),
            ("previous = \"canary", "previous = 7 #", "secret 2: `previous`: expected a string"),
            ("value = \"whsec_", "valu = \"whsec_", "secret 1: `value` is missing"),
            ("name = \"billing\"", "name = \" \"", "secret 1: `name`: expected"),
            ("tenant = \"a/b\"", "tenant = \"\"", "secret 2: `tenant`"),
            ("tenant = \"a/b\"", "", "secret 2: its tenant has another"),
            ("previous = ", "key = ", "secret 2: `key`: is not a field"),
            ("[[secret]]", "[[secrets]]", "`secrets`: is not known"),
            ("[[secret]]", "[[secret", "not TOML"),
        ] {
            let said = parse(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(said.contains(want) && !said.contains("canary"), "{to}: {said}");
        }
    }
}
