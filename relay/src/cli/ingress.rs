//! `init-ingress` and `ingress`: the directory of a new ingress, and running it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use trunkline_http::cli::CliError;
use trunkline_http::cli::check::show;
use trunkline_http::cli::console::Console;

use super::target::Target;
use crate::ingress::config::IngressConfig;
use crate::ingress::init::{self, CONFIG_FILE, Made, NodeArg, Options};
use crate::ingress::{check, run};

#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// The ufrag key of a node; all nodes behind the ingress have the same
    #[arg(long, value_name = "FILE")]
    ufrag_key: PathBuf,
    /// A node: its number, its ingress.listen, and the URL of its API; may be given again
    #[arg(long = "node", value_name = "NUMBER=ADDRESS:PORT,URL", required = true)]
    nodes: Vec<NodeArg>,
    /// The public address to take media on [default: all]
    #[arg(long = "media-listen", value_name = "ADDRESS")]
    media_listen: Option<IpAddr>,
    /// The public UDP port [default: 16384]
    #[arg(long, value_name = "PORT")]
    udp_port: Option<u16>,
    /// The public TCP port, 0 for none [default: 443]
    #[arg(long, value_name = "PORT")]
    tcp_port: Option<u16>,
    /// Where to take packets from nodes [default: 0.0.0.0:8700]
    #[arg(long, value_name = "ADDRESS:PORT")]
    tunnel_listen: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The configuration [default: ingress.toml in the directory]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, key, certificates, addresses and ports, and do not run
    #[arg(long)]
    check: bool,
}

pub(super) fn init(target: &Target, args: InitArgs, out: &mut Console<'_>) -> Result<(), CliError> {
    let dir = target.dir.clone().ok_or_else(|| {
        CliError::Usage("where? Name a directory that is not there yet with --dir DIR".to_owned())
    })?;
    let InitArgs { ufrag_key, nodes, media_listen, udp_port, tcp_port, tunnel_listen } = args;
    let options = Options { dir, ufrag_key, nodes, media_listen, udp_port, tcp_port, tunnel_listen };
    let made = init::init(&options).map_err(CliError::failed)?;
    let value = serde_json::to_value(&made).map_err(CliError::failed)?;
    out.show(&value, || {
        let Made { config, ufrag_key_file } = &made;
        let config = config.display();
        format!(
            "an ingress is ready in {}\n\
             \x20 configuration           {config}\n\
             \x20 ufrag key               {}\n\
             Next:\n\
             \x20 1. set [ingress] in the configuration of each node, and restart it\n\
             \x20 2. trunkline-relay ingress --config {config} --check\n\
             \x20 3. trunkline-relay ingress --config {config}",
            options.dir.display(),
            ufrag_key_file.display(),
        )
    });
    Ok(())
}

pub(super) fn run(target: &Target, args: RunArgs, out: &mut Console<'_>) -> Result<(), CliError> {
    let in_directory = || target.directory().map(|dir| dir.join(CONFIG_FILE));
    let file = args.config.or_else(in_directory).ok_or_else(|| {
        CliError::Usage(
            "which ingress? Name its configuration with --config FILE, or its directory with --dir DIR"
                .into(),
        )
    })?;
    let config = IngressConfig::load(&file).map_err(CliError::failed)?;
    if args.check {
        return show(&check::all(&config), out);
    }
    run::run(&config).map_err(CliError::failed)
}
