//! `init`: the directory of a new node.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use trunkline_http::cli::CliError;
use trunkline_http::cli::console::Console;

use super::target::Target;
use crate::config::PortRange;
use crate::init;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its number, different on every node behind one ingress
    #[arg(long, default_value_t = 1)]
    node: u16,
    /// Where the API is [default: 127.0.0.1:8444]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// UDP ports of calls [default: 16384-19999]
    #[arg(long, value_name = "FIRST-LAST")]
    udp_ports: Option<PortRange>,
    /// TCP port of media, for people without UDP; 0 for none [default: 443]
    #[arg(long, value_name = "PORT")]
    tcp_port: Option<u16>,
    /// An address to take media on; may be given again [default: all]
    #[arg(long = "media-listen", value_name = "ADDRESS")]
    media_listen: Vec<IpAddr>,
    /// An address that clients are told instead, behind NAT; may be given again
    #[arg(long, value_name = "ADDRESS")]
    advertise: Vec<IpAddr>,
    /// The ufrag key of another node, to be used here too: for nodes behind one ingress
    #[arg(long, value_name = "FILE")]
    ufrag_key: Option<PathBuf>,
}

pub(super) fn init(target: &Target, args: Args, out: &mut Console<'_>) -> Result<(), CliError> {
    let dir = target.dir.clone().ok_or_else(|| {
        CliError::Usage("where? Name a directory that is not there yet with --dir DIR".to_owned())
    })?;
    let options = init::Options {
        dir: dir.clone(),
        node: args.node,
        listen: args.listen,
        udp_ports: args.udp_ports,
        tcp_port: args.tcp_port,
        media_listen: args.media_listen,
        advertise: args.advertise,
        ufrag_key: args.ufrag_key,
    };
    let made = init::init(&options).map_err(CliError::failed)?;
    let value = serde_json::to_value(&made).map_err(CliError::failed)?;
    out.show(&value, || {
        let init::Made { node, config, admin_token_file, hs256_secret_file, ufrag_key_file } = &made;
        let (dir, config) = (dir.display(), config.display());
        format!(
            "node {node} is ready in {dir}\n\
             \x20 configuration           {config}\n\
             \x20 admin token             {}\n\
             \x20 secret of join tokens   {}\n\
             \x20 ufrag key               {}\n\
             Next:\n\
             \x20 1. trunkline-relay node --config {config} --check\n\
             \x20 2. trunkline-relay node --config {config}\n\
             \x20 3. trunkline-relay --dir {dir} call create",
            admin_token_file.display(),
            hs256_secret_file.display(),
            ufrag_key_file.display(),
        )
    });
    Ok(())
}
