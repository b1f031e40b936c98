//! `torpor keys`: make, list, rotate and end API keys.
//!
//! A server is asked over HTTP: the one that `--url` names, else the one that holds this data folder. Without one the
//! store in the data folder is opened for as long as the command takes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use torpor_core::key::{Changed, Id, Inserted, KeyStore, Rate, Record, Rotation, Scopes, Secret, Wish};
use torpor_core::observe::Nobody;
use torpor_core::{Clock as _, SystemClock, Timestamp, store};
use torpor_server::{MAX_OVERLAP_SECONDS, USUAL_OVERLAP, show_key, show_key_secret};

use crate::cli::{Error, Exit};
use crate::client::{Client, Target};
use crate::stores::{Role, Stores};
use crate::{keys_file, ui};

const DAY: Duration = Duration::from_secs(86_400);

/// Columns of the table, by field and width.
const COLUMNS: [ui::Column; 5] = [
    ("ID", "id", 16),
    ("STATUS", "status", 8),
    ("TENANT", "tenant", 16),
    ("NAME", "name", 20),
    ("SCOPES", "scopes", 0),
];

#[derive(Args)]
#[command(after_help = "\
Examples:
  torpor keys create ci --tenant acme --scope runs:write --scope runs:read --expires-days 90
  torpor keys rotate 3f0c9e… --overlap-seconds 3600
  torpor keys create ci --tenant acme --entry    # for a keys file (TORPOR_API_KEYS_FILE); no store is touched")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    target: Target,
}

#[derive(Subcommand)]
enum What {
    /// Make a key; its secret is printed once and kept nowhere
    #[command(after_help = "\
Examples:
  torpor keys create ci --tenant acme --scope runs:write --scope runs:read --expires-days 90
  torpor keys create ops --every-tenant --scope admin
  torpor keys create ci --tenant acme --entry >> keys.toml")]
    Create(New),
    /// List keys, oldest first, without their secrets
    #[command(after_help = "Example:\n  torpor keys list --tenant acme")]
    List {
        /// Only keys of this tenant
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Give a key a new secret; the one before works on for the overlap
    #[command(after_help = "Example:\n  torpor keys rotate 3f0c9e… --overlap-seconds 3600")]
    Rotate {
        /// The key's id
        id: String,
        /// How long the secret before works on
        #[arg(long, value_name = "N", default_value_t = USUAL_OVERLAP.as_secs(),
              value_parser = clap::value_parser!(u64).range(0..=MAX_OVERLAP_SECONDS))]
        overlap_seconds: u64,
    },
    /// End a key for good, at once
    #[command(after_help = "Example:\n  torpor keys revoke 3f0c9e…")]
    Revoke {
        /// The key's id
        id: String,
    },
}

#[derive(Args)]
struct New {
    /// What people call it
    name: String,
    /// The tenant that it belongs to
    #[arg(long, required_unless_present = "every_tenant", conflicts_with = "every_tenant")]
    tenant: Option<String>,
    /// Make a key for every tenant, for operators
    #[arg(long)]
    every_tenant: bool,
    /// What it may do: runs:write, runs:read, gates:decide, admin (repeat it)
    #[arg(long = "scope", value_name = "SCOPE", default_values = ["runs:write", "runs:read"])]
    scopes: Vec<String>,
    /// End it after so many days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    expires_days: Option<u32>,
    /// Calls a second and calls at once, as `N/BURST` [default: the server's]
    #[arg(long, value_name = "N/BURST")]
    rate: Option<String>,
    /// Print an entry for a keys file instead of storing the key
    #[arg(long)]
    entry: bool,
}

impl New {
    fn wish(&self, now: Timestamp) -> Result<Wish, Error> {
        let scopes = Scopes::parse(self.scopes.iter().map(String::as_str)).map_err(|name| {
            Error::Usage(format!("--scope: {name:?} is not one of runs:write, runs:read, gates:decide, admin"))
        })?;
        let rate = |text: &String| {
            let (n, burst) = text.split_once('/')?;
            Rate::new(n.parse().ok()?, burst.parse().ok()?)
        };
        let wrong = |text: &String| {
            Error::Usage(format!("--rate: expected N/BURST, both from 1 to {}, got {text:?}", Rate::MAX))
        };
        let rate = self.rate.as_ref().map(|text| rate(text).ok_or_else(|| wrong(text))).transpose()?;
        let wish = Wish {
            tenant: self.tenant.clone(),
            name: self.name.clone(),
            scopes,
            rate,
            expires_at: self.expires_days.map(|days| now.after(DAY * days)),
        };
        wish.check().map_err(|(field, why)| Error::Usage(format!("{field}: {why}")))?;
        Ok(wish)
    }
}

pub(crate) fn main(args: &Arguments) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(manage(args))
}

async fn manage(args: &Arguments) -> Result<Exit, Error> {
    let now = SystemClock.now();
    if let What::Create(new) = &args.what
        && new.entry
    {
        let (secret, key) = Record::issue(new.wish(now)?, now);
        let entry = keys_file::entry(&key);
        if args.target.json {
            ui::say!("{:#}", json!({"secret": secret.expose(), "key": show_key(&key, now), "entry": entry}));
        } else {
            print_secret(secret.expose());
            print!("{entry}");
        }
        return Ok(Exit::Success);
    }
    let place = Place::find(args).await?;
    let answer = match &args.what {
        What::Create(new) => place.create(new.wish(now)?, now).await?,
        What::List { tenant } => place.list(tenant.as_deref(), now).await?,
        What::Rotate { id, overlap_seconds } => {
            place.rotate(&checked(id)?, Duration::from_secs(*overlap_seconds), now).await?
        }
        What::Revoke { id } => place.revoke(&checked(id)?, now).await?,
    };
    if args.target.json {
        ui::say!("{answer:#}");
    } else if let Some(secret) = answer["secret"].as_str() {
        print_secret(secret);
        print_key(&answer["key"]);
    } else if let Some(keys) = answer["keys"].as_array() {
        ui::table(&COLUMNS, keys, |key, field| text(field, &key[field]));
        if keys.is_empty() {
            ui::say!("no keys: whoever reaches the server may do everything");
        }
    } else {
        print_key(&answer);
    }
    Ok(Exit::Success)
}

fn checked(id: &str) -> Result<Id, Error> {
    Id::parse(id).ok_or_else(|| Error::Usage(format!("{id:?} is not a key's id; `torpor keys list` shows them")))
}

/// Where the keys are.
enum Place {
    Server(Client),
    Store(Arc<dyn KeyStore>),
}

impl Place {
    async fn find(args: &Arguments) -> Result<Self, Error> {
        if let Some(url) = &args.target.url {
            return Ok(Self::Server(Client::new(url)?));
        }
        let config = args.target.config()?;
        if let Some(client) = Client::owner(&config.data_dir)? {
            return Ok(Self::Server(client));
        }
        let stores = Stores::open(&config, Role::Command, Arc::new(SystemClock), Arc::new(Nobody)).await?;
        crate::runtime::keys(&config, stores.keys).map(Self::Store)
    }

    async fn create(&self, wish: Wish, now: Timestamp) -> Result<Value, Error> {
        match self {
            Self::Server(client) => {
                let mut body = Map::new();
                body.insert("name".into(), json!(wish.name));
                body.insert("scopes".into(), json!(wish.scopes.names().collect::<Vec<_>>()));
                match &wish.tenant {
                    Some(tenant) => body.insert("tenant".into(), json!(tenant)),
                    None => body.insert("everyTenant".into(), json!(true)),
                };
                if let Some(end) = wish.expires_at {
                    body.insert("expiresAt".into(), json!(end.rfc3339()));
                }
                if let Some(rate) = wish.rate {
                    body.insert("rate".into(), json!({"perSecond": rate.per_second, "burst": rate.burst}));
                }
                client.post("/keys", &body.into()).await?.success()
            }
            Self::Store(keys) => {
                let (secret, key) = Record::issue(wish, now);
                match keys.insert(key.clone()).await.map_err(said)? {
                    Inserted::Created => Ok(show_key_secret(&key, &secret, now)),
                    Inserted::Full => Err(Error::Usage("there are as many keys as there may be".into())),
                    Inserted::Taken => Err(Error::Unavailable("the key could not be made; try again".into())),
                }
            }
        }
    }

    async fn list(&self, tenant: Option<&str>, now: Timestamp) -> Result<Value, Error> {
        match self {
            // Filtered here, so that a tenant's name needs no escaping.
            Self::Server(client) => {
                let mut body = client.get("/keys").await?.success()?;
                if let (Some(keys), Some(tenant)) = (body["keys"].as_array_mut(), tenant) {
                    keys.retain(|key| key["tenant"] == tenant);
                }
                Ok(body)
            }
            Self::Store(keys) => {
                let all = keys.keys(None).await.map_err(said)?.map(|all| all.keys).unwrap_or_default();
                let wanted = all.iter().filter(|k| tenant.is_none_or(|t| k.tenant.as_deref() == Some(t)));
                Ok(json!({"keys": wanted.map(|k| show_key(k, now)).collect::<Vec<_>>()}))
            }
        }
    }

    async fn rotate(&self, id: &Id, overlap: Duration, now: Timestamp) -> Result<Value, Error> {
        match self {
            Self::Server(client) => {
                let body = json!({"overlapSeconds": overlap.as_secs()});
                client.post(&format!("/keys/{id}/rotate"), &body).await?.success()
            }
            Self::Store(keys) => {
                let secret = Secret::generate(id);
                let rotation = Rotation { digest: secret.digest(), at: now, overlap_until: now.after(overlap) };
                let key = changed(keys.rotate(id, rotation).await.map_err(said)?)?;
                Ok(show_key_secret(&key, &secret, now))
            }
        }
    }

    async fn revoke(&self, id: &Id, now: Timestamp) -> Result<Value, Error> {
        match self {
            Self::Server(client) => client.delete(&format!("/keys/{id}")).await?.success(),
            Self::Store(keys) => Ok(show_key(&*changed(keys.revoke(id, now).await.map_err(said)?)?, now)),
        }
    }
}

fn changed(changed: Changed) -> Result<Box<Record>, Error> {
    match changed {
        Changed::Done(key) => Ok(key),
        Changed::Unknown => Err(Error::Usage("there is no key with this id; `torpor keys list` shows them".into())),
        Changed::Refused(why) => Err(Error::Usage(format!("this key cannot be changed: {why}"))),
    }
}

fn said(e: store::Error) -> Error {
    if e.is_retryable() { Error::Unavailable(e.to_string()) } else { Error::Other(anyhow::anyhow!("{e}")) }
}

/// The secret alone on standard output's first line, the words around it elsewhere.
fn print_secret(secret: &str) {
    eprintln!("{}", ui::Paint::err().dim("This is the only time that the secret is shown:"));
    ui::say!("{secret}");
}

fn print_key(key: &Value) {
    let Some(fields) = key.as_object() else { return };
    for (name, value) in fields {
        eprintln!("{} {}", ui::Paint::err().dim(&format!("{name:<12}")), ui::harmless(&text(name, value)));
    }
}

fn text(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null if name == "tenant" => "(every tenant)".to_owned(),
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
