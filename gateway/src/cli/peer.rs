//! `peer`: peer deployments.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};
use trunkline_common::ids::{Domain, NetworkId};
use trunkline_gateway_proto::admin::{LinkState, PeerView};
use trunkline_gateway_proto::bundle::BUNDLE_BYTES_MAX;
use trunkline_gateway_proto::directory::{LocalDomain, PeerState};
use trunkline_gateway_proto::pin::{Pin, PinState};
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::client::view;

use super::{Api, CliError, Console, console};
use crate::config::Span;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// All peers
    List,
    /// One peer
    Show {
        /// Its federation domain
        domain: Domain,
    },
    /// Invite a peer: writes the bundle for its operator. It holds a secret
    Invite {
        /// Its federation domain
        domain: Domain,
        /// How long the invitation is good
        #[arg(long, default_value = "7d", value_name = "DURATION")]
        valid: Span,
        /// Write the bundle to this file (mode 0600) instead of stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Trust a bundle that the other operator sent
    Accept {
        /// The bundle; `-` for stdin
        file: PathBuf,
        /// When it is an invitation: write the answering bundle to this file (mode 0600) instead of stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Allow its private, loopback and link-local addresses
        #[arg(long)]
        allow_private_ips: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Add a peer by hand, or replace one's details: answers the API key for its operator
    Add(AddArgs),
    /// Stop a peering; envelopes wait
    Pause {
        /// Its federation domain
        domain: Domain,
    },
    /// Continue a peering, also after a watermark alarm: what the peer lost is skipped then
    Resume {
        /// Its federation domain
        domain: Domain,
    },
    /// End a peering; what waits is purged, with receipts
    Remove {
        /// Its federation domain
        domain: Domain,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Replace the API key we issued, over the live link
    RotateKey {
        /// Its federation domain
        domain: Domain,
    },
    /// Drop all API keys but the newest, at once
    RetireKeys {
        /// Its federation domain
        domain: Domain,
    },
    /// Never accept a certificate key again; links that use it close
    RevokePin {
        /// Its federation domain
        domain: Domain,
        /// The pin, as `peer show` prints it
        pin: Pin,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Approve the peer's changed claim of local domains
    ApproveDomains {
        /// Its federation domain
        domain: Domain,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// Its federation domain
    domain: Domain,
    /// Its certificate in PEM; may be given again
    #[arg(long = "certificate", value_name = "FILE")]
    certificates: Vec<PathBuf>,
    /// The pin of its certificate; may be given again
    #[arg(long = "pin", value_name = "PIN")]
    pins: Vec<Pin>,
    /// Its authorities in PEM, for CA mode
    #[arg(long, value_name = "FILE", conflicts_with_all = ["certificates", "pins"])]
    ca: Option<PathBuf>,
    /// A file with the API key its operator issued to us
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Where it is; may be given again [default: found by DNS SRV]
    #[arg(long = "endpoint", value_name = "HOST:PORT")]
    endpoints: Vec<String>,
    /// A domain of its users and the network they belong to; may be given again
    #[arg(long = "local-domain", value_name = "DOMAIN=NETWORK", value_parser = local_domain)]
    local_domains: Vec<LocalDomain>,
    /// A note
    #[arg(long, default_value = "")]
    label: String,
    /// Allow its private, loopback and link-local addresses
    #[arg(long)]
    allow_private_ips: bool,
    /// Write the API key for its operator to this file (mode 0600) instead of showing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Peers {
    peers: Vec<PeerView>,
}

#[derive(Deserialize)]
struct Preview {
    domain: String,
    pin: String,
    local_domains: Vec<LocalDomain>,
    endpoints: Vec<String>,
    expires: Time,
    answer: bool,
    known: bool,
}

pub(super) async fn call(verb: Verb, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    match verb {
        Verb::List => {
            let answer = api.get("/admin/v1/peers").await?;
            let Peers { peers } = view(&answer)?;
            out.show(&answer, || list(&peers));
            Ok(())
        }
        Verb::Show { domain } => {
            let answer = api.get(&path(&domain)).await?;
            let peer: PeerView = view(&answer)?;
            out.show(&answer, || text(&peer));
            Ok(())
        }
        Verb::Invite { domain, valid, out: file } => invite(api, out, &domain, valid, file.as_deref()).await,
        Verb::Accept { file, out: answer, allow_private_ips, yes } => {
            accept(api, out, &file, answer.as_deref(), allow_private_ips, yes).await
        }
        Verb::Add(args) => add(api, out, args).await,
        Verb::Pause { domain } => act(api, out, &domain, "pause", "paused: envelopes wait").await,
        Verb::Resume { domain } => act(api, out, &domain, "resume", "resumed").await,
        Verb::Remove { domain, yes } => {
            out.confirm(yes, &format!("End the peering with {domain} and throw away what waits for it?"))?;
            let answer = api.delete(&path(&domain)).await?;
            out.show(&answer, || format!("{domain}: removed"));
            Ok(())
        }
        Verb::RotateKey { domain } => {
            act(api, out, &domain, "rotate-key", "a new API key goes out; both are good until it was used")
                .await
        }
        Verb::RetireKeys { domain } => {
            act(api, out, &domain, "retire-keys", "only the newest API keys are good now").await
        }
        Verb::RevokePin { domain, pin, yes } => {
            out.confirm(yes, &format!("Never accept {pin} of {domain} again, and close its links?"))?;
            let answer = api.post(&format!("{}/revoke-pin", path(&domain)), &json!({ "pin": pin })).await?;
            out.show(&answer, || format!("{domain}: {pin} is never accepted again"));
            Ok(())
        }
        Verb::ApproveDomains { domain, yes } => {
            let peer: PeerView = view(&api.get(&path(&domain)).await?)?;
            let claimed = console::or_dash(peer.claimed_domains.as_deref().map(domains));
            out.confirm(yes, &format!("Approve that {domain} speaks for {claimed}?"))?;
            act(api, out, &domain, "approve-domains", "claim approved").await
        }
    }
}

async fn act(
    api: &Api,
    out: &mut Console<'_>,
    domain: &Domain,
    verb: &str,
    outcome: &str,
) -> Result<(), CliError> {
    let answer = api.post(&format!("{}/{verb}", path(domain)), &json!({})).await?;
    out.show(&answer, || format!("{domain}: {outcome}"));
    Ok(())
}

async fn invite(
    api: &Api,
    out: &mut Console<'_>,
    domain: &Domain,
    valid: Span,
    file: Option<&Path>,
) -> Result<(), CliError> {
    file.map_or(Ok(()), console::vacant)?;
    let body = json!({ "domain": domain, "valid_s": valid.0.as_secs() });
    let bundle = api.post("/admin/v1/peers/invite", &body).await?;
    let Some(file) = file else {
        out.hint(&format!("this bundle holds a secret: send it to {domain}'s operator over a trusted way"));
        out.value(&bundle);
        return Ok(());
    };
    console::write_secret(file, &format!("{bundle:#}\n"))?;
    out.show(&json!({ "written": file }), || {
        let (file, valid) = (file.display(), console::span(valid.0));
        format!(
            "bundle written to {file}: it holds a secret and is good for {valid}\n\
             Next: send it to {domain}'s operator, who runs `trunkline-gateway peer accept` and sends the answer \
             back; accept that one here"
        )
    });
    Ok(())
}

async fn accept(
    api: &Api,
    out: &mut Console<'_>,
    file: &Path,
    answer_file: Option<&Path>,
    allow_private_ips: bool,
    yes: bool,
) -> Result<(), CliError> {
    answer_file.map_or(Ok(()), console::vacant)?;
    let bundle = read_bundle(file, out)?;
    let preview: Preview = view(&api.post("/admin/v1/peers/preview", &json!({ "bundle": bundle })).await?)?;
    out.hint(&preview_text(&preview));
    out.confirm(
        yes,
        &format!("Trust {}? Compare the pin with its operator over another way.", preview.domain),
    )?;
    let mut body = json!({ "bundle": bundle });
    if let Some(map) = body.as_object_mut().filter(|_| allow_private_ips) {
        map.insert("allow_private_ips".to_owned(), true.into());
    }
    let accepted = api.post("/admin/v1/peers/accept", &body).await?;
    let domain = preview.domain;
    let answer = accepted.get("answer").filter(|answer| !answer.is_null());
    match (answer, answer_file) {
        (None, _) => {
            out.show(&accepted, || format!("{domain}: accepted; both sides have each other's details"))
        }
        (Some(answer), Some(file)) => {
            console::write_secret(file, &format!("{answer:#}\n"))?;
            out.show(&json!({ "domain": domain, "written": file }), || {
                let file = file.display();
                format!("{domain}: accepted\nNext: send {file} back; its operator accepts it, and the link comes up")
            });
        }
        (Some(answer), None) if !out.json => {
            out.hint(&format!("{domain}: accepted; send the answering bundle below back to its operator"));
            out.value(answer);
        }
        (Some(_), None) => out.value(&accepted),
    }
    Ok(())
}

async fn add(api: &Api, out: &mut Console<'_>, args: AddArgs) -> Result<(), CliError> {
    args.out.as_deref().map_or(Ok(()), console::vacant)?;
    let certificates: Vec<String> =
        args.certificates.iter().map(|file| read_file(file)).collect::<Result<_, _>>()?;
    let ca_pem = args.ca.as_deref().map(read_file).transpose()?;
    let api_key = args.api_key_file.as_deref().map(read_file).transpose()?;
    let mut body = json!({
        "domain": args.domain,
        "label": args.label,
        "certificates": certificates,
        "pins": args.pins,
        "ca_pem": ca_pem,
        "api_key": api_key.map(|key| key.trim().to_owned()),
        "endpoints": args.endpoints,
        "local_domains": args.local_domains,
    });
    if let Some(map) = body.as_object_mut().filter(|_| args.allow_private_ips) {
        map.insert("allow_private_ips".to_owned(), true.into());
    }
    let answer = api.post("/admin/v1/peers", &body).await?;
    if !out.json {
        out.hint(&format!("{}: added; its operator needs this API key:", args.domain));
    }
    console::deliver_secret(out, args.out.as_deref(), answer, "api_key")
}

fn read_bundle(file: &Path, out: &mut Console<'_>) -> Result<Value, CliError> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        let limit = BUNDLE_BYTES_MAX as u64 + 1;
        out.input
            .take(limit)
            .read_to_string(&mut text)
            .map_err(|e| CliError::Failed(format!("stdin: {e}")))?;
        text
    } else {
        read_file(file)?
    };
    serde_json::from_str(&text).map_err(|error| {
        CliError::Failed(format!(
            "{} is no peering bundle (line {}): it was cut off or changed on its way, ask for it again",
            file.display(),
            error.line()
        ))
    })
}

fn read_file(file: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(file)
        .map_err(|error| CliError::Failed(format!("cannot read {}: {error}", file.display())))
}

fn path(domain: &Domain) -> String {
    format!("/admin/v1/peers/{domain}")
}

fn local_domain(text: &str) -> Result<LocalDomain, String> {
    let expected = || "expected DOMAIN=NETWORK, such as beta.test=main".to_owned();
    let (domain, network) = text.split_once('=').ok_or_else(expected)?;
    let domain: Domain = domain.parse().map_err(|_| expected())?;
    let network: NetworkId = network.parse().map_err(|_| expected())?;
    Ok(LocalDomain { domain, network })
}

fn preview_text(preview: &Preview) -> String {
    let Preview { domain, pin, local_domains, endpoints, expires, answer, known } = preview;
    let kind = match (answer, known) {
        (true, _) => "answer to our invitation",
        (false, true) => "invitation from a peer we know: replaces its details",
        (false, false) => "invitation",
    };
    let endpoints = Some(endpoints.join(", ")).filter(|text| !text.is_empty());
    console::fields(&[
        ("bundle", kind.to_owned()),
        ("domain", domain.clone()),
        ("pin", pin.clone()),
        ("local domains", console::or_dash(Some(domains(local_domains)))),
        ("endpoints", endpoints.unwrap_or_else(|| "by DNS SRV".to_owned())),
        ("expires", console::moment(*expires)),
    ])
}

fn domains(domains: &[LocalDomain]) -> String {
    let one = |local: &LocalDomain| format!("{} ({})", local.domain, local.network);
    domains.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Invited => "invited",
        PeerState::Active => "active",
        PeerState::Paused => "paused",
    }
}

fn link(link: LinkState) -> &'static str {
    match link {
        LinkState::Down => "down",
        LinkState::Connecting => "connecting",
        LinkState::Up => "up",
        LinkState::Alarm => "alarm",
    }
}

fn pin_state(state: PinState) -> &'static str {
    match state {
        PinState::Next => "next",
        PinState::Current => "current",
        PinState::Retiring => "retiring",
        PinState::Revoked => "revoked",
    }
}

fn list(peers: &[PeerView]) -> String {
    let row = |peer: &PeerView| {
        [
            peer.domain.to_string(),
            state(peer.state).to_owned(),
            link(peer.link).to_owned(),
            console::or_dash(peer.transport.clone()),
            peer.outbox.depth.to_string(),
            console::or_dash(peer.outbox.oldest.map(console::age)),
            peer.sent.to_string(),
            peer.received.to_string(),
            console::or_dash(peer.last_error.clone()),
        ]
    };
    let header = ["PEER", "STATE", "LINK", "TRANSPORT", "OUTBOX", "OLDEST", "SENT", "RECEIVED", "LAST ERROR"];
    console::table(header, &peers.iter().map(row).collect::<Vec<_>>())
}

fn text(peer: &PeerView) -> String {
    let since =
        console::span(Duration::from_millis(console::now().unix_ms().saturating_sub(peer.since.unix_ms())));
    let transport =
        peer.transport.as_ref().map_or_else(String::new, |transport| format!(" over {transport}"));
    let pins = peer.pins.iter().map(|entry| format!("{} ({})", entry.pin, pin_state(entry.state)));
    let oldest = peer.outbox.oldest.map_or_else(String::new, |at| format!(", oldest {}", console::age(at)));
    let mut fields = vec![
        ("peer", peer.domain.to_string()),
        ("label", console::or_dash(Some(peer.label.clone()))),
        ("state", state(peer.state).to_owned()),
        ("link", format!("{}{transport} for {since}", link(peer.link))),
        ("last error", console::or_dash(peer.last_error.clone())),
        ("next dial", console::or_dash(peer.next_dial.map(console::moment))),
        ("trust", peer.trust.clone()),
        ("pins", console::or_dash(Some(pins.collect::<Vec<_>>().join(", ")))),
        ("keys issued", console::or_dash(Some(peer.keys_issued.join(", ")))),
        ("keys held", console::or_dash(Some(peer.keys_held.join(", ")))),
        ("endpoints", console::or_dash(Some(peer.endpoints.join(", ")))),
        ("local domains", console::or_dash(Some(domains(&peer.local_domains)))),
        ("private IPs", if peer.allow_private_ips { "allowed" } else { "refused" }.to_owned()),
        ("outbox", format!("{} ({}{oldest})", peer.outbox.depth, console::bytes(peer.outbox.bytes))),
        ("envelopes", format!("{} sent, {} received, {} refused", peer.sent, peer.received, peer.refused)),
    ];
    if let Some(claimed) = &peer.claimed_domains {
        fields.push(("claims", format!("{}: `peer approve-domains {}`", domains(claimed), peer.domain)));
    }
    if let Some(ready) = peer.next_certificate_ready {
        fields.push((
            "next certificate",
            if ready { "stored there" } else { "not stored there yet" }.to_owned(),
        ));
    }
    console::fields(&fields)
}
