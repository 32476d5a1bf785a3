//! Certificates and API keys are replaced while envelopes flow, and none is lost.

use serde_json::{Value, json};

use super::*;

/// The state of each of a peer's pins, by pin.
async fn pin_states(site: &Site, peer: &Site) -> Vec<(String, String)> {
    let view = site.peer(peer).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let entries = view["pins"].as_array().unwrap();
    entries.iter().map(|entry| (text(&entry["pin"]), text(&entry["state"]))).collect()
}

/// Breaks the link, and waits until there is a new one.
async fn reconnect(alpha: &Site, beta: &Site) {
    alpha.on_peer(beta, "pause").await;
    alpha.on_peer(beta, "resume").await;
    alpha.up(beta).await;
    beta.up(alpha).await;
}

#[tokio::test]
async fn a_certificate_is_rotated_under_load_without_a_lost_envelope() {
    let (alpha, beta) = two_sites().await;
    let (to_alpha, to_beta) = (Reader::start(&alpha), Reader::start(&beta));
    let (from_alpha, from_beta) = (Load::start(&alpha, &beta), Load::start(&beta, &alpha));
    tokio::join!(to_beta.more(100), to_alpha.more(100));

    let old = alpha.get("/admin/v1/identity").await["current"]["pin"].clone();
    let rotated = alpha.post("/admin/v1/identity/rotate", Value::Null).await;
    let new = rotated["next"]["pin"].clone();
    eventually("beta has stored it", async || {
        alpha.get("/admin/v1/identity").await["next"]["ready"] == json!([beta.domain])
    })
    .await;
    tokio::join!(to_beta.more(100), to_alpha.more(100));
    let activated = alpha.post("/admin/v1/identity/activate", Value::Null).await;
    assert_eq!((&activated["current"]["pin"], &activated["next"]), (&new, &Value::Null));
    tokio::join!(to_beta.more(100), to_alpha.more(100));
    reconnect(&alpha, &beta).await;
    tokio::join!(to_beta.more(100), to_alpha.more(100));

    let state = |pin: &Value, state: &str| (pin.as_str().unwrap().to_owned(), state.to_owned());
    assert_eq!(pin_states(&beta, &alpha).await, [state(&old, "retiring"), state(&new, "current")]);
    let path = format!("/admin/v1/peers/{}/revoke-pin", alpha.domain);
    beta.post(&path, json!({ "pin": old })).await;
    assert!(beta.is_up(&alpha).await, "the old certificate is not needed any more");

    let sent = from_alpha.stop_and_read_receipts().await;
    to_beta.finish(sent).await;
    let sent = from_beta.stop_and_read_receipts().await;
    to_alpha.finish(sent).await;
}

#[tokio::test]
async fn a_certificate_is_not_activated_while_a_peer_has_not_stored_it() {
    let (alpha, mut beta) = two_sites().await;
    beta.stop().await;
    alpha.post("/admin/v1/identity/rotate", Value::Null).await;
    let (status, problem) =
        alpha.admin(http::Method::POST, "/admin/v1/identity/activate", &Value::Null).await;
    assert_eq!(status, 409);
    assert!(problem["detail"].as_str().unwrap().contains("beta.test"), "{problem}");
    beta.start().await;
    eventually("beta has stored it", async || {
        alpha.get("/admin/v1/identity").await["next"]["ready"] == json!([beta.domain])
    })
    .await;
    alpha.post("/admin/v1/identity/activate", Value::Null).await;
    reconnect(&alpha, &beta).await;
}

#[tokio::test]
async fn an_api_key_is_rotated_under_load_without_a_lost_envelope_and_the_old_one_ends() {
    let (alpha, beta) = (Site::new("alpha.test").await, Site::new("beta.test").await);
    let invitation = alpha.invite(&beta).await;
    let old_key = invitation["bundle"]["api_key"].clone();
    alpha.accept(beta.accept(invitation).await).await;
    alpha.up(&beta).await;
    beta.up(&alpha).await;
    let (to_alpha, to_beta) = (Reader::start(&alpha), Reader::start(&beta));
    let (from_alpha, from_beta) = (Load::start(&alpha, &beta), Load::start(&beta, &alpha));
    tokio::join!(to_beta.more(100), to_alpha.more(100));

    let old_id = alpha.peer(&beta).await["keys_issued"][0].clone();
    alpha.on_peer(&beta, "rotate-key").await;
    let issued = alpha.peer(&beta).await["keys_issued"].clone();
    let new_id = issued[1].clone();
    assert_eq!(issued, json!([old_id, new_id]), "both are good until the new one was used");
    eventually("beta has stored it", async || beta.peer(&alpha).await["keys_held"] == issued).await;
    tokio::join!(to_beta.more(100), to_alpha.more(100));
    reconnect(&alpha, &beta).await;
    assert_eq!(alpha.peer(&beta).await["keys_issued"], json!([new_id]), "the new one was used");
    alpha.on_peer(&beta, "retire-keys").await;
    assert!(alpha.is_up(&beta).await);
    tokio::join!(to_beta.more(100), to_alpha.more(100));

    let sent = from_alpha.stop_and_read_receipts().await;
    to_beta.finish(sent).await;
    let sent = from_beta.stop_and_read_receipts().await;
    to_alpha.finish(sent).await;

    let mut add = by_hand(&beta, &alpha).await;
    add["api_key"] = old_key;
    beta.post("/admin/v1/peers", add).await;
    alpha.on_peer(&beta, "pause").await;
    alpha.on_peer(&beta, "resume").await;
    beta.says(&alpha, "API key is not one we issued").await;
    assert!(!beta.is_up(&alpha).await);
}
