//! The client side of the HTTP surface, for the commands that talk to a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::cli::{Error, Sources};
use crate::config::{Config, Overrides};
use crate::runtime;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Above the server's own bound for synchronous calls.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// Which server a command asks, and how it prints.
#[derive(Args)]
pub(crate) struct Target {
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Server to ask [default: the one that serves this data folder]
    #[arg(long, value_name = "URL", env = "TORPOR_URL", global = true)]
    pub(crate) url: Option<String>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE", env = "TORPOR_CONFIG", global = true)]
    config: Option<PathBuf>,
}

impl Target {
    /// The configuration, for commands that look for a server by its data folder.
    pub(crate) fn config(&self) -> Result<Config, Error> {
        Ok(Sources::of(self.config.clone()).config(&Overrides::default())?)
    }

    /// A client for the server that is meant.
    pub(crate) fn client(&self) -> Result<Client, Error> {
        if let Some(url) = &self.url {
            return Client::new(url);
        }
        let data_dir = self.config()?.data_dir;
        Client::here(&data_dir)?.ok_or_else(|| {
            let folder = data_dir.display();
            Error::Unavailable(format!("no server runs on {folder}; start `torpor serve`, or give --url"))
        })
    }
}

/// Talks to one server.
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    /// What it shows, as the whole header.
    credential: Option<HeaderValue>,
}

/// A status and a JSON body (null where there was none).
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
}

impl Client {
    /// A client for the server at `base`, with the key in `TORPOR_API_KEY` if there is one.
    pub(crate) fn new(base: &str) -> Result<Self, Error> {
        let base = base.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(Error::Usage(format!("TORPOR_URL: expected http://… or https://…, got {base:?}")));
        }
        let settings = torpor_model::config::Http { connect_timeout: CONNECT_TIMEOUT, ..Default::default() };
        let http = torpor_model::http_client(&settings).map_err(|e| Error::Other(anyhow::anyhow!(e)))?;
        let key = std::env::var("TORPOR_API_KEY").ok().filter(|key| !key.trim().is_empty());
        let credential = key.as_deref().map(|key| bearer(key.trim())).transpose()?;
        Ok(Self { http, base, credential })
    }

    /// A client for the server that holds this data folder, if one does. Without a `TORPOR_API_KEY` it shows the key
    /// that the server left there for whoever can read the folder, and with it all that the server knows.
    pub(crate) fn here(data_dir: &Path) -> Result<Option<Self>, Error> {
        let Some(found) = runtime::published(data_dir) else { return Ok(None) };
        let client = Self::new(&found.url)?;
        Ok(Some(if client.credential.is_some() { client } else { client.showing(&found.key)? }))
    }

    /// A client for the server that holds this data folder, as whoever owns the folder.
    pub(crate) fn owner(data_dir: &Path) -> Result<Option<Self>, Error> {
        let Some(found) = runtime::published(data_dir) else { return Ok(None) };
        Self::new(&found.url)?.showing(&found.key).map(Some)
    }

    /// The same client with another key.
    pub(crate) fn showing(self, key: &str) -> Result<Self, Error> {
        Ok(Self { credential: Some(bearer(key)?), ..self })
    }

    /// The server's address.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Answer, Error> {
        self.call(Method::DELETE, path, None).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Error> {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Error> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).timeout(ANSWER_TIMEOUT);
        if let Some(credential) = &self.credential {
            request = request.header(AUTHORIZATION, credential.clone());
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let unreachable = |e: reqwest::Error| {
            Error::Unavailable(format!(
                "cannot reach {} ({}); is `torpor serve` running there?",
                self.base,
                root_cause(&e)
            ))
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { status, body })
    }
}

fn bearer(key: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| Error::Usage("TORPOR_API_KEY: holds characters that no key has".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Answer {
    /// The body of a success, or the server's own explanation as an error.
    pub(crate) fn success(self) -> Result<Value, Error> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let text = |key: &str| self.body[key].as_str();
        let what = text("detail").or_else(|| text("title")).unwrap_or("no explanation was given");
        let code = text("code").map(|c| format!(" [{c}]")).unwrap_or_default();
        let message = format!("{what}{code} (HTTP {})", self.status.as_u16());
        Err(match self.status.as_u16() {
            503 => Error::Unavailable(message),
            400..500 => Error::Usage(message),
            _ => Error::Other(anyhow::anyhow!(message)),
        })
    }
}

fn root_cause(e: &dyn std::error::Error) -> String {
    let mut cause: &dyn std::error::Error = e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
