//! Peers added by hand, with pins or under a certificate authority.

use trunkline_gateway::config::IdentityMode;

use super::site::Plan;
use super::*;

/// A certificate authority.
struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap())
    }

    /// Gives a site a new certificate for its domain, in place of the one it has.
    fn certify(&self, site: &Site) {
        use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([site.domain.clone()]).unwrap();
        params.extended_key_usages = vec![ServerAuth, ClientAuth];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        std::fs::write(site.path("identity/current.key"), key.serialize_pem()).unwrap();
        std::fs::write(site.path("identity/current.crt"), certificate.pem()).unwrap();
    }
}

/// How `one` trusts `other`, when it is by the certificate in use now.
async fn certificate(other: &Site) -> Value {
    json!({ "certificates": [other.get("/admin/v1/identity/certificate").await] })
}

/// Adds `other` at `one` by hand, with the key that it issued, when that is here. Answers the key issued to it.
async fn add(one: &Site, other: &Site, trust: &Value, key: Option<&Value>) -> Value {
    let mut body = json!({
        "domain": other.domain, "endpoints": [other.door.addr()], "allow_private_ips": true,
        "local_domains": [{ "domain": other.domain, "network": "main" }],
    });
    let body_map = body.as_object_mut().unwrap();
    body_map.extend(trust.as_object().unwrap().clone());
    body_map.extend(key.map(|key| ("api_key".to_owned(), key.clone())));
    one.post("/admin/v1/peers", body).await["api_key"].take()
}

/// As docs/OPERATIONS.md says: each side adds the other, hands over the key it got, and adds again with the other's.
async fn peer_by_hand(alpha: &Site, trust_in_alpha: &Value, beta: &Site, trust_in_beta: &Value) {
    let for_beta = add(alpha, beta, trust_in_beta, None).await;
    let for_alpha = add(beta, alpha, trust_in_alpha, None).await;
    assert_eq!(alpha.peer(beta).await["state"], "invited");
    add(alpha, beta, trust_in_beta, Some(&for_alpha)).await;
    add(beta, alpha, trust_in_alpha, Some(&for_beta)).await;
    alpha.up(beta).await;
    beta.up(alpha).await;
}

async fn exchange_both_ways(alpha: &Site, beta: &Site) {
    for (one, other) in [(alpha, beta), (beta, alpha)] {
        let (_, result) = one.api.submit(&one.user("ann"), &other.user("bob")).await;
        assert_eq!(other.api.receive().await["id"], result["id"]);
    }
}

#[tokio::test]
async fn deployments_are_peered_by_hand_with_certificates_and_keys() {
    let (alpha, beta) = (Site::new("alpha.test").await, Site::new("beta.test").await);
    peer_by_hand(&alpha, &certificate(&alpha).await, &beta, &certificate(&beta).await).await;
    exchange_both_ways(&alpha, &beta).await;
}

/// Alpha, certified by the authority, and beta who trusts that and shows a pinned certificate.
async fn under(authority: &Authority, trusted: &Authority) -> (Site, Site, Value) {
    let plan = Plan::new("alpha.test").configure(|c| c.identity.mode = IdentityMode::Ca);
    authority.certify(plan.site());
    let (alpha, beta) = (plan.start().await, Site::new("beta.test").await);
    (alpha, beta, json!({ "ca_pem": trusted.0.pem() }))
}

#[tokio::test]
async fn a_peer_under_an_authority_may_replace_its_certificate_without_telling_anybody() {
    let authority = Authority::new();
    let (alpha, beta, trust_in_alpha) = under(&authority, &authority).await;
    peer_by_hand(&alpha, &trust_in_alpha, &beta, &certificate(&beta).await).await;
    assert_eq!(beta.peer(&alpha).await["trust"], "ca");
    exchange_both_ways(&alpha, &beta).await;

    let pin = async || alpha.get("/admin/v1/identity").await["current"]["pin"].clone();
    let old = pin().await;
    authority.certify(&alpha);
    eventually("the new certificate is taken up", async || pin().await != old).await;
    alpha.on_peer(&beta, "pause").await;
    alpha.on_peer(&beta, "resume").await;
    alpha.up(&beta).await;
    beta.up(&alpha).await;
    exchange_both_ways(&alpha, &beta).await;
}

#[tokio::test]
async fn a_certificate_under_another_authority_is_refused_and_both_operators_are_told() {
    let (alpha, beta, trust_in_alpha) = under(&Authority::new(), &Authority::new()).await;
    let for_alpha = add(&beta, &alpha, &trust_in_alpha, None).await;
    let for_beta = add(&alpha, &beta, &certificate(&beta).await, Some(&for_alpha)).await;
    add(&beta, &alpha, &trust_in_alpha, Some(&for_beta)).await;
    alpha.says(&beta, "refused our certificate").await;
    beta.says(&alpha, "not good under its CA bundle").await;
    assert!(!alpha.is_up(&beta).await && !beta.is_up(&alpha).await);
}
