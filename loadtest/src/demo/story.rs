//! The tour without a browser: what a person would click, done and checked step by step.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trunkline_relay_peer::{Plan, Settings};

use super::deployment::Deployment;
use super::person::{Opened, Outcome, Person, text};
use super::server::media_key;
use super::steps::Steps;
use crate::call::clients::{Clients, Joining, Snapshot};
use crate::call::entrance::{Entrance, Participant};
use crate::call::publish::{Publisher, Traffic};
use crate::error::LoadError;
use crate::fleet;
use crate::gateway::NETWORK;

/// Messages that wait for a peer that is paused.
const WAITING: u64 = 5;

/// How long a queue may take to be seen growing and draining, and media to cross. It takes far less.
const SEEN_WITHIN: Duration = Duration::from_secs(15);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Packets of the other's media that prove a call.
const MEDIA_PACKETS: u64 = 50;

/// What both send on the call: a small picture fifteen times a second, and sound.
const TRAFFIC: Traffic = Traffic { video_burst: 3, fps: 15, audio: true, simulcast: false };

/// Plays it, and answers how many messages were delivered.
///
/// # Errors
/// When a step does not do what it should.
pub(crate) async fn play(alpha: &Deployment, beta: &Deployment, steps: &mut Steps) -> Result<u64, LoadError> {
    let (mut ann, mut ben) = (person(alpha).await?, person(beta).await?);
    let mut delivered = keys_and_messages(&mut ann, &mut ben, steps).await?;
    refusal(beta, &mut ann, &ben.address, steps).await?;
    delivered += pause_and_resume(alpha, &beta.gateway.domain, &mut ann, &mut ben, steps).await?;
    delivered += call(alpha, &mut ann, &mut ben, steps).await?;
    Ok(delivered)
}

/// The first person of a deployment.
async fn person(deployment: &Deployment) -> Result<Person, LoadError> {
    let found = deployment.server.people().next();
    let found = found.ok_or_else(|| LoadError::Usage("nobody is there".to_owned()))?;
    Person::open(deployment.server.address, &found.token).await
}

async fn keys_and_messages(ann: &mut Person, ben: &mut Person, steps: &mut Steps) -> Result<u64, LoadError> {
    ann.introduce(&ben.address).await?;
    ben.knows(&ann.address).await?;
    ann.knows(&ben.address).await?;
    let number = ann.safety_number(&ben.address)?;
    if number != ben.safety_number(&ann.address)? {
        return Err(LoadError::NotAccepted("the two see different safety numbers".to_owned()));
    }
    steps.done("ann and ben exchanged keys through their gateways; both see the same safety number")?;
    for (number, words) in ["Good morning!", "Is beta up?"].into_iter().enumerate() {
        say(ann, ben, words).await?;
        say(ben, ann, &format!("It is, {number}.")).await?;
    }
    steps.done("messages both ways: sealed, delivered, receipted, and opened by the other alone")?;
    Ok(4)
}

/// A message that is delivered, receipted and opened.
async fn say(from: &mut Person, to: &mut Person, words: &str) -> Result<(), LoadError> {
    let outcome = from.send_and_see(&to.address, "message", &json!({ "text": words })).await?;
    if outcome != Outcome::Delivered {
        return Err(LoadError::NotAccepted(format!("a receipt says {outcome:?}")));
    }
    heard(to, from, words).await
}

async fn heard(by: &mut Person, from: &Person, words: &str) -> Result<(), LoadError> {
    let Opened { from: sender, kind, content } = by.receive().await?;
    if sender == from.address && kind == "message" && content.get("text") == Some(&json!(words)) {
        return Ok(());
    }
    Err(LoadError::NotAccepted(format!("{kind} came instead of the message that was sent, or out of order")))
}

/// beta's network is restricted, so that alpha may not write to it; then it is open again.
async fn refusal(beta: &Deployment, ann: &mut Person, ben: &str, steps: &mut Steps) -> Result<(), LoadError> {
    let open = federation(beta, &json!("restricted")).await?;
    let outcome = ann.send_and_see(ben, "message", &json!({ "text": "Is anybody there?" })).await?;
    let Outcome::Failed(reason) = outcome else {
        return Err(LoadError::NotAccepted("a restricted network took a message".to_owned()));
    };
    federation(beta, &open).await?;
    steps.done(&format!("beta restricted its network: a message was refused, and ann told why ({reason})"))
}

/// Sets how far a deployment's network federates; answers how far it did.
async fn federation(deployment: &Deployment, value: &Value) -> Result<Value, LoadError> {
    let path = format!("/admin/v1/networks/{NETWORK}");
    let mut network = fleet::get(&deployment.gateway, &path).await?;
    let spec = network.as_object_mut().ok_or_else(|| LoadError::Answer {
        request: format!("GET {path}"),
        why: "it is no object".to_owned(),
    })?;
    // What is only shown is not set.
    for shown in ["tokens", "inbox", "receipts"] {
        spec.remove(shown);
    }
    let policy = spec.get_mut("policy").and_then(Value::as_object_mut);
    let before = policy.and_then(|policy| policy.insert("federation".to_owned(), value.clone()));
    fleet::put(&deployment.gateway, &path, &network).await?;
    before.ok_or_else(|| LoadError::Answer { request: path, why: "it has no policy".to_owned() })
}

async fn pause_and_resume(
    alpha: &Deployment,
    peer: &str,
    ann: &mut Person,
    ben: &mut Person,
    steps: &mut Steps,
) -> Result<u64, LoadError> {
    let order = |order: &str| format!("/admin/v1/peers/{peer}/{order}");
    fleet::post(&alpha.gateway, &order("pause"), &json!({})).await?;
    let mut waiting = Vec::new();
    for number in 0..WAITING {
        let content = json!({ "text": format!("waiting {number}") });
        let id = ann.send(&ben.address, "message", &content).await?;
        waiting.push(id.map_err(|reason| LoadError::NotAccepted(format!("while paused: {reason}")))?);
    }
    depth(alpha, peer, WAITING).await?;
    steps.done(&format!("alpha paused beta: {WAITING} messages wait in its queue"))?;
    fleet::post(&alpha.gateway, &order("resume"), &json!({})).await?;
    for (number, id) in waiting.into_iter().enumerate() {
        heard(ben, ann, &format!("waiting {number}")).await?;
        if ann.outcome(id).await? != Outcome::Delivered {
            return Err(LoadError::NotAccepted("a message that waited was not delivered".to_owned()));
        }
    }
    depth(alpha, peer, 0).await?;
    steps.done("alpha resumed: the queue drained, in order and with receipts")?;
    Ok(WAITING)
}

/// Waits until so much waits for a peer.
async fn depth(deployment: &Deployment, peer: &str, wanted: u64) -> Result<(), LoadError> {
    let deadline = Instant::now() + SEEN_WITHIN;
    loop {
        let view = fleet::get(&deployment.gateway, &format!("/admin/v1/peers/{peer}")).await?;
        let found = view.pointer("/outbox/depth").and_then(Value::as_u64);
        if found == Some(wanted) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let what = format!("a queue of {wanted} for {peer} (it is {found:?})");
            return Err(LoadError::TimedOut { what, waited: SEEN_WITHIN });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// ann starts a call, invites ben through the gateways, both join it at alpha's ingress.
async fn call(
    alpha: &Deployment,
    ann: &mut Person,
    ben: &mut Person,
    steps: &mut Steps,
) -> Result<u64, LoadError> {
    let call = ann.start_call().await?;
    let call_id = text(&call, "call_id")?;
    let invitation = json!({
        "call_id": call_id,
        "calluri": call.get("calluri"),
        "page": call.get("page"),
        "token": ann.join_token(&call_id, &ben.address).await?,
        "key": media_key(),
    });
    if ann.send_and_see(&ben.address, "call", &invitation).await? != Outcome::Delivered {
        return Err(LoadError::NotAccepted("the invitation was not delivered".to_owned()));
    }
    let invited = ben.receive().await?;
    if (invited.kind.as_str(), &invited.content) != ("call", &invitation) {
        return Err(LoadError::NotAccepted("the invitation did not arrive as it was sent".to_owned()));
    }
    steps.done("ann started a call at alpha and invited ben through the gateways, sealed")?;

    let epoch = Instant::now();
    let settings = Settings::new(epoch).map_err(|error| LoadError::Usage(error.to_string()))?;
    let settings = settings.like_a_browser().shared();
    let at_alpha = Entrance::over_udp(alpha.ingress_api, &settings);
    // ben knows nothing but what is in the invitation.
    let at_host = at_alpha.at(host(&text(&invited.content, "page")?)?);
    let mut people = Vec::new();
    for (number, entrance, token) in
        [(0, &at_alpha, text(&call, "token")?), (1, &at_host, text(&invited.content, "token")?)]
    {
        let clients = Clients::start(epoch, true)?;
        clients.join(join(entrance, &call_id, &token, number).await?);
        people.push(clients);
    }
    let joined = |seen: &Snapshot| seen.joins.len() == 1;
    until(&people, "both being connected to the call", joined).await?;
    steps.done("ann and ben joined at alpha's ingress, each with a token of their own")?;
    people.iter().for_each(Clients::publish);
    let seen = |seen: &Snapshot| seen.received >= MEDIA_PACKETS && seen.opened > 0;
    until(&people, "each receiving the other's sound and pictures", seen).await?;
    steps.done("each receives the other's sound and pictures through the relay")?;
    people.iter().for_each(Clients::pause);
    ann.end_call(&call_id).await?;
    until(&people, "both being told that the call is over", |seen| seen.failed > 0).await?;
    steps.done("ann ended the call, for both")?;
    Ok(1)
}

async fn join(entrance: &Entrance, call: &str, token: &str, number: u32) -> Result<Joining, LoadError> {
    let plan = Plan::receiver(1, 1).sending(&TRAFFIC.sources());
    let who = Participant { call, token, plan, seed: u64::from(number) + 1 };
    entrance.enter(&who, Some(Publisher::new(TRAFFIC, number, 2))).await
}

/// Waits until something holds for both.
async fn until(people: &[Clients], what: &str, holds: impl Fn(&Snapshot) -> bool) -> Result<(), LoadError> {
    let deadline = Instant::now() + SEEN_WITHIN;
    loop {
        let mut all = true;
        for clients in people {
            all &= holds(&clients.snapshot().await?);
        }
        if all {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(LoadError::TimedOut { what: what.to_owned(), waited: SEEN_WITHIN });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Where a page is.
fn host(page: &str) -> Result<SocketAddr, LoadError> {
    let uri = page.parse::<http::Uri>().ok();
    let host = uri.as_ref().and_then(|uri| uri.authority()?.as_str().parse().ok());
    host.ok_or_else(|| LoadError::NotAccepted("the invitation leads nowhere".to_owned()))
}
