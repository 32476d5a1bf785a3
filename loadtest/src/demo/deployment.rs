//! One deployment, as its operators make it: gateway, relay node, ingress, messaging server, each from an empty
//! directory, and each started once.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use trunkline_common::config::{quoted, with_setting};
use trunkline_relay::ingress::init as ingress_init;
use trunkline_relay::init as relay_init;

use super::console;
use super::hosting::Hosting;
use super::server::Server;
use crate::call::process::{Launcher, Process};
use crate::call::relay::Relay;
use crate::error::LoadError;
use crate::fleet::Fleet;
use crate::gateway::{self, Addresses, Gateway};
use crate::http::Client;
use crate::progress::Progress;

/// What comes up, one after the other or side by side: gateway, its administrator, node, ingress, messaging server.
pub(crate) const PARTS: u64 = 5;

/// What the gateway calls its relay node.
const RELAY_NAME: &str = "relay-1";

/// The node's number.
const NODE: u16 = 1;

/// A deployment that runs. Dropping it kills its processes.
pub(crate) struct Deployment {
    /// Its gateway.
    pub(crate) gateway: Gateway,
    /// Its relay node.
    pub(crate) relay: Relay,
    /// What stands in front of that.
    pub(crate) ingress: Process,
    /// Where people join calls.
    pub(crate) ingress_api: SocketAddr,
    /// Its messaging server.
    pub(crate) server: Server,
    /// The administrator's password.
    pub(crate) password: String,
}

/// Where everything of a deployment listens.
pub(crate) struct Ports {
    gateway: Addresses,
    messaging: SocketAddr,
    node_api: SocketAddr,
    node_tunnel: SocketAddr,
    ingress_api: SocketAddr,
    ingress_udp: SocketAddr,
    ingress_tcp: SocketAddr,
    ingress_tunnel: SocketAddr,
}

impl Ports {
    /// Takes them.
    ///
    /// # Errors
    /// When there are none left.
    pub(crate) fn take(fleet: &mut Fleet) -> Result<Self, LoadError> {
        Ok(Self {
            gateway: fleet.addresses()?,
            messaging: fleet.port()?,
            node_api: fleet.port()?,
            node_tunnel: fleet.port()?,
            ingress_api: fleet.port()?,
            ingress_udp: fleet.port()?,
            ingress_tcp: fleet.port()?,
            ingress_tunnel: fleet.port()?,
        })
    }
}

impl Deployment {
    /// Makes and starts all of it.
    ///
    /// # Errors
    /// When a part does not come up.
    pub(crate) async fn start(
        fleet: &Fleet,
        domain: &str,
        ports: Ports,
        progress: &Progress,
    ) -> Result<Self, LoadError> {
        let root = fleet.root().join(domain);
        fs::create_dir_all(&root).map_err(LoadError::io(format!("making {}", root.display())))?;
        // The files of the relay first: the gateway is told where its token is.
        let node = make_node(&root.join("relay"), &ports)?;
        let front = make_ingress(&root.join("ingress"), &node, &ports)?;
        let launcher = Launcher::new(None)?;
        let token = gateway::token(&node.admin_token_file)?;
        let Ports { node_api, ingress_api, messaging, .. } = ports;
        let relays = async {
            let relay = Relay::start(&launcher, &node.config, node_api, &token).await?;
            progress.advance(1);
            let client = Client::new(ingress_api, &token);
            let ingress = launcher.start("ingress", "ingress", &front.config, client).await?;
            progress.advance(1);
            Ok::<_, LoadError>((relay, ingress))
        };
        let gateways = async {
            let mut gateway =
                Gateway::init(fleet.launcher(), root.join("gateway"), domain, ports.gateway.clone()).await?;
            configure(&gateway, node_api, &node.admin_token_file)?;
            gateway.up().await?;
            progress.advance(1);
            let password = console::first_login(&gateway).await?;
            progress.advance(1);
            Ok((gateway, password))
        };
        let ((relay, ingress), (gateway, password)) = tokio::try_join!(relays, gateways)?;
        let hosting = Hosting::new(ingress_api, &token);
        let server = Server::start(messaging, domain, gateway.api()?, hosting).await?;
        progress.advance(1);
        Ok(Self { gateway, relay, ingress, ingress_api, server, password })
    }

    /// Where the console is.
    pub(crate) fn console(&self) -> String {
        format!("http://{}/console", self.gateway.addresses.admin)
    }

    /// All that somebody needs to get on with it.
    pub(crate) fn access(&self) -> Value {
        let Self { gateway, relay, ingress, .. } = self;
        let Addresses { api, admin, federation, .. } = &gateway.addresses;
        json!({
            "console": self.console(),
            "name": console::ADMINISTRATOR,
            "password": self.password,
            "admin": format!("http://{admin}"),
            "admin_token_file": gateway.admin_token(),
            "api": format!("http://{api}"),
            "api_token_file": gateway.network_token(),
            "federation": federation,
            "dir": gateway.dir,
            "relay": format!("http://{}", relay.api),
            "relay_dir": relay.process.log().parent(),
            "ingress": format!("http://{}", self.ingress_api),
            "ingress_dir": ingress.log().parent(),
        })
    }

    /// Says so when a process has ended by itself.
    ///
    /// # Errors
    /// When one has.
    pub(crate) fn lives(&mut self) -> Result<(), LoadError> {
        self.gateway.lives()?;
        self.relay.process.lives()?;
        self.ingress.lives()
    }

    /// Stops all of it.
    ///
    /// # Errors
    /// When something had to be killed.
    pub(crate) async fn stop(self) -> Result<(), LoadError> {
        let Self { mut gateway, mut relay, mut ingress, server, .. } = self;
        let gone = async {
            server.stop().await;
            Ok(())
        };
        tokio::try_join!(gone, gateway.stop(), relay.process.stop(), ingress.stop()).map(drop)
    }
}

/// What `trunkline-relay init` makes, and behind an ingress.
fn make_node(dir: &Path, ports: &Ports) -> Result<relay_init::Made, LoadError> {
    let ip = ports.node_api.ip();
    let made = relay_init::init(&relay_init::Options {
        dir: dir.to_owned(),
        node: NODE,
        listen: Some(ports.node_api),
        tcp_port: Some(0),
        media_listen: vec![ip],
        ..relay_init::Options::default()
    });
    let made = made.map_err(|error| LoadError::Usage(format!("trunkline-relay init: {error}")))?;
    let ip = format!("[{}]", quoted(ip));
    edit(
        &made.config,
        &[
            ("media", "workers", "1".to_owned()),
            ("ingress", "listen", quoted(ports.node_tunnel)),
            ("ingress", "from", ip.clone()),
            ("ingress", "advertise", ip),
            ("ingress", "udp_port", ports.ingress_udp.port().to_string()),
            ("ingress", "tcp_port", ports.ingress_tcp.port().to_string()),
        ],
    )?;
    Ok(made)
}

/// What `trunkline-relay init-ingress` makes.
fn make_ingress(dir: &Path, node: &relay_init::Made, ports: &Ports) -> Result<ingress_init::Made, LoadError> {
    let api = format!("http://{}", ports.node_api);
    let made = ingress_init::init(&ingress_init::Options {
        dir: dir.to_owned(),
        ufrag_key: node.ufrag_key_file.clone(),
        nodes: vec![ingress_init::NodeArg { node: NODE, tunnel: ports.node_tunnel, api }],
        media_listen: Some(ports.ingress_udp.ip()),
        udp_port: Some(ports.ingress_udp.port()),
        tcp_port: Some(ports.ingress_tcp.port()),
        tunnel_listen: Some(ports.ingress_tunnel),
    });
    let made = made.map_err(|error| LoadError::Usage(format!("trunkline-relay init-ingress: {error}")))?;
    edit(
        &made.config,
        &[("api", "listen", quoted(ports.ingress_api)), ("media", "threads", "1".to_owned())],
    )?;
    Ok(made)
}

/// Tells the gateway of its relay node, and that peers are on this machine.
fn configure(gateway: &Gateway, node_api: SocketAddr, token_file: &Path) -> Result<(), LoadError> {
    let config = gateway.dir.join("gateway.toml");
    edit(&config, &[("", "allow_private_ips", "true".to_owned())])?;
    let relay = format!(
        "\n[[relays]]\nname = {}\nurl = {}\nadmin_token_file = {}\n",
        quoted(RELAY_NAME),
        quoted(format!("http://{node_api}")),
        quoted(absolute(token_file)?.display()),
    );
    change(&config, |text| text + &relay)
}

fn absolute(path: &Path) -> Result<PathBuf, LoadError> {
    std::path::absolute(path).map_err(LoadError::io(format!("finding {}", path.display())))
}

/// Sets some settings of a configuration, as an operator does.
fn edit(config: &Path, settings: &[(&str, &str, String)]) -> Result<(), LoadError> {
    change(config, |text| {
        settings.iter().fold(text, |text, (section, key, value)| with_setting(&text, section, key, value))
    })
}

fn change(config: &Path, change: impl FnOnce(String) -> String) -> Result<(), LoadError> {
    let what = || config.display();
    let text = fs::read_to_string(config).map_err(LoadError::io(format!("reading {}", what())))?;
    fs::write(config, change(text)).map_err(LoadError::io(format!("writing {}", what())))
}
