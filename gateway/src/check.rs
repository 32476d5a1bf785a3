//! `run --check`: everything that can be known before the gateway starts, without starting it.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};

use trunkline_http::cli::check::{Check, Outcome, writable};
use trunkline_http::serve::tls::{Tls, TlsFiles};

use crate::config::engine::{self, Engine, EngineError};
use crate::config::{ApiConfig, Config, IdentityMode, RelayConfig, deployment_key};
use crate::doctor::{self, database};
use crate::identity::{Files, Identity};
use crate::run::Listening;
use crate::store::StoreError;
use crate::store::inspect::{self, Seen};
use crate::store::postgres::Options as PostgresOptions;

/// Looks at everything. The configuration itself was checked when it was loaded.
#[must_use]
pub fn all(config: &Config) -> Vec<Check> {
    let check = |what, outcome| Check { what, outcome };
    // A gateway that runs on this data directory holds the ports that its configuration names.
    let ours = Listening::read(&config.data_dir);
    let held = |address: fn(&Listening) -> SocketAddr| ours.as_ref().map(address);
    let mut checks = vec![
        check("data_dir", writable(&config.data_dir, "the gateway").into()),
        check("deployment key", deployment_key::read(config).into()),
        check("store", store(config)),
        check("identity", identity(config)),
        check("link.listen (UDP)", bindable(config.link.listen, "UDP", held(|ours| ours.link))),
        check("link.listen (TCP)", bindable(config.link.listen, "TCP", held(|ours| ours.link))),
        check("link.advertise", advertise(config)),
        check("local_api.listen", api(&config.local_api, held(|ours| ours.local_api))),
        check("local_api TLS", tls(&config.local_api)),
        check("admin_api.listen", api(&config.admin_api, held(|ours| ours.admin_api))),
        check("admin_api TLS", tls(&config.admin_api)),
    ];
    if !config.replica.advertise.is_empty() {
        // One that runs holds its port.
        let held = ours.as_ref().map(|_| config.replica.listen);
        checks.push(check("replica.listen", bindable(config.replica.listen, "TCP", held)));
        checks.push(check("replica.advertise", reachable(&config.replica.advertise)));
    }
    if !config.relays.is_empty() {
        checks.push(check("relays", relays(config)));
    }
    checks
}

/// Whether what is needed to ask relays can be read. They are not asked: they may start later.
fn relays(config: &Config) -> Outcome {
    let wrong = |relay: &RelayConfig| {
        let wrong = relay.token().map(drop).and_then(|()| relay.authorities().map(drop)).err()?;
        Some(format!("relay `{}`: {wrong}", relay.name))
    };
    let wrong: Vec<_> = config.relays.iter().filter_map(wrong).collect();
    if wrong.is_empty() { Outcome::Fine } else { Outcome::Failed(wrong.join("; ")) }
}

fn store(config: &Config) -> Outcome {
    let options = match engine::read(config) {
        Ok(Engine::Redb(options)) => options,
        Ok(Engine::Postgres(options)) => return database(config, &options),
        // Without the key there is nothing to say, and the check of the key says why.
        Err(EngineError::DeploymentKey(_)) => return Outcome::Fine,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    match inspect::look(&options) {
        Ok(Seen::Absent | Seen::Sound) => Outcome::Fine,
        Ok(Seen::Unclean) => Outcome::Warning(
            "not closed cleanly: the next start mends that, and reads all of it before it is ready"
                .to_owned(),
        ),
        Err(error @ StoreError::Locked { .. }) => match Listening::read(&config.data_dir) {
            Some(_) => Outcome::Warning("in use, by the gateway that runs on this data_dir".to_owned()),
            None => Outcome::Failed(error.to_string()),
        },
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// Looked at without changing it. As the doctor says it.
fn database(config: &Config, options: &PostgresOptions) -> Outcome {
    let (checks, in_use) = database::look_at(options);
    let said = |outcome| {
        let of_outcome = checks.iter().filter(|check| check.outcome == outcome);
        let said = of_outcome.map(|check| {
            format!("{}: {} {}", check.subject, check.finding, check.advice.as_deref().unwrap_or_default())
        });
        said.collect::<Vec<_>>().join(" ")
    };
    let (failed, mut warned) = (said(doctor::Outcome::Failed), said(doctor::Outcome::Warning));
    if !failed.is_empty() {
        return Outcome::Failed(failed);
    }
    if in_use {
        let by = match Listening::read(&config.data_dir) {
            Some(_) => "the gateway that runs on this data_dir",
            None => "another gateway, such as the replica that leads, or by one that ended a moment ago",
        };
        warned = format!("in use, by {by}; {warned}");
    }
    let warned = warned.trim_end_matches("; ");
    if warned.is_empty() { Outcome::Fine } else { Outcome::Warning(warned.to_owned()) }
}

fn identity(config: &Config) -> Outcome {
    let certificate = config.identity.certificate.clone();
    let next = Files {
        key: config.identity.key.with_file_name("next.key"),
        certificate: certificate.with_file_name("next.crt"),
    };
    let current = Files { key: config.identity.key.clone(), certificate };
    match Identity::open_files(current, next, config.domain.clone()) {
        Err(error) => Outcome::Failed(error.to_string()),
        Ok(identity) => {
            let named = identity.current().certificate.names(&config.domain);
            match config.identity.mode {
                IdentityMode::Ca if !named => Outcome::Failed(format!(
                    "the certificate does not name {} among its DNS names: peers in CA mode will refuse it",
                    config.domain
                )),
                _ => Outcome::Fine,
            }
        }
    }
}

fn advertise(config: &Config) -> Outcome {
    if config.link.advertise.is_empty() {
        let record = format!("_trunkline._udp.{}", config.domain);
        return Outcome::Warning(format!(
            "empty: peers need the DNS SRV record {record} to find this gateway"
        ));
    }
    Outcome::Fine
}

/// Whether others could dial it, as far as this machine can tell.
fn reachable(endpoint: &str) -> Outcome {
    match endpoint.to_socket_addrs().map(|mut addresses| addresses.next()) {
        Ok(Some(address)) if address.ip().is_unspecified() => {
            Outcome::Failed(format!("{endpoint} is every address: expected the one that other replicas dial"))
        }
        Ok(Some(_)) => Outcome::Fine,
        Ok(None) => Outcome::Warning(format!("{endpoint} has no address")),
        Err(error) => {
            Outcome::Warning(format!("{endpoint}: {error}; other replicas must be able to look it up"))
        }
    }
}

fn api(api: &ApiConfig, held: Option<SocketAddr>) -> Outcome {
    match bindable(api.listen, "TCP", held) {
        Outcome::Fine if api.tls_certificate.is_none() && !api.listen.ip().is_loopback() => Outcome::Warning(
            "plain HTTP beyond loopback: whoever sees the traffic sees the tokens".to_owned(),
        ),
        outcome => outcome,
    }
}

fn tls(api: &ApiConfig) -> Outcome {
    TlsFiles::of(&api.tls_certificate, &api.tls_key).map(Tls::load).transpose().into()
}

/// Whether an address can be listened on; `held` is where the gateway of this data directory listens, when it runs.
fn bindable(address: SocketAddr, protocol: &'static str, held: Option<SocketAddr>) -> Outcome {
    let bound = match protocol {
        "UDP" => UdpSocket::bind(address).map(drop),
        _ => TcpListener::bind(address).map(drop),
    };
    match bound {
        Ok(()) => Outcome::Fine,
        Err(error) if error.kind() == ErrorKind::AddrInUse && held == Some(address) => {
            Outcome::Warning("in use, by the gateway that runs on this data_dir".to_owned())
        }
        Err(error) => Outcome::Failed(format!(
            "cannot listen on {protocol} {address} ({error}): is another program there, is the address this \
             machine's, may this user bind the port?"
        )),
    }
}
