//! Joining, changing and leaving.

use trunkline_http::problem::{
    BAD_REQUEST, FORBIDDEN, METHOD_NOT_ALLOWED, NOT_FOUND, TOO_LARGE, TOO_MANY_REQUESTS, UNAUTHENTICATED,
    UNSUPPORTED_MEDIA_TYPE,
};

use super::*;

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// A trickled candidate; with other credentials than the offer's, an ICE restart.
fn fragment(ufrag: &str) -> String {
    format!(
        "a=group:BUNDLE 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:{ufrag}\r\n\
         a=ice-pwd:vw5LmwG4y/e6dPP/zAP9Gp5k\r\na=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\n"
    )
}

fn ufrag_of(description: &str) -> String {
    let line = description.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).unwrap();
    line.trim().to_owned()
}

fn pwd_of(description: &str) -> String {
    let line = description.lines().find_map(|line| line.strip_prefix("a=ice-pwd:")).unwrap();
    line.trim().to_owned()
}

#[tokio::test]
async fn an_offer_is_answered_with_a_session_that_can_be_left() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let token = served.token(&call, "Ann").await;
    let response = served.join(&call, &token, OFFER).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(header(&response, CONTENT_TYPE), SDP);
    assert_eq!(header(&response, "accept-patch"), format!("{SDP}, {FRAGMENT}"));
    assert_eq!(header(&response, "cache-control"), "no-store");
    let (location, etag) = (header(&response, LOCATION), header(&response, ETAG));
    assert!(location.starts_with(&format!("/v1/calls/{call}/participants/")), "{location}");
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    let answer = response.text().await.unwrap();
    assert!(answer.starts_with("v=0\r\n") && answer.contains("a=ice-lite\r\n"), "{answer}");

    let shown = served.json("GET", &format!("/v1/calls/{call}"), None).await;
    assert_eq!(shown["participants"][0]["participant"], "Ann");
    let left = served.request("DELETE", &location).send().await.unwrap();
    assert_eq!(left.status(), StatusCode::NO_CONTENT);
    tokio::time::timeout(PATIENCE, async {
        while served.node.list().iter().any(|call| call.participants > 0) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    problem(served.request("DELETE", &location).send().await.unwrap(), NOT_FOUND).await;
}

#[tokio::test]
async fn a_bad_token_is_401_another_calls_403_and_a_missing_call_404() {
    let served = served().await;
    let (call, other) = (served.call(json!({})).await, served.call(json!({})).await);
    let token = served.token(&other, "Ann").await;
    problem(served.join(&call, "nonsense", OFFER).send().await.unwrap(), UNAUTHENTICATED).await;
    problem(served.join(&call, ADMIN, OFFER).send().await.unwrap(), UNAUTHENTICATED).await;
    problem(served.join(&call, &token, OFFER).send().await.unwrap(), FORBIDDEN).await;
    let path = format!("/v1/calls/{call}/participants");
    problem(served.request("POST", &path).body(OFFER).send().await.unwrap(), UNAUTHENTICATED).await;

    let mut tokens = Tokens::new(None, None);
    tokens.trust_secret(&[7; 32]);
    for gone in ["nowhere", "0007-AABk_____wAAAAAAAAAAAAAAAAAAAAA"] {
        let grant = crate::token::Grant {
            participant: "Ann".into(),
            call: gone.to_owned(),
            role: trunkline_relay_proto::event::Role::Presenter,
        };
        let token = tokens.mint(&grant, now_s() + 60).unwrap();
        problem(served.join(gone, &token, OFFER).send().await.unwrap(), NOT_FOUND).await;
        let expired = tokens.mint(&grant, now_s() - 60).unwrap();
        let document =
            problem(served.join(gone, &expired, OFFER).send().await.unwrap(), UNAUTHENTICATED).await;
        assert!(document["detail"].as_str().unwrap().contains("expired"), "{document}");
    }
}

#[tokio::test]
async fn an_unusable_offer_is_refused_with_its_line_and_a_reason() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let token = served.token(&call, "Ann").await;
    let broken = OFFER.replacen("a=rtcp-mux", "a=rtcp-other", 1);
    for (offer, line) in [("v=1\r\n", 1), (&*broken, 0), ("", 1)] {
        let document =
            problem(served.join(&call, &token, offer).send().await.unwrap(), fail::UNUSABLE_OFFER).await;
        let found = document["line"].as_u64().unwrap();
        assert!(line == 0 || found == line, "{document}");
        assert!(document["detail"].as_str().unwrap().starts_with(&format!("line {found}: ")), "{document}");
    }
    let path = format!("/v1/calls/{call}/participants");
    let posted = |kind: &str, body: Vec<u8>| {
        served.request("POST", &path).bearer_auth(&token).header(CONTENT_TYPE, kind).body(body).send()
    };
    problem(posted("application/json", OFFER.into()).await.unwrap(), UNSUPPORTED_MEDIA_TYPE).await;
    problem(posted(SDP, vec![b'v', 0xff]).await.unwrap(), BAD_REQUEST).await;
    problem(posted(SDP, vec![b'v'; (1 << 20) + 1]).await.unwrap(), TOO_LARGE).await;
    assert_eq!(served.json("GET", "/v1/calls", None).await["participants"], 0);
}

#[tokio::test]
async fn a_full_call_is_409_and_who_joins_again_takes_their_own_place() {
    let served = served().await;
    let call = served.call(json!({ "max_participants": 1 })).await;
    served.joined(&call, "Ann").await;
    let token = served.token(&call, "Bob").await;
    problem(served.join(&call, &token, OFFER).send().await.unwrap(), fail::FULL).await;
    served.joined(&call, "Ann").await;
}

#[tokio::test]
async fn a_draining_node_takes_nobody_and_nothing_until_that_is_undone() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let token = served.token(&call, "Ann").await;
    assert_eq!(served.json("POST", "/v1/drain", None).await, json!({ "draining": true, "calls": 1 }));
    let refused = served.join(&call, &token, OFFER).send().await.unwrap();
    assert!(refused.headers().contains_key(RETRY_AFTER));
    problem(refused, fail::DRAINING).await;
    problem(served.admin("POST", "/v1/calls", None).await, fail::DRAINING).await;
    assert_eq!(served.json("DELETE", "/v1/drain", None).await, json!({ "draining": false, "calls": 1 }));
    served.joined(&call, "Ann").await;
}

#[tokio::test]
async fn a_new_offer_is_answered_and_keeps_the_etag_unless_it_restarts_ice() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let (session, etag) = served.joined(&call, "Ann").await;
    let patch = |offer: String| {
        served
            .request("PATCH", &session)
            .header(CONTENT_TYPE, SDP)
            .header("if-match", &etag)
            .body(offer)
            .send()
    };
    let same = patch(OFFER.to_owned()).await.unwrap();
    assert_eq!((same.status(), header(&same, ETAG)), (StatusCode::OK, etag.clone()));
    assert_eq!(header(&same, CONTENT_TYPE), SDP);
    let pwd = pwd_of(&same.text().await.unwrap());

    let restart =
        patch(OFFER.replace(&format!("ice-ufrag:{}", ufrag_of(OFFER)), "ice-ufrag:anew")).await.unwrap();
    let status = restart.status();
    let again = header(&restart, ETAG);
    assert_eq!(status, StatusCode::OK);
    assert_ne!(again, etag);
    assert_ne!(pwd_of(&restart.text().await.unwrap()), pwd);
    problem(patch(OFFER.to_owned()).await.unwrap(), fail::STALE).await;
}

#[tokio::test]
async fn a_fragment_trickles_or_restarts_ice_as_rfc_9725_has_it() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let (session, etag) = served.joined(&call, "Ann").await;
    let patch = |if_match: Option<&str>, body: String| {
        let mut request = served.request("PATCH", &session).header(CONTENT_TYPE, FRAGMENT).body(body);
        if let Some(if_match) = if_match {
            request = request.header("if-match", if_match);
        }
        request.send()
    };
    let known = fragment(&ufrag_of(OFFER));
    assert_eq!(patch(Some(&etag), known.clone()).await.unwrap().status(), StatusCode::NO_CONTENT);
    problem(patch(None, known.clone()).await.unwrap(), fail::NO_PRECONDITION).await;
    problem(patch(Some("\"stale\""), known.clone()).await.unwrap(), fail::STALE).await;
    let document = problem(patch(Some(&etag), "nonsense".into()).await.unwrap(), fail::UNUSABLE_OFFER).await;
    assert_eq!(document["line"], 1);

    let restarted = patch(Some("*"), fragment("anew")).await.unwrap();
    assert_eq!((restarted.status(), header(&restarted, CONTENT_TYPE)), (StatusCode::OK, FRAGMENT.to_owned()));
    let again = header(&restarted, ETAG);
    assert_ne!(again, etag);
    assert!(restarted.text().await.unwrap().contains("a=ice-pwd:"));
    problem(patch(Some(&etag), known).await.unwrap(), fail::STALE).await;
    assert_eq!(patch(Some(&again), fragment("anew")).await.unwrap().status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_sessions_url_is_enough_and_a_token_that_comes_with_it_must_be_the_participants() {
    let served = served().await;
    let (call, other) = (served.call(json!({})).await, served.call(json!({})).await);
    let (session, _) = served.joined(&call, "Ann").await;
    let delete = |token: String| served.request("DELETE", &session).bearer_auth(token).send();
    problem(delete("nonsense".into()).await.unwrap(), UNAUTHENTICATED).await;
    problem(delete(served.token(&other, "Ann").await).await.unwrap(), FORBIDDEN).await;
    problem(delete(served.token(&call, "Bob").await).await.unwrap(), FORBIDDEN).await;
    let elsewhere = session.replace(&call, &other);
    problem(served.request("DELETE", &elsewhere).send().await.unwrap(), NOT_FOUND).await;
    let guess = format!("/v1/calls/{call}/participants/AAAAAAAAAAAAAAAAAAAAAA");
    problem(served.request("PATCH", &guess).send().await.unwrap(), NOT_FOUND).await;
    let patch = served.request("PATCH", &session).header(CONTENT_TYPE, "text/plain").body("x");
    problem(patch.send().await.unwrap(), UNSUPPORTED_MEDIA_TYPE).await;
    assert_eq!(delete(served.token(&call, "Ann").await).await.unwrap().status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn joins_from_one_address_are_limited() {
    let served = served_with(Recorder::off(), |config| config.limits.joins_per_s = NonZeroU32::MIN).await;
    let call = served.call(json!({})).await;
    let token = served.token(&call, "Ann").await;
    let mut refused = None;
    for _ in 0..10 {
        let response = served.join(&call, &token, "").send().await.unwrap();
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(response);
            break;
        }
    }
    problem(refused.expect("one of ten in a second is too many"), TOO_MANY_REQUESTS).await;
}

#[tokio::test]
async fn changes_of_one_session_are_limited_and_of_others_are_not() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let ((ann, _), (bob, _)) = (served.joined(&call, "Ann").await, served.joined(&call, "Bob").await);
    let change =
        |session: &str| served.request("PATCH", session).header(CONTENT_TYPE, SDP).body(OFFER).send();
    let mut statuses = Vec::new();
    for _ in 0..40 {
        let response = change(&ann).await.unwrap();
        statuses.push(response.status());
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            assert!(header(&response, "retry-after").parse::<u64>().unwrap() >= 1);
            problem(response, TOO_MANY_REQUESTS).await;
            break;
        }
    }
    let done = statuses.iter().filter(|status| **status == StatusCode::OK).count();
    assert!((10..40).contains(&done) && done + 1 == statuses.len(), "{statuses:?}");
    assert_eq!(change(&bob).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn pages_of_listed_origins_may_join_and_read_what_they_need() {
    let served = served_with(Recorder::off(), |config| {
        config.api.origins = vec!["https://app.test".parse().unwrap()];
    })
    .await;
    let call = served.call(json!({})).await;
    let path = format!("/v1/calls/{call}/participants");
    let preflight = |origin: &str| {
        served
            .request("OPTIONS", &path)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization, content-type")
            .send()
    };
    let allowed = preflight("https://app.test").await.unwrap();
    assert_eq!(allowed.status(), StatusCode::NO_CONTENT);
    assert_eq!(header(&allowed, ACCESS_CONTROL_ALLOW_ORIGIN), "https://app.test");
    assert!(header(&allowed, "access-control-allow-headers").contains("Authorization"));
    assert!(header(&allowed, "access-control-allow-methods").contains("PATCH"));
    let other = preflight("https://evil.test").await.unwrap();
    assert!(!other.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));

    let token = served.token(&call, "Ann").await;
    let joined = served.join(&call, &token, OFFER).header("origin", "https://app.test").send().await.unwrap();
    assert!(header(&joined, "access-control-expose-headers").contains("Location"));
    let refused = served.join(&call, "x", OFFER).header("origin", "https://app.test").send().await.unwrap();
    assert_eq!(header(&refused, ACCESS_CONTROL_ALLOW_ORIGIN), "https://app.test");
}

#[tokio::test]
async fn options_say_what_can_be_posted_and_patched() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let (session, _) = served.joined(&call, "Ann").await;
    let posted = served.request("OPTIONS", &format!("/v1/calls/{call}/participants")).send().await.unwrap();
    assert_eq!((posted.status(), header(&posted, "accept-post")), (StatusCode::NO_CONTENT, SDP.to_owned()));
    let patched = served.request("OPTIONS", &session).send().await.unwrap();
    assert_eq!(header(&patched, "accept-patch"), format!("{SDP}, {FRAGMENT}"));
    problem(served.request("PUT", &session).send().await.unwrap(), METHOD_NOT_ALLOWED).await;
}

/// The `Link` header of an answer.
fn link(response: &Response) -> Option<String> {
    Some(response.headers().get("link")?.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn whoever_may_join_is_told_of_the_turn_server_and_nobody_else_is() {
    let served = served_with(Recorder::off(), |config| {
        config.media.tcp_port = 8443;
        config.media.tls_name = Some("relay.alpha.test".into());
    })
    .await;
    let call = served.call(json!({})).await;
    let token = served.token(&call, "Ann").await;
    let path = format!("/v1/calls/{call}/participants");
    let told = served.request("OPTIONS", &path).bearer_auth(&token).send().await.unwrap();
    assert_eq!((told.status(), header(&told, "accept-post")), (StatusCode::NO_CONTENT, SDP.to_owned()));
    let told = link(&told).unwrap();
    let (url, rest) = told.split_once("; rel=\"ice-server\"; username=\"").unwrap();
    assert_eq!(url, "<turns:relay.alpha.test:8443?transport=tcp>");
    assert!(rest.ends_with("\"; credential-type=\"password\""), "{rest}");
    let joined = served.join(&call, &token, OFFER).send().await.unwrap();
    assert!(link(&joined).unwrap().starts_with(url));

    let stranger = served.request("OPTIONS", &path).send().await.unwrap();
    assert_eq!((stranger.status(), link(&stranger)), (StatusCode::NO_CONTENT, None));
    problem(served.request("OPTIONS", &path).bearer_auth("x").send().await.unwrap(), UNAUTHENTICATED).await;
}

#[tokio::test]
async fn without_a_certificates_name_there_is_no_turn_server() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let token = served.token(&call, "Ann").await;
    let joined = served.join(&call, &token, OFFER).send().await.unwrap();
    assert_eq!(link(&joined), None);
}
