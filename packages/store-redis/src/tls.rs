//! TLS to `rediss://`: who vouches for the server, and who this process is to it.
//!
//! Owns: authorities and certificates as they are handed in. Must not know: where the server is.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, RedisError, TlsCertificates};

/// Begins a certificate in PEM.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Who vouches for the server, and who this process is to it. By default: whom the system trusts (`SSL_CERT_FILE` and
/// `SSL_CERT_DIR` are honoured), and nobody.
#[derive(Clone, Default)]
pub struct Tls {
    authorities: Option<Vec<u8>>,
    identity: Option<Arc<Identity>>,
}

/// A certificate that this process shows, and its key.
struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The key is nobody's business, and the certificates are long.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("own_authorities", &self.authorities.is_some())
            .field("shows_certificate", &self.identity.is_some())
            .finish()
    }
}

/// What was handed in cannot be used. Repeats nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidTls(&'static str);

impl Tls {
    /// Trusts these authorities (PEM) and no others: the usual case in a cluster with an authority of its own.
    ///
    /// # Errors
    /// [`InvalidTls`] when there is no certificate in it, or one that cannot be read.
    pub fn trusting(mut self, authorities: Vec<u8>) -> Result<Self, InvalidTls> {
        if !has_certificate(&authorities) {
            return Err(InvalidTls("there is no certificate in it; expected PEM"));
        }
        self.authorities = Some(authorities);
        self.checked("it holds a certificate that cannot be read; expected PEM")
    }

    /// Shows this certificate (PEM, with what stands between it and its authority) to servers that want one
    /// (`tls-auth-clients`), and proves it with its key (PEM).
    ///
    /// # Errors
    /// [`InvalidTls`] when one of the two cannot be read.
    pub fn showing(mut self, certificate: Vec<u8>, key: Vec<u8>) -> Result<Self, InvalidTls> {
        if !has_certificate(&certificate) {
            return Err(InvalidTls("there is no certificate in it; expected PEM"));
        }
        self.identity = Some(Arc::new(Identity { certificate, key }));
        self.checked("the certificate or its key cannot be read; expected PEM, and a key without a passphrase")
    }

    /// What is wrong with a certificate is said now, and not at the first connection.
    fn checked(self, wrong: &'static str) -> Result<Self, InvalidTls> {
        let probe = ConnectionAddr::TcpTls { host: "localhost".to_owned(), port: 1, insecure: false, tls_params: None };
        let probe = redis::IntoConnectionInfo::into_connection_info(probe).and_then(|info| self.client(info));
        probe.map(|_| self).map_err(|_| InvalidTls(wrong))
    }

    pub(crate) fn certificates(&self) -> TlsCertificates {
        let shown =
            |it: &Arc<Identity>| ClientTlsConfig { client_cert: it.certificate.clone(), client_key: it.key.clone() };
        TlsCertificates { client_tls: self.identity.as_ref().map(shown), root_cert: self.authorities.clone() }
    }

    /// What connects there.
    pub(crate) fn client(&self, info: ConnectionInfo) -> Result<Client, RedisError> {
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            provide();
            return Client::build_with_tls(info, self.certificates());
        }
        Client::open(info)
    }
}

/// The client's TLS takes whatever is the process's default. A second installation is no error.
pub(crate) fn provide() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Why one of the two does not believe the other, if that is why a connection did not come about. It will not be otherwise
/// the next time.
pub(crate) fn refusal(e: &RedisError) -> Option<String> {
    // The library keeps its cause behind a pointer, and that is what it answers as the cause.
    let cause = e.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    let io = cause.downcast_ref::<std::io::Error>()?;
    match io.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(why) => {
            Some(format!("the certificate of Redis does not prove who it is: {why}"))
        }
        rustls::Error::AlertReceived(alert) => Some(format!("Redis refused TLS with this process: {alert:?}")),
        _ => None,
    }
}

fn has_certificate(pem: &[u8]) -> bool {
    pem.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused_at_once_without_being_repeated() {
        let broken = format!("{CERTIFICATE}\nsecret!\n-----END CERTIFICATE-----\n").into_bytes();
        let refusals = [
            Tls::default().trusting(Vec::new()),
            Tls::default().trusting(b"secret".to_vec()),
            Tls::default().trusting(broken.clone()),
            Tls::default().showing(b"secret".to_vec(), b"secret".to_vec()),
            Tls::default().showing(broken, b"secret".to_vec()),
        ];
        for refused in refusals {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("PEM") && !refused.contains("secret"), "{refused}");
        }
    }
}
