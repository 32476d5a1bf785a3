//! `network`: networks (tenants) of this deployment.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use trunkline_common::ids::{Address, Domain, NetworkId};
use trunkline_gateway_proto::admin::QueueView;
use trunkline_gateway_proto::policy::{Federation, Permitted, Policy};
use trunkline_http::cli::client::view;

use super::{Api, CliError, Console, console};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// All networks
    List,
    /// One network, with its policy
    Show {
        /// Its id
        id: NetworkId,
    },
    /// Add a network: its token is shown once
    Add {
        /// Its id
        id: NetworkId,
        #[command(flatten)]
        settings: Settings,
        /// Write the token to this file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Change a network: what is not given stays as it is
    Update {
        /// Its id
        id: NetworkId,
        #[command(flatten)]
        settings: Settings,
        /// Stop pushing to a webhook
        #[arg(long, conflicts_with = "webhook")]
        no_webhook: bool,
        /// Hide no domain any more
        #[arg(long, conflicts_with = "hidden_domains")]
        show_domains: bool,
    },
    /// Remove a network
    Remove {
        /// Its id
        id: NetworkId,
        /// Even though envelopes wait in its inbox
        #[arg(long)]
        purge: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Add a token to a network: it is shown once, and the oldest goes when there are two
    Token {
        /// The network's id
        id: NetworkId,
        /// Write the token to this file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Settings {
    /// A note
    #[arg(long)]
    label: Option<String>,
    /// A domain of its users; may be given again. Replaces the whole list
    #[arg(long = "local-domain", value_name = "DOMAIN")]
    local_domains: Vec<Domain>,
    /// One of its domains that only administrators of role admin see; may be given again. Replaces the whole list
    #[arg(long = "hide-domain", value_name = "DOMAIN")]
    hidden_domains: Vec<Domain>,
    /// With whom it exchanges envelopes: disabled, open or restricted
    #[arg(long, value_parser = federation)]
    federation: Option<Federation>,
    /// A network it may exchange envelopes with when restricted; may be given again. Replaces the whole list
    #[arg(long = "permit", value_name = "DOMAIN/NETWORK", value_parser = permitted)]
    permitted: Vec<Permitted>,
    /// Whether guests may take part
    #[arg(long, value_name = "true|false")]
    allow_guests: Option<bool>,
    /// An address that is kept out; may be given again. Replaces the whole list
    #[arg(long = "block", value_name = "ADDRESS")]
    blocked: Vec<Address>,
    /// Push envelopes to this URL; a secret is made unless it has one
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
}

#[derive(Deserialize)]
struct Networks {
    networks: Vec<Network>,
}

#[derive(Deserialize)]
struct Network {
    id: String,
    label: String,
    local_domains: Vec<String>,
    hidden_domains: Vec<String>,
    policy: Policy,
    webhook: Option<Webhook>,
    tokens: usize,
    inbox: QueueView,
    receipts: QueueView,
}

#[derive(Deserialize)]
struct Webhook {
    url: String,
}

pub(super) async fn call(verb: Verb, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    match verb {
        Verb::List => {
            let answer = api.get("/admin/v1/networks").await?;
            let Networks { networks } = view(&answer)?;
            out.show(&answer, || list(&networks));
        }
        Verb::Show { id } => {
            let answer = api.get(&path(&id)).await?;
            let network: Network = view(&answer)?;
            out.show(&answer, || text(&network));
        }
        Verb::Add { id, settings, out: file } => {
            file.as_deref().map_or(Ok(()), console::vacant)?;
            let body = merge(json!({ "id": id }), settings);
            let answer = api.post("/admin/v1/networks", &body).await?;
            if let Some(secret) = answer.get("webhook_secret").and_then(Value::as_str).filter(|_| !out.json) {
                out.hint(&format!("webhook secret (shown once): {secret}"));
            }
            console::deliver_secret(out, file.as_deref(), answer, "token")?;
        }
        Verb::Update { id, settings, no_webhook, show_domains } => {
            update(api, out, &id, settings, no_webhook, show_domains).await?;
        }
        Verb::Remove { id, purge, yes } => {
            out.confirm(yes, &format!("Remove network {id}, its tokens and its policy?"))?;
            let answer = api.delete(&format!("{}?purge={purge}", path(&id))).await?;
            out.show(&answer, || format!("network {id} removed"));
        }
        Verb::Token { id, out: file } => {
            file.as_deref().map_or(Ok(()), console::vacant)?;
            let answer = api.post(&format!("{}/token", path(&id)), &json!({})).await?;
            console::deliver_secret(out, file.as_deref(), answer, "token")?;
        }
    }
    Ok(())
}

async fn update(
    api: &Api,
    out: &mut Console<'_>,
    id: &NetworkId,
    settings: Settings,
    no_webhook: bool,
    show_domains: bool,
) -> Result<(), CliError> {
    let Network { label, local_domains, mut hidden_domains, policy, webhook, .. } =
        view(&api.get(&path(id)).await?)?;
    // A domain that goes is hidden no more.
    let stays = |hidden: &String| settings.local_domains.iter().any(|domain| domain.as_str() == hidden);
    hidden_domains.retain(|hidden| !show_domains && (settings.local_domains.is_empty() || stays(hidden)));
    let webhook = webhook.filter(|_| !no_webhook).map(|webhook| json!({ "url": webhook.url }));
    let known = json!({
        "id": id, "label": label, "local_domains": local_domains, "hidden_domains": hidden_domains,
        "policy": policy, "webhook": webhook,
    });
    let answer = api.put(&path(id), &merge(known, settings)).await?;
    out.show(&answer, || match answer.get("webhook_secret").and_then(Value::as_str) {
        Some(secret) => format!("network {id} changed\nwebhook secret (shown once): {secret}"),
        None => format!("network {id} changed"),
    });
    Ok(())
}

/// A network's settings with those that were given in place of what is there.
fn merge(known: Value, settings: Settings) -> Value {
    let Settings {
        label,
        local_domains,
        hidden_domains,
        federation,
        permitted,
        allow_guests,
        blocked,
        webhook,
    } = settings;
    let mut body = object(known);
    let mut policy = object(body.remove("policy").unwrap_or_default());
    let put = |map: &mut Map<String, Value>, name: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(name.to_owned(), value);
        }
    };
    put(&mut policy, "federation", federation.map(|federation| json!(federation)));
    put(&mut policy, "permitted", (!permitted.is_empty()).then(|| json!(permitted)));
    put(&mut policy, "allow_guests", allow_guests.map(Value::from));
    put(&mut policy, "blocked", (!blocked.is_empty()).then(|| json!(blocked)));
    put(&mut body, "policy", (!policy.is_empty()).then_some(Value::Object(policy)));
    put(&mut body, "label", label.map(Value::from));
    put(&mut body, "local_domains", (!local_domains.is_empty()).then(|| json!(local_domains)));
    put(&mut body, "hidden_domains", (!hidden_domains.is_empty()).then(|| json!(hidden_domains)));
    put(&mut body, "webhook", webhook.map(|url| json!({ "url": url })));
    Value::Object(body)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn path(id: &NetworkId) -> String {
    format!("/admin/v1/networks/{id}")
}

fn federation(text: &str) -> Result<Federation, String> {
    match text {
        "disabled" => Ok(Federation::Disabled),
        "open" => Ok(Federation::Open),
        "restricted" => Ok(Federation::Restricted),
        _ => Err("expected disabled, open or restricted".to_owned()),
    }
}

fn permitted(text: &str) -> Result<Permitted, String> {
    let expected = || "expected DOMAIN/NETWORK, such as beta.test/main".to_owned();
    let (domain, network) = text.split_once('/').ok_or_else(expected)?;
    let (domain, network) =
        (domain.parse().map_err(|_| expected())?, network.parse().map_err(|_| expected())?);
    Ok(Permitted { domain, network })
}

fn federation_name(federation: Federation) -> &'static str {
    match federation {
        Federation::Disabled => "disabled",
        Federation::Open => "open",
        Federation::Restricted => "restricted",
    }
}

fn list(networks: &[Network]) -> String {
    let row = |network: &Network| {
        [
            network.id.clone(),
            network.local_domains.join(","),
            federation_name(network.policy.federation).to_owned(),
            network.inbox.depth.to_string(),
            network.receipts.depth.to_string(),
            network.tokens.to_string(),
            console::or_dash(Some(network.label.clone())),
        ]
    };
    let header = ["NETWORK", "LOCAL DOMAINS", "FEDERATION", "INBOX", "RECEIPTS", "TOKENS", "LABEL"];
    console::table(header, &networks.iter().map(row).collect::<Vec<_>>())
}

fn text(network: &Network) -> String {
    let Network { id, label, local_domains, hidden_domains, policy, webhook, tokens, inbox, receipts } =
        network;
    let queue = |queue: &QueueView| {
        let oldest = queue.oldest.map_or_else(String::new, |at| format!(", oldest {}", console::age(at)));
        format!("{} ({}{oldest})", queue.depth, console::bytes(queue.bytes))
    };
    let permitted = policy.permitted.iter().map(|pair| format!("{}/{}", pair.domain, pair.network));
    let blocked = policy.blocked.iter().map(Address::as_str);
    console::fields(&[
        ("network", id.clone()),
        ("label", console::or_dash(Some(label.clone()))),
        ("local domains", console::or_dash(Some(local_domains.join(", ")))),
        ("hidden domains", console::or_dash(Some(hidden_domains.join(", ")))),
        ("federation", federation_name(policy.federation).to_owned()),
        ("permitted", console::or_dash(Some(permitted.collect::<Vec<_>>().join(", ")))),
        ("guests", if policy.allow_guests { "allowed" } else { "kept out" }.to_owned()),
        ("blocked", console::or_dash(Some(blocked.collect::<Vec<_>>().join(", ")))),
        ("webhook", console::or_dash(webhook.as_ref().map(|webhook| webhook.url.clone()))),
        ("tokens", tokens.to_string()),
        ("inbox", queue(inbox)),
        ("receipts", queue(receipts)),
    ])
}
