//! The client side of the HTTP surface, for the commands that talk to a server: finding it, keys, addresses, errors.
//! Must not know: what is asked, or how it is shown.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;

use crate::cli::{Error, Sources};
use crate::config::{Config, Overrides};
use crate::runtime;

pub(crate) mod events;
mod problem;
mod transfer;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Above the server's own bound for synchronous calls.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// Which server a command asks, and how it prints.
#[derive(Args)]
pub(crate) struct Target {
    /// Print JSON, for machines
    #[arg(long, global = true, help_heading = "Common options")]
    pub(crate) json: bool,
    /// Server to ask [default: the one that serves this data folder]
    #[arg(long, value_name = "URL", env = "TORPOR_URL", global = true, help_heading = "Common options")]
    pub(crate) url: Option<String>,
    /// TOML file with settings; it may name the data folder
    #[arg(long, value_name = "FILE", env = "TORPOR_CONFIG", global = true, help_heading = "Common options")]
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
        Client::here(&data_dir)?.ok_or_else(|| nobody(&data_dir))
    }
}

fn nobody(data_dir: &Path) -> Error {
    let folder = data_dir.display();
    Error::Unavailable(format!("no server runs on {folder}; start `torpor serve`, or give --url (or TORPOR_URL)"))
}

/// Talks to one server.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    /// What it shows, as the whole header.
    credential: Option<HeaderValue>,
    /// The data folder that the server was found by.
    folder: Option<PathBuf>,
    /// Whether the server goes when this command ends.
    passing: bool,
}

/// A status and a JSON body (null where there was none).
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
    /// After so many seconds it may be tried again.
    pub(crate) retry_after: Option<u64>,
}

impl Client {
    /// A client for the server at `base`, with the key in `TORPOR_API_KEY` if there is one.
    pub(crate) fn new(base: &str) -> Result<Self, Error> {
        let base = base.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") || Url::parse(&base).is_err() {
            let expected = "expected http://HOST:PORT or https://HOST";
            return Err(Error::Usage(format!("--url (or TORPOR_URL): {expected}, got {base:?}")));
        }
        let settings = torpor_model::config::Http { connect_timeout: CONNECT_TIMEOUT, ..Default::default() };
        let http = torpor_model::http_client(&settings).map_err(|e| Error::Other(anyhow::anyhow!(e)))?;
        let key = std::env::var("TORPOR_API_KEY").ok().filter(|key| !key.trim().is_empty());
        let credential = key.as_deref().map(|key| bearer(key.trim())).transpose()?;
        Ok(Self { http, base, credential, folder: None, passing: false })
    }

    /// A client for the server that holds this data folder, if one does. Without a `TORPOR_API_KEY` it shows the key
    /// that the server left there for whoever can read the folder, and with it all that the server knows.
    pub(crate) fn here(data_dir: &Path) -> Result<Option<Self>, Error> {
        let Some(found) = runtime::published(data_dir) else { return Ok(None) };
        let client = Self { folder: Some(data_dir.to_owned()), ..Self::new(&found.url)? };
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

    /// The same client, of a server that goes when this command ends.
    pub(crate) fn passing(self) -> Self {
        Self { passing: true, ..self }
    }

    /// Whether the server goes when this command ends.
    pub(crate) fn is_passing(&self) -> bool {
        self.passing
    }

    /// The same server, after it went away: one that was found by its data folder may be back at another address.
    pub(crate) fn again(&self) -> Result<Self, Error> {
        match &self.folder {
            Some(folder) => Self::here(folder)?.ok_or_else(|| nobody(folder)),
            None => Ok(self.clone()),
        }
    }

    /// The server's address.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Answer, Error> {
        self.call(Method::DELETE, path, None, ANSWER_TIMEOUT).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Error> {
        self.call(Method::GET, path, None, ANSWER_TIMEOUT).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        self.call(Method::POST, path, Some(body), ANSWER_TIMEOUT).await
    }

    /// As [`Client::post`], for an answer that comes soon or not at all.
    pub(crate) async fn post_within(&self, path: &str, body: &Value, limit: Duration) -> Result<Answer, Error> {
        self.call(Method::POST, path, Some(body), limit).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>, limit: Duration) -> Result<Answer, Error> {
        let mut request = self.request(method, path).timeout(limit);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        self.read(response).await
    }

    async fn read(&self, response: reqwest::Response) -> Result<Answer, Error> {
        let (status, retry_after) = (response.status(), seconds(response.headers()));
        let bytes = response.bytes().await.map_err(|e| self.unreachable(&e))?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { status, body, retry_after })
    }

    /// A request with everything that all have.
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.credential {
            Some(credential) => request.header(AUTHORIZATION, credential.clone()),
            None => request,
        }
    }

    fn unreachable(&self, e: &reqwest::Error) -> Error {
        let (base, cause) = (&self.base, root_cause(e));
        Error::Unavailable(format!("cannot reach {base} ({cause}); is `torpor serve` running there?"))
    }
}

/// A path of these segments with these parameters, whatever characters they hold.
pub(crate) fn path(segments: &[&str], parameters: &[(&str, Option<&str>)]) -> String {
    let Ok(mut url) = Url::parse("http://any/") else { return String::new() };
    if let Ok(mut path) = url.path_segments_mut() {
        // `.` and `..` would be taken as ways, not as names; spelled out they are names no server has.
        let name = |segment: &&str| if matches!(*segment, "." | "..") { "%2E" } else { *segment }.to_owned();
        path.clear().extend(segments.iter().map(name));
    }
    let mut given = parameters.iter().filter_map(|(name, value)| Some((name, (*value)?))).peekable();
    if given.peek().is_some() {
        url.query_pairs_mut().extend_pairs(given);
    }
    let query = url.query().map(|q| format!("?{q}")).unwrap_or_default();
    format!("{}{query}", url.path())
}

fn seconds(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

fn bearer(key: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| Error::Usage("TORPOR_API_KEY: holds characters that no key has".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Answer {
    /// The body of a success, or the server's own explanation as an error that says what to do next.
    pub(crate) fn success(self) -> Result<Value, Error> {
        if self.status.is_success() { Ok(self.body) } else { Err(problem::error(&self)) }
    }
}

fn root_cause(e: &dyn std::error::Error) -> String {
    let mut cause: &dyn std::error::Error = e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds_fit_into_a_path() {
        let session = path(&["sessions", "a/b c?#ü%", "log"], &[("tenant", Some("x&y=z")), ("after", None)]);
        assert_eq!(session, "/sessions/a%2Fb%20c%3F%23%C3%BC%25/log?tenant=x%26y%3Dz");
        assert_eq!(path(&["sessions", ".."], &[]), "/sessions/%252E");
        assert_eq!(path(&["runs"], &[]), "/runs");
    }
}
