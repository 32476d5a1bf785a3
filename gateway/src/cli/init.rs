//! `init`: the directory of a new gateway. What is needed and was not given is asked for, when somebody is there.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use trunkline_common::ids::{Domain, NetworkId};
use trunkline_common::secret::MakeError;
use trunkline_gateway_proto::bundle::{ENDPOINTS_MAX, split_endpoint};
use trunkline_http::cli::client::reachable;

use super::target::Target;
use super::{CliError, Console};
use crate::config::Config;
use crate::init;
use crate::link::listen::PORT_DEFAULT;
use crate::link::resolve::refusal;
use crate::service::SERVICE_FILE;

/// The answer that means: no endpoint, peers look in DNS.
const BY_DNS: &str = "dns";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its federation domain: the name peers know it by [asked for at a terminal]
    #[arg(long)]
    domain: Option<Domain>,
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
    /// Where peers reach it; may be given again [asked for at a terminal; else found by DNS SRV]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
    /// Allow peers at private, loopback and link-local addresses
    #[arg(long)]
    allow_private_ips: bool,
}

pub(super) fn init(target: &Target, args: Args, out: &mut Console<'_>) -> Result<(), CliError> {
    let options = options(target, args, out)?;
    let made = init::init(&options).map_err(CliError::failed)?;
    let config = Config::load(&made.config).map_err(CliError::failed)?;
    let value = serde_json::to_value(&made).map_err(CliError::failed)?;
    out.show(&value, || text(&options.dir, &made, &config));
    Ok(())
}

/// What was given, and what is asked for.
fn options(target: &Target, args: Args, out: &mut Console<'_>) -> Result<init::Options, CliError> {
    let Args { domain, mut advertise, listen, .. } = args;
    let domain = match domain {
        Some(domain) => domain,
        None if out.interactive => ask_domain(out)?,
        None => {
            let text = "the following required arguments were not provided: --domain <DOMAIN>; see `--help`";
            return Err(CliError::Usage(text.into()));
        }
    };
    let dir = match &target.dir {
        Some(dir) => dir.clone(),
        None if out.interactive => Path::new(".").join(domain.as_str()),
        None => {
            let text = "where? Name a directory that is not there yet with --dir DIR";
            return Err(CliError::Usage(text.to_owned()));
        }
    };
    if std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        // Known before the last question is asked, and not after it.
        return Err(CliError::failed(MakeError::Exists(dir)));
    }
    if advertise.is_empty() && out.interactive {
        advertise = ask_advertise(out, &domain, listen.map_or(PORT_DEFAULT, |listen| listen.port()))?;
    }
    Ok(init::Options {
        dir,
        domain,
        local_domains: args.local_domains,
        network: args.network,
        listen,
        local_api: args.local_api,
        admin_api: args.admin_api,
        advertise,
        allow_private_ips: args.allow_private_ips,
    })
}

fn ask_domain(out: &mut Console<'_>) -> Result<Domain, CliError> {
    let explanation =
        "The federation domain is the name other deployments know this one by, as in example.org.";
    out.ask("Federation domain", explanation, None, |answer| {
        answer.parse().map_err(|error| format!("`{answer}` is no domain: {error}"))
    })
}

fn ask_advertise(out: &mut Console<'_>, domain: &Domain, port: u16) -> Result<Vec<String>, CliError> {
    let explanation = format!(
        "Peers dial this gateway at host:port, UDP and TCP; several with commas, or `{BY_DNS}` to let them find it by \
         its SRV record."
    );
    // A port that the system chooses is not known yet.
    let port = if port == 0 { PORT_DEFAULT } else { port };
    let default = format!("{domain}:{port}");
    let advertise = out.ask("Where peers reach it", &explanation, Some(&default), endpoints)?;
    for endpoint in &advertise {
        let address = split_endpoint(endpoint).and_then(|(host, _)| host.parse().ok());
        if let Some(kind) = address.and_then(refusal) {
            out.hint(&format!(
                "  {endpoint} is {kind}: peers dial it only when they accept your bundle with --allow-private-ips"
            ));
        }
    }
    Ok(advertise)
}

/// Endpoints as somebody types them.
fn endpoints(answer: &str) -> Result<Vec<String>, String> {
    if answer.eq_ignore_ascii_case(BY_DNS) {
        return Ok(Vec::new());
    }
    let list: Vec<_> = answer.split([',', ' ']).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    match list.iter().find(|endpoint| split_endpoint(endpoint).is_none()) {
        Some(wrong) => Err(format!("`{wrong}` is not host:port, such as gw.example.org:{PORT_DEFAULT}")),
        None if list.len() > ENDPOINTS_MAX => Err(format!("these are more than {ENDPOINTS_MAX}")),
        None => Ok(list),
    }
}

fn text(dir: &Path, made: &init::Made, config: &Config) -> String {
    let init::Made { domain, pin, config: file, admin_token_file, network, network_token_file, .. } = made;
    let password = &made.admin_password_file;
    let absolute = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let unit: PathBuf = absolute(dir).join(SERVICE_FILE);
    let (file, password) = (file.display(), password.display());
    let mut text = format!(
        "{domain} is ready in {}\n\
         \x20 certificate pin    {pin}\n\
         \x20 configuration      {file}\n\
         \x20 admin password     {password} (user `admin` of the console)\n\
         \x20 admin token        {}\n\
         \x20 token of network   {} ({network})\n\
         Keep a copy of {} elsewhere: backups cannot be read without it.\n\
         Next:\n",
        dir.display(),
        admin_token_file.display(),
        network_token_file.display(),
        dir.join("deployment.key").display(),
    );
    let _ = write!(
        text,
        "\x20 1. Start it. As a service:\n\
         \x20      sudo install -m 0644 {unit} /etc/systemd/system/\n\
         \x20      sudo systemctl daemon-reload\n\
         \x20      sudo systemctl enable --now trunkline-gateway\n\
         \x20    or by hand: trunkline-gateway run --config {file}\n\
         \x20 2. Open {} and log in as `admin` with the password in {password}.",
        console_url(config),
        unit = unit.display(),
    );
    text
}

/// Where the console will be, as far as it is known before the start.
fn console_url(config: &Config) -> String {
    let api = &config.admin_api;
    let scheme = if api.tls_certificate.is_some() { "https" } else { "http" };
    match api.listen.port() {
        0 => "the console at the address that `run` prints".to_owned(),
        _ => format!("{scheme}://{}/console", reachable(api.listen)),
    }
}
