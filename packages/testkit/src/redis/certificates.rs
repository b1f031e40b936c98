//! Certificates for servers that speak TLS, from an authority that nobody else trusts. Made by `openssl`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use super::{Server, free_port, program, watch};

/// An authority, a server's certificate for `127.0.0.1` and `localhost`, and a client's.
#[derive(Debug)]
pub struct Certificates {
    dir: TempDir,
}

impl Certificates {
    /// Makes them. `None`, said loudly, where there is no `openssl`.
    #[must_use]
    pub fn make() -> Option<Self> {
        let mut version = Command::new("openssl");
        let there = version.arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !there.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: openssl is not installed; this test needs it");
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = dir.path();
        std::fs::write(at.join("server.ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").expect("a file");
        std::fs::write(at.join("client.ext"), "extendedKeyUsage=clientAuth\n").expect("a file");
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let mut authority = vec!["req", "-x509", "-days", "2", "-subj", "/CN=authority of a test"];
        authority.extend(["-addext", "basicConstraints=critical,CA:TRUE", "-keyout", "ca.key", "-out", "ca.pem"]);
        authority.extend(key);
        openssl(at, &authority);
        for who in ["server", "client"] {
            let [request, private, public, extensions] =
                ["csr", "key", "pem", "ext"].map(|ending| format!("{who}.{ending}"));
            let subject = format!("/CN={who}");
            let mut wish = vec!["req", "-subj", &subject, "-keyout", &private, "-out", &request];
            wish.extend(key);
            openssl(at, &wish);
            let mut sign = vec!["x509", "-req", "-days", "2", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
            sign.extend(["-in", &request, "-out", &public, "-extfile", &extensions]);
            openssl(at, &sign);
        }
        Some(Self { dir })
    }

    /// One of `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What is in it.
    #[must_use]
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).expect("a certificate")
    }

    /// A server that speaks TLS at the port that comes first, with further settings. `None`, said loudly, where none is
    /// installed.
    #[must_use]
    pub fn server(&self, settings: &[&str]) -> Option<(u16, Server)> {
        let (port, args) = self.settings();
        let args: Vec<&str> = args.iter().map(String::as_str).chain(settings.iter().copied()).collect();
        Some((port, Server::of(program()?, &args)))
    }

    /// The settings of a server that speaks TLS at a port of its own, which comes first.
    pub(super) fn settings(&self) -> (u16, Vec<String>) {
        let port = free_port();
        let mut args = vec!["--tls-port".to_owned(), port.to_string()];
        for (setting, file) in
            [("--tls-ca-cert-file", "ca.pem"), ("--tls-cert-file", "server.pem"), ("--tls-key-file", "server.key")]
        {
            args.extend([setting.to_owned(), self.file(file).to_string_lossy().into_owned()]);
        }
        (port, args)
    }

    /// As [`Certificates::server`], until the end of the process.
    #[must_use]
    pub fn shared_server(&self, settings: &[&str]) -> Option<(u16, Arc<Server>)> {
        let (port, server) = self.server(settings)?;
        watch::until_exit(&[&server]);
        Some((port, Arc::new(server)))
    }
}

fn openssl(dir: &Path, args: &[&str]) {
    let made = Command::new("openssl").args(args).current_dir(dir).stdin(Stdio::null()).output();
    let made = made.expect("openssl runs");
    assert!(made.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&made.stderr));
}
