//! `init`: the directory of a new gateway.

use std::net::SocketAddr;

use trunkline_common::ids::{Domain, NetworkId};

use super::target::Target;
use super::{CliError, Console};
use crate::init;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its federation domain: the name peers know it by
    #[arg(long)]
    domain: Domain,
    /// A domain of its users, the part after `@`; may be given again [default: the federation domain]
    #[arg(long = "local-domain", value_name = "DOMAIN")]
    local_domains: Vec<Domain>,
    /// Its first network
    #[arg(long, default_value = "main", value_name = "ID")]
    network: NetworkId,
    /// Where peers are accepted, UDP and TCP [default: 0.0.0.0:8443]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where the local API is [default: 127.0.0.1:8440]
    #[arg(long, value_name = "ADDRESS:PORT")]
    local_api: Option<SocketAddr>,
    /// Where the admin API is [default: 127.0.0.1:8441]
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin_api: Option<SocketAddr>,
    /// Where peers reach it; may be given again [default: found by DNS SRV]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
    /// Allow peers at private, loopback and link-local addresses
    #[arg(long)]
    allow_private_ips: bool,
}

pub(super) fn init(target: &Target, args: Args, out: &mut Console<'_>) -> Result<(), CliError> {
    let dir = target.dir.clone().ok_or_else(|| {
        CliError::Usage("where? Name a directory that is not there yet with --dir DIR".to_owned())
    })?;
    let options = init::Options {
        dir: dir.clone(),
        domain: args.domain,
        local_domains: args.local_domains,
        network: args.network,
        listen: args.listen,
        local_api: args.local_api,
        admin_api: args.admin_api,
        advertise: args.advertise,
        allow_private_ips: args.allow_private_ips,
    };
    let made = init::init(&options).map_err(CliError::failed)?;
    let value = serde_json::to_value(&made).map_err(CliError::failed)?;
    out.show(&value, || {
        let init::Made { domain, pin, config, admin_token_file, network, network_token_file, .. } = &made;
        let (dir, config) = (dir.display(), config.display());
        format!(
            "{domain} is ready in {dir}\n\
             \x20 certificate pin    {pin}\n\
             \x20 configuration      {config}\n\
             \x20 admin token        {}\n\
             \x20 console password   {} (of {}, to be changed at the first log-in)\n\
             \x20 token of network   {} ({network})\n\
             Keep a copy of {dir}/deployment.key elsewhere: backups cannot be read without it.\n\
             Next:\n\
             \x20 1. trunkline-gateway run --config {config}\n\
             \x20 2. trunkline-gateway --dir {dir} peer invite PEER.DOMAIN --out FILE, and send FILE to its operator",
            admin_token_file.display(),
            made.admin_password_file.display(),
            made.administrator,
            network_token_file.display(),
        )
    });
    Ok(())
}
