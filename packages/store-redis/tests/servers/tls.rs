//! `rediss://`: who vouches for the server, and who this process is to it.

use std::sync::{Arc, OnceLock};

use torpor_core::key::KeyStore as _;
use torpor_core::queue::WorkQueue as _;
use torpor_core::store::Error;
use torpor_store_redis::{Address, Options, Store, Tls};
use torpor_testkit::conformance::Fixture;
use torpor_testkit::conformance::keys::Keys;
use torpor_testkit::conformance::schedules::Schedules;
use torpor_testkit::redis::{Certificates, Cluster, Sentinels, Server};
use torpor_testkit::sample::{created, first};

use crate::place::Place;

fn place() -> Option<Place> {
    static SHARED: OnceLock<Option<(Certificates, u16, Arc<Server>)>> = OnceLock::new();
    let start = || {
        let certificates = Certificates::make()?;
        let (port, server) = certificates.shared_server(&["--tls-auth-clients", "no"])?;
        Some((certificates, port, server))
    };
    let (certificates, port, server) = SHARED.get_or_init(start).as_ref()?;
    let place = Place::new(format!("rediss://127.0.0.1:{port}"), vec![server.port()], Arc::clone(server));
    Some(place.options(|options| options.tls = trusting(certificates)))
}

async fn fresh() -> Option<Fixture> {
    Some(place()?.fixture().await)
}

async fn fresh_keys() -> Option<Keys> {
    Some(place()?.keys().await)
}

async fn fresh_schedules() -> Option<Schedules> {
    Some(place()?.schedules().await)
}

torpor_testkit::conformance!(fresh);
torpor_testkit::key_conformance!(fresh_keys);
torpor_testkit::schedule_conformance!(fresh_schedules);

async fn connect(url: &str, tls: Tls) -> Result<Store, Error> {
    Store::connect(&Address::parse(url).unwrap(), Options { tls, ..Options::default() }).await
}

fn trusting(certificates: &Certificates) -> Tls {
    Tls::default().trusting(certificates.read("ca.pem")).unwrap()
}

/// A private authority is trusted when it is named, and only then; the name in the address must be the certificate's.
#[tokio::test]
async fn only_the_named_authority_vouches_for_a_server() {
    let Some(certificates) = Certificates::make() else { return };
    let Some((port, _server)) = certificates.server(&["--tls-auth-clients", "no"]) else { return };
    for host in ["127.0.0.1", "localhost"] {
        let store = connect(&format!("rediss://{host}:{port}"), trusting(&certificates)).await.unwrap();
        assert!(store.keys(None).await.unwrap().is_some());
    }
    let strange = Certificates::make().unwrap();
    let url = format!("rediss://127.0.0.1:{port}");
    for tls in [Tls::default(), trusting(&strange)] {
        let refused = connect(&url, tls).await.unwrap_err();
        assert!(matches!(&refused, Error::Failed(why) if why.contains("certificate")), "{refused}");
    }
    // Plain text at its TLS port, and TLS at a plain port, come to nothing.
    assert!(connect(&format!("redis://127.0.0.1:{port}"), Tls::default()).await.is_err());
    let plain = format!("rediss://127.0.0.1:{}", _server.port());
    assert!(connect(&plain, trusting(&certificates)).await.is_err());
}

/// Without further settings it is believed whom the system trusts; the environment says where that stands, and it is read once
/// for a process, so this one asks another.
#[tokio::test]
async fn whom_the_system_trusts_is_believed() {
    const NAMED: &str = "TORPOR_TEST_REDIS_TLS";
    if let Ok(url) = std::env::var(NAMED) {
        connect(&url, Tls::default()).await.unwrap();
        return;
    }
    let Some(certificates) = Certificates::make() else { return };
    let Some((port, _server)) = certificates.server(&["--tls-auth-clients", "no"]) else { return };
    let url = format!("rediss://127.0.0.1:{port}");
    let strange = Certificates::make().unwrap();
    for (authorities, trusted) in [(&certificates, true), (&strange, false)] {
        let ends = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tls::whom_the_system_trusts_is_believed"])
            .env(NAMED, &url)
            .env("SSL_CERT_FILE", authorities.file("ca.pem"))
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap();
        assert_eq!(ends.status.success(), trusted, "{}", String::from_utf8_lossy(&ends.stdout));
    }
}

/// Nodes of a cluster, sentinels, and the primary that these name are reached by TLS, each with its password.
#[tokio::test]
async fn clusters_and_sentinels_speak_tls_too() {
    let Some(certificates) = Certificates::make() else { return };
    let Some(cluster) = Cluster::with_tls(&certificates) else { return };
    let store = connect(&cluster.tls_url(), trusting(&certificates)).await.unwrap();
    created(store.enqueue(first("s")).await.unwrap());
    let refused = connect(&cluster.tls_url(), Tls::default()).await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable(_) | Error::Failed(_)), "{refused}");

    let Some(sentinels) = Sentinels::with_tls(&certificates, "of-store", "of-sentinel") else { return };
    let store = connect(&sentinels.url(), trusting(&certificates)).await.unwrap();
    created(store.enqueue(first("s")).await.unwrap());
    for wrong in ["of-store@", "of-sentinel"] {
        let refused = connect(&sentinels.url().replace(wrong, "wrong@"), trusting(&certificates)).await.unwrap_err();
        assert!(!refused.to_string().contains("wrong"), "{refused}");
    }
}

/// A server that wants to know who comes is shown the certificate.
#[tokio::test]
async fn a_server_that_wants_a_certificate_is_shown_one() {
    let Some(certificates) = Certificates::make() else { return };
    let Some((port, _server)) = certificates.server(&["--tls-auth-clients", "yes"]) else { return };
    let url = format!("rediss://127.0.0.1:{port}");
    let refused = connect(&url, trusting(&certificates)).await.unwrap_err();
    println!("{refused}");
    let tls =
        trusting(&certificates).showing(certificates.read("client.pem"), certificates.read("client.key")).unwrap();
    let store = connect(&url, tls).await.unwrap();
    assert!(store.keys(None).await.unwrap().is_some());
}
