//! Ways into a real server: with TLS, and with passwords.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers fail the test: clippy excuses only functions marked as tests"
)]

use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use trunkline_postgres::client::Client;
use trunkline_postgres::{Access, Address, Failure};
use trunkline_testkit::postgres::{PASSWORD, Server};
use zeroize::Zeroizing;

/// Who vouches for certificates.
type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server that shows a certificate of that authority's for a name.
fn encrypted(authority: &Authority, name: &str) -> Server {
    let server = Server::start();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    server.encrypt(&certificate.pem(), &key.serialize_pem());
    server
}

async fn connect(
    server: &Server,
    query: &str,
    password: &str,
    authorities: Option<&str>,
) -> Result<Client, Failure> {
    let address: Address = format!("{}?{query}", server.url("postgres")).parse().unwrap();
    let password = Some(Zeroizing::new(password.to_owned()));
    let access = Access::new(address, "test", password, authorities.map(str::as_bytes)).unwrap();
    access.connect().await.map_err(|error| Failure::from(&error))
}

/// Whether the server sees the connection encrypted.
async fn is_encrypted(client: &Client) -> bool {
    let row = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await;
    row.unwrap().get(0)
}

/// Waits until the server has taken its certificate up, which it does after it was told to.
async fn takes_tls(server: &Server) {
    let started = Instant::now();
    while connect(server, "sslmode=require", PASSWORD, None).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "it takes no TLS");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_connection_is_encrypted_as_its_address_says_and_the_password_bound_to_it() {
    let (ours, other) = (authority(), authority());
    let server = encrypted(&ours, "127.0.0.1");
    takes_tls(&server).await;
    let plain = connect(&server, "sslmode=disable", PASSWORD, None).await.unwrap();
    assert!(!is_encrypted(&plain).await);
    // The server proves that the password was not passed on by somebody in between (RFC 5929).
    let bound = "sslmode=require&channel_binding=require";
    assert!(is_encrypted(&connect(&server, bound, PASSWORD, None).await.unwrap()).await);
    let (ours, other) = (ours.pem(), other.pem());
    let verified = "sslmode=verify-full&channel_binding=require";
    assert!(is_encrypted(&connect(&server, verified, PASSWORD, Some(&ours)).await.unwrap()).await);
    // Any of several, as while authorities change.
    let both = format!("{other}{ours}");
    assert!(is_encrypted(&connect(&server, verified, PASSWORD, Some(&both)).await.unwrap()).await);
    let stranger = connect(&server, verified, PASSWORD, Some(&other)).await.unwrap_err();
    assert!(
        matches!(&stranger, Failure::Passing(why) if why.contains("invalid peer certificate")),
        "{stranger:?}"
    );
}

#[tokio::test]
async fn a_server_that_shows_another_ones_certificate_is_refused_when_it_is_verified() {
    let ours = authority();
    let server = encrypted(&ours, "db.test");
    takes_tls(&server).await;
    let ours = ours.pem();
    let wrong = connect(&server, "sslmode=verify-full", PASSWORD, Some(&ours)).await.unwrap_err();
    assert!(matches!(&wrong, Failure::Passing(why) if why.contains("not valid for name")), "{wrong:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_when_it_is_asked_for() {
    let server = Server::start();
    let plain = connect(&server, "sslmode=require", PASSWORD, None).await.unwrap_err();
    assert!(matches!(&plain, Failure::Passing(why) if why.contains("TLS")), "{plain:?}");
    let wrong = connect(&server, "sslmode=disable", "wrong", None).await.unwrap_err();
    assert!(matches!(&wrong, Failure::Passing(why) if why.contains("28P01")), "{wrong:?}");
}
