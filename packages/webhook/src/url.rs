//! The URL of a webhook: which ones there may be.
//!
//! Owns: scheme, host, port and form. Must not know: what a name resolves to (that is checked when it is connected to).

use std::net::IpAddr;

use reqwest::Url;

use crate::allow::Allow;

/// Ports below this are those of well-known services, which must not be spoken to in HTTP by mistake or on purpose.
const FIRST_FREE_PORT: u16 = 1_024;
const HTTPS_PORT: u16 = 443;

/// Reads and checks a URL.
///
/// # Errors
/// What is wrong and what was expected. Repeats nothing of the URL, which may hold a secret.
pub(crate) fn check(text: &str, allow: &Allow) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "must be a URL such as https://host/path".to_owned())?;
    // The parser forgives these; a receiver would see another URL than its caller wrote.
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("must be a URL without spaces, control characters or backslashes".to_owned());
    }
    let host = url.host_str().unwrap_or_default();
    if !matches!(url.scheme(), "http" | "https") || host.is_empty() {
        return Err("must begin with https:// and name a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || authority_has_at(text) {
        return Err("must not carry credentials".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must not have a fragment (`#`)".to_owned());
    }
    let named = allow.names(host);
    if url.scheme() == "http" && !named {
        return Err(
            "must begin with https://; http is for hosts that the operator allows (TORPOR_WEBHOOK_ALLOW)".to_owned()
        );
    }
    let port = url.port_or_known_default().unwrap_or_default();
    if port != HTTPS_PORT && port < FIRST_FREE_PORT && !named {
        return Err(format!("must use port {HTTPS_PORT} or one from {FIRST_FREE_PORT} on"));
    }
    if let Some(ip) = literal(&url)
        && !allow.permits(host, ip)
    {
        return Err(
            "must not name a private or special address that the operator does not allow (TORPOR_WEBHOOK_ALLOW)"
                .to_owned(),
        );
    }
    Ok(url)
}

/// The address, if the host is one. The parser has brought every way to write one into the one form.
pub(crate) fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// Also an empty name before the `@`, of which nothing is left after parsing.
fn authority_has_at(text: &str) -> bool {
    let rest = text.split_once(':').map_or(text, |(_, rest)| rest).trim_start_matches('/');
    rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_accepted_or_told_what_is_wrong() {
        let allow = Allow::parse("127.0.0.1, hooks.internal").unwrap();
        for (text, want) in [
            ("https://example.org/x?y=z", None),
            ("https://example.org", None),
            ("https://example.org:8443/", None),
            ("https://93.184.216.34/", None),
            ("https://bücher.example/", None),
            ("http://127.0.0.1:1234/x", None),
            ("http://hooks.internal/", None),
            ("https://hooks.internal:81/", None),
            ("http://0x7f.1/", None), // 127.0.0.1, which is allowed here
            ("", Some("must be a URL")),
            ("example.org/x", Some("must be a URL")),
            ("ftp://example.org/", Some("must begin with https")),
            ("file:///etc/passwd", Some("must begin with https")),
            ("data:text/plain,x", Some("must begin with https")),
            ("http://example.org/", Some("http is for hosts that the operator allows")),
            ("http://127.0.0.2/", Some("http is for hosts")),
            ("https://u:hunter2@example.org/", Some("credentials")),
            ("https://u@example.org/", Some("credentials")),
            ("https://@example.org/", Some("credentials")),
            ("https://:@example.org/", Some("credentials")),
            ("https://example.org/#hunter2", Some("fragment")),
            ("https://example.org:22/", Some("must use port 443")),
            ("https://example.org:0/", Some("must use port 443")),
            ("https://example.org:99999/", Some("must be a URL")),
            ("https://example.org/a b", Some("without spaces")),
            ("https://example.org\\@127.0.0.1/", Some("backslashes")),
            ("https://exa\tmple.org/", Some("without spaces")),
            ("https://10.0.0.1/", Some("private or special")),
            ("https://2130706434/", Some("private or special")),
            ("https://0300.0250.1.1/", Some("private or special")),
            ("https://[::ffff:10.0.0.1]/", Some("private or special")),
            ("https://[::1]/", Some("private or special")),
            ("https://[fe80::1%25eth0]/", Some("must be a URL")),
            ("https://169.254.169.254/latest/meta-data", Some("private or special")),
            ("https://１２７.０.０.２/", Some("private or special")),
        ] {
            match (check(text, &allow), want) {
                (Ok(_), None) => {}
                (Err(e), Some(part)) => {
                    assert!(e.contains(part), "{text}: {e}");
                    assert!(!e.contains("hunter2"), "{text}: {e}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
