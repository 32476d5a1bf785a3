//! `demo`: two peered gateways on loopback from an empty directory, real envelopes both ways.

use std::io::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Common;
use crate::error::LoadError;
use crate::fleet;
use crate::gateway::Gateway;
use crate::http::{Client, Media};

/// How long an envelope may take in a demo. It takes milliseconds.
const DELIVERED_WITHIN: Duration = Duration::from_secs(10);

/// Envelopes each way, all of one conversation, so that their order shows.
const ENVELOPES: u32 = 3;

/// Whether to stay.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Check the delivery, then stop.
    #[arg(long)]
    pub once: bool,
}

/// What was sent, and seen to arrive.
struct Delivery {
    from: String,
    to: String,
    took: Duration,
}

/// Runs it.
///
/// # Errors
/// When a gateway does not do what it should.
pub(crate) async fn run(common: &Common, args: &DemoArgs) -> Result<bool, LoadError> {
    let mut fleet = common.fleet()?;
    let steps = !common.json;
    say(steps, &format!("Two deployments in {}:", fleet.root().display()))?;
    let alpha = fleet.deploy("alpha.test").await?;
    let beta = fleet.deploy("beta.test").await?;
    for gateway in [&alpha, &beta] {
        let what = format!(
            "  {} made and started; peers reach it at {}",
            gateway.domain, gateway.addresses.federation
        );
        say(steps, &what)?;
    }
    fleet::peer(&alpha, &beta).await?;
    let transport = fleet::transport(&alpha, &beta.domain).await?;
    say(steps, &format!("Peered with a bundle each way; the link is up over {transport}."))?;
    let there = deliver(&alpha, &beta, "ann", "bob").await?;
    let back = deliver(&beta, &alpha, "bob", "ann").await?;
    for delivery in [&there, &back] {
        let ms = delivery.took.as_secs_f64() * 1e3;
        let (from, to) = (&delivery.from, &delivery.to);
        say(
            steps,
            &format!("{ENVELOPES} envelopes from {from} to {to}: arrived in order, receipted, {ms:.0} ms."),
        )?;
    }
    let report = json!({
        "scenario": "demo",
        "delivered": 2 * ENVELOPES,
        "transport": transport,
        "alpha": access(&alpha),
        "beta": access(&beta),
    });
    if common.json {
        crate::report::print(&report, true)?;
    }
    if args.once {
        say(steps, "All delivered. Stopping.")?;
    } else {
        say(steps, &how_to_go_on(&alpha, &beta))?;
        // Ends when the user interrupts; whatever the outcome, the gateways go with it.
        let _ = tokio::signal::ctrl_c().await;
        say(steps, "\nStopping.")?;
    }
    let (mut alpha, mut beta) = (alpha, beta);
    tokio::try_join!(alpha.stop(), beta.stop())?;
    Ok(true)
}

/// Sends a few envelopes as `from`'s messaging server, takes them as `to`'s, and reads the receipts.
async fn deliver(from: &Gateway, to: &Gateway, sender: &str, recipient: &str) -> Result<Delivery, LoadError> {
    let (sender, recipient) = (format!("{sender}@{}", from.domain), format!("{recipient}@{}", to.domain));
    let (mut outgoing, mut incoming) = (client(from)?, client(to)?);
    let started = Instant::now();
    let mut ids = Vec::new();
    for number in 0..ENVELOPES {
        let envelope = json!({
            "from": sender,
            "to": [recipient],
            "kind": "message",
            "conversation": "demo",
            "payload": STANDARD.encode(text(number)),
        });
        let answer = ask(&mut outgoing, Method::POST, "/v1/envelopes", Some(&envelope)).await?;
        ids.push(answer.get("id").cloned().unwrap_or_default());
    }
    let arrived = collect(&mut incoming, "/v1/inbox", "envelopes").await?;
    for (number, envelope) in (0..).zip(&arrived) {
        let payload = envelope.get("payload").and_then(Value::as_str).unwrap_or_default();
        if STANDARD.decode(payload).ok().as_deref() != Some(text(number).as_bytes())
            || envelope.get("id") != ids.get(number as usize)
            || envelope.get("from") != Some(&json!(sender))
        {
            return Err(LoadError::NotAccepted(format!("envelope {number} arrived as {envelope}")));
        }
    }
    let receipts = collect(&mut outgoing, "/v1/receipts", "receipts").await?;
    if let Some(other) = receipts.iter().find(|receipt| receipt.get("state") != Some(&json!("delivered"))) {
        return Err(LoadError::NotAccepted(format!("a receipt says {other}")));
    }
    Ok(Delivery { from: sender, to: recipient, took: started.elapsed() })
}

/// Reads a queue until all that was sent is there, and acknowledges it.
async fn collect(client: &mut Client, queue: &str, field: &str) -> Result<Vec<Value>, LoadError> {
    let deadline = Instant::now() + DELIVERED_WITHIN;
    let mut all = Vec::new();
    while all.len() < ENVELOPES as usize {
        if Instant::now() > deadline {
            let what = format!("the arrival of {ENVELOPES} in {queue} ({} came)", all.len());
            return Err(LoadError::TimedOut { what, waited: DELIVERED_WITHIN });
        }
        let answer = ask(client, Method::GET, &format!("{queue}?wait_s=2"), None).await?;
        let Some(items) = answer.get(field).and_then(Value::as_array) else { continue };
        if let Some(last) = items.last().and_then(|item| item.get("seq")) {
            ask(client, Method::POST, &format!("{queue}/ack"), Some(&json!({ "up_to": last }))).await?;
        }
        all.extend(items.iter().cloned());
    }
    Ok(all)
}

async fn ask(
    client: &mut Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, LoadError> {
    let request = format!("{method} {path}");
    let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let answer = client.call(method, path, Media::Json, body).await?;
    fleet::parse(&request, &answer)
}

fn client(gateway: &Gateway) -> Result<Client, LoadError> {
    let api = gateway.api()?;
    Ok(Client::new(api.address, &api.token))
}

fn text(number: u32) -> String {
    format!("opaque bytes {number}")
}

/// Where a deployment's APIs are.
fn access(gateway: &Gateway) -> Value {
    json!({
        "api": format!("http://{}", gateway.addresses.api),
        "api_token_file": gateway.network_token(),
        "admin": format!("http://{}", gateway.addresses.admin),
        "admin_token_file": gateway.admin_token(),
        "dir": gateway.dir,
    })
}

fn how_to_go_on(alpha: &Gateway, beta: &Gateway) -> String {
    let bearer = |file: std::path::PathBuf| format!("-H \"Authorization: Bearer $(cat {})\"", file.display());
    let (a, b) = (&alpha.addresses, &beta.addresses);
    let mut lines = vec![String::new(), "Both keep running. The APIs:".to_owned()];
    for gateway in [alpha, beta] {
        let Gateway { domain, addresses, .. } = gateway;
        lines.push(format!(
            "  {domain:<11} local API http://{}   admin API http://{}",
            addresses.api, addresses.admin
        ));
    }
    lines.extend([
        String::new(),
        "Send an envelope from alpha.test to beta.test:".to_owned(),
        format!("  curl -s {} -H 'Content-Type: application/json' \\", bearer(alpha.network_token())),
        "    -d '{\"from\":\"ann@alpha.test\",\"to\":[\"bob@beta.test\"],\"kind\":\"message\",\"payload\":\"aGVsbG8=\"}' \\"
            .to_owned(),
        format!("    http://{}/v1/envelopes", a.api),
        "Take it at beta.test:".to_owned(),
        format!("  curl -s {} 'http://{}/v1/inbox?wait_s=5'", bearer(beta.network_token()), b.api),
        "See what became of it at alpha.test:".to_owned(),
        format!("  curl -s {} 'http://{}/v1/receipts?wait_s=5'", bearer(alpha.network_token()), a.api),
        "Look at the peering:".to_owned(),
        format!("  curl -s {} http://{}/admin/v1/peers", bearer(alpha.admin_token()), a.admin),
        String::new(),
        "Ctrl-C stops both.".to_owned(),
    ]);
    lines.join("\n")
}

fn say(aloud: bool, text: &str) -> Result<(), LoadError> {
    if !aloud {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(LoadError::io("printing"))
}
