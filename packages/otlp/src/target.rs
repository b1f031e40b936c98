//! Where spans go: the standard settings of OpenTelemetry.
//!
//! Owns: reading and checking them. Must not know: where they were said.

use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

/// Where traces are posted, below the endpoint.
const PATH: &str = "v1/traces";

/// Where spans go, and as whose.
#[derive(Clone)]
pub struct Target {
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) service: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers carry credentials, and so may the URL.
        f.debug_struct("Target")
            .field("host", &self.url.host_str())
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// A setting that means nothing. Never repeats a value: it may be a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The endpoint.
    #[error(
        "expected the base URL of a collector, http:// or https://, without credentials (they belong into headers)"
    )]
    Endpoint,
    /// The headers.
    #[error("expected `name=value` pairs separated by `,`, values percent-encoded")]
    Headers,
}

impl Target {
    /// Reads `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_SERVICE_NAME`.
    ///
    /// # Errors
    /// [`Invalid`] says which of them means nothing.
    pub fn parse(endpoint: &str, headers: &str, service: &str) -> Result<Self, Invalid> {
        let mut url = Url::parse(endpoint).map_err(|_| Invalid::Endpoint)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || url.query().is_some() || url.username() != ""
        {
            return Err(Invalid::Endpoint);
        }
        let path = format!("{}/{PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let mut all = HeaderMap::new();
        for pair in headers.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(Invalid::Headers)?;
            let name: HeaderName = name.trim().parse().map_err(|_| Invalid::Headers)?;
            let value = percent_decode(value.trim()).ok_or(Invalid::Headers)?;
            let mut value = HeaderValue::from_bytes(&value).map_err(|_| Invalid::Headers)?;
            value.set_sensitive(true);
            all.append(name, value);
        }
        all.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        Ok(Self { url, headers: all, service: service.to_owned() })
    }
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_opentelemetry_means_them() {
        for (endpoint, url) in [
            ("http://collector:4318", Some("http://collector:4318/v1/traces")),
            ("https://host/prefix/", Some("https://host/prefix/v1/traces")),
            ("collector:4318", None),
            ("unix:///socket", None),
            ("http://host/?key=1", None),
            ("http://user:canary@host/", None),
            ("", None),
        ] {
            let target = Target::parse(endpoint, "", "torpor");
            assert_eq!(target.as_ref().ok().map(|t| t.url.as_str()), url, "{endpoint}: {target:?}");
        }
        let target = Target::parse("http://h", "authorization=Bearer%20canary, x-team = a ,", "s").unwrap();
        assert_eq!(target.headers["authorization"], "Bearer canary");
        assert_eq!(target.headers["x-team"], "a");
        assert!(!format!("{target:?}").contains("canary"), "{target:?}");
        for headers in ["nonsense", "a b=c", "a=%zz", "a=%", "a=%0a"] {
            assert_eq!(Target::parse("http://h", headers, "s").unwrap_err(), Invalid::Headers, "{headers}");
        }
    }
}
