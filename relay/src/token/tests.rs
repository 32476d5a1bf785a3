//! Which tokens open a call, and which do not.

use std::fs;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

const SECRET: [u8; 32] = [7; 32];

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

fn tokens() -> Tokens {
    let mut tokens = Tokens::new(None, None);
    tokens.trust_secret(&SECRET);
    tokens
}

fn grant() -> Grant {
    Grant { participant: "Ann".into(), call: "c1".into(), role: Role::Viewer }
}

fn claims() -> Value {
    json!({ "sub": "Ann", "call": "c1", "role": "viewer", "exp": now() + 60 })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn signed(algorithm: Algorithm, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).unwrap()
}

fn hs256(claims: &Value) -> String {
    signed(Algorithm::HS256, claims, &EncodingKey::from_secret(&SECRET))
}

fn key_pair() -> (EncodingKey, [u8; 32]) {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    let public = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    (EncodingKey::from_ed_der(pkcs8.as_ref()), public.public_key().as_ref().try_into().unwrap())
}

#[test]
fn a_minted_token_gives_what_it_was_minted_for() {
    let token = tokens().mint(&grant(), now() + 60).unwrap();
    assert_eq!(tokens().verify(&token), Ok(grant()));
}

#[test]
fn who_is_not_said_to_be_a_viewer_is_a_presenter() {
    let token = hs256(&json!({ "sub": "Ann", "call": "c1", "exp": now() + 60 }));
    assert_eq!(tokens().verify(&token).unwrap().role, Role::Presenter);
}

#[test]
fn a_token_signed_with_another_secret_or_changed_opens_nothing() {
    let other = signed(Algorithm::HS256, &claims(), &EncodingKey::from_secret(&[8; 32]));
    assert_eq!(tokens().verify(&other), Err(TokenError::Invalid));
    let token = hs256(&claims());
    let (head, rest) = token.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let forged = URL_SAFE_NO_PAD.encode(with("sub", json!("Eve")).to_string());
    assert_eq!(tokens().verify(&format!("{head}.{forged}.{signature}")), Err(TokenError::Invalid));
}

#[test]
fn clocks_may_be_half_a_minute_apart_and_no_more() {
    for (claim, offset, expected) in [
        ("exp", -25, Ok(grant())),
        ("exp", -35, Err(TokenError::Expired)),
        ("nbf", 25, Ok(grant())),
        ("nbf", 40, Err(TokenError::NotYet)),
    ] {
        let at = now().checked_add_signed(offset).unwrap();
        assert_eq!(tokens().verify(&hs256(&with(claim, json!(at)))), expected, "{claim} {offset}");
    }
}

#[test]
fn an_expired_token_that_is_forged_is_only_called_invalid() {
    let forged = signed(Algorithm::HS256, &with("exp", json!(1)), &EncodingKey::from_secret(&[8; 32]));
    assert_eq!(tokens().verify(&forged), Err(TokenError::Invalid));
}

#[test]
fn claims_that_are_missing_or_senseless_open_nothing() {
    let long = "x".repeat(NAME_CHARS_MAX + 1);
    for bad in [
        json!({ "call": "c1", "exp": now() + 60 }),
        json!({ "sub": "Ann", "exp": now() + 60 }),
        json!({ "sub": "Ann", "call": "c1" }),
        with("exp", json!("soon")),
        with("exp", json!(null)),
        with("exp", json!(-1)),
        with("nbf", json!("now")),
        with("sub", json!("")),
        with("sub", json!(" ")),
        with("sub", json!("An\nn")),
        with("sub", json!(long)),
        with("sub", json!(7)),
        with("call", json!("")),
        with("role", json!("admin")),
        json!([]),
    ] {
        assert_eq!(tokens().verify(&hs256(&bad)), Err(TokenError::Invalid), "{bad}");
    }
    let longest = with("sub", json!("ä".repeat(NAME_CHARS_MAX)));
    assert!(tokens().verify(&hs256(&longest)).is_ok());
}

#[test]
fn only_the_configured_issuer_and_audience_are_taken() {
    let mut tokens = Tokens::new(Some("calls.test".into()), Some("relay".into()));
    tokens.trust_secret(&SECRET);
    let token = |iss: Value, aud: Value| {
        let mut claims = claims();
        claims["iss"] = iss;
        claims["aud"] = aud;
        hs256(&claims)
    };
    assert!(tokens.verify(&token(json!("calls.test"), json!("relay"))).is_ok());
    assert!(tokens.verify(&token(json!("calls.test"), json!(["mail", "relay"]))).is_ok());
    for (iss, aud) in [
        (json!("other.test"), json!("relay")),
        (json!("calls.test"), json!("mail")),
        (json!("calls.test"), json!(null)),
        (json!(null), json!("relay")),
        (json!(7), json!("relay")),
    ] {
        assert_eq!(tokens.verify(&token(iss, aud)), Err(TokenError::Invalid));
    }
    assert_eq!(tokens.verify(&tokens.mint(&grant(), now() + 60).unwrap()), Ok(grant()));
}

#[test]
fn a_token_for_others_too_is_taken_when_no_audience_is_configured() {
    assert_eq!(tokens().verify(&hs256(&with("aud", json!(["a", "b"])))), Ok(grant()));
}

#[test]
fn tokens_of_every_trusted_public_key_are_taken_and_of_no_other() {
    let ((first, first_public), (second, second_public), (stranger, _)) =
        (key_pair(), key_pair(), key_pair());
    let mut tokens = Tokens::new(None, None);
    tokens.trust_public_key(&first_public);
    tokens.trust_public_key(&second_public);
    for key in [first, second] {
        assert_eq!(tokens.verify(&signed(Algorithm::EdDSA, &claims(), &key)), Ok(grant()));
        let expired = signed(Algorithm::EdDSA, &with("exp", json!(1)), &key);
        assert_eq!(tokens.verify(&expired), Err(TokenError::Expired));
    }
    assert_eq!(tokens.verify(&signed(Algorithm::EdDSA, &claims(), &stranger)), Err(TokenError::Invalid));
    assert_eq!(tokens.mint(&grant(), now()), Err(NoSecret));
}

#[test]
fn a_public_key_is_never_taken_for_a_secret_nor_a_secret_for_a_public_key() {
    let (private, public) = key_pair();
    let mut tokens = Tokens::new(None, None);
    tokens.trust_public_key(&public);
    // Whoever knows the public key signs with it as if it were a secret.
    let confused = signed(Algorithm::HS256, &claims(), &EncodingKey::from_secret(&public));
    assert_eq!(tokens.verify(&confused), Err(TokenError::Invalid));
    let mut tokens = Tokens::new(None, None);
    tokens.trust_secret(&public);
    assert_eq!(tokens.verify(&signed(Algorithm::EdDSA, &claims(), &private)), Err(TokenError::Invalid));
}

#[test]
fn other_algorithms_of_the_same_key_and_none_at_all_open_nothing() {
    let hs512 = signed(Algorithm::HS512, &claims(), &EncodingKey::from_secret(&SECRET));
    assert_eq!(tokens().verify(&hs512), Err(TokenError::Invalid));
    for alg in ["none", "None", "HS256 "] {
        let head = URL_SAFE_NO_PAD.encode(json!({ "alg": alg, "typ": "JWT" }).to_string());
        let body = URL_SAFE_NO_PAD.encode(claims().to_string());
        for signature in ["", "AA"] {
            assert_eq!(tokens().verify(&format!("{head}.{body}.{signature}")), Err(TokenError::Invalid));
        }
    }
}

#[test]
fn what_is_no_token_at_all_is_refused() {
    for text in ["", ".", "..", "a.b.c", "Bearer", "🔑.🔑.🔑", &"a".repeat(TOKEN_BYTES_MAX + 1)] {
        assert_eq!(tokens().verify(text), Err(TokenError::Invalid));
    }
}

#[test]
fn keys_are_read_from_files_and_said_to_be_wrong_by_setting_and_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    secret::create(&path("good"), generate_secret().as_bytes()).unwrap();
    secret::create(&path("short"), STANDARD.encode([1; 31]).as_bytes()).unwrap();
    let (private, public) = key_pair();
    let spki = [&ED25519_SPKI_PREFIX[..], &public].concat();
    let pem = |body: &[u8]| {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(body))
    };
    fs::write(path("good.pem"), pem(&spki)).unwrap();
    fs::write(path("bad.pem"), pem(&spki[..43])).unwrap();
    let load = |secret: Option<&str>, keys: &[&str]| {
        Tokens::load(&TokensConfig {
            hs256_secret_file: secret.map(path),
            eddsa_public_keys: keys.iter().map(|name| path(name)).collect(),
            ..TokensConfig::default()
        })
    };
    let tokens = load(Some("good"), &["good.pem"]).unwrap();
    assert!(tokens.verify(&tokens.mint(&grant(), now() + 60).unwrap()).is_ok());
    assert!(tokens.verify(&signed(Algorithm::EdDSA, &claims(), &private)).is_ok());
    for (secret, keys, expected) in [
        (Some("short"), &[][..], "tokens.hs256_secret_file: "),
        (Some("missing"), &[], "tokens.hs256_secret_file: cannot read "),
        (None, &["bad.pem"], "tokens.eddsa_public_keys: "),
        (None, &["missing"], "tokens.eddsa_public_keys: cannot read "),
        (None, &["good"], "tokens.eddsa_public_keys: "),
    ] {
        let error = load(secret, keys).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn the_fuzzers_seeds_are_tokens_as_they_are_minted() {
    let mut tokens = Tokens::new(None, None);
    tokens.trust_secret(&[0x5e; 32]);
    let seed = include_str!("../../../fuzz/seeds/node/token/whole");
    let grant = tokens.verify(seed).unwrap();
    assert_eq!(tokens.mint(&grant, 4_102_444_800).unwrap(), seed);
}
