//! The peering bundle: how two operators introduce their deployments to each other.
//!
//! A bundle travels as a small JSON file that people can read, `{format, bundle: {…}, signature}`. The signature
//! (ECDSA P-256 with SHA-256, ASN.1, base64) is made with the key of the certificate inside, over [`FORMAT`], a
//! line feed, and the bundle in canonical form: no white space, and the names of each object in byte order. So
//! re-indenting the file does no harm, and changing a value does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use trunkline_common::ids::Domain;

use crate::certificate::{Certificate, CertificateError};
use crate::directory::LocalDomain;
use crate::key::ApiKey;
use crate::pin::Pin;
use crate::time::Time;

/// What the file says it is; a later format gets another name.
pub const FORMAT: &str = "trunkline-bundle-1";

/// Longest bundle file in bytes. Two hundred local domains and a certificate chain take a third of it.
pub const BUNDLE_BYTES_MAX: usize = 64 * 1024;

/// Endpoints in one bundle. Each may cost a dialler a second, so a long list delays the first contact.
pub const ENDPOINTS_MAX: usize = 8;

/// Local domains in one bundle. More needs a larger [`BUNDLE_BYTES_MAX`].
pub const LOCAL_DOMAINS_MAX: usize = 256;

/// Bytes of a nonce as text: at least 128 bits in hexadecimal, and never a place to hide a file.
const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// What one operator's gateway wrote for the other's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Whose bundle this is.
    pub domain: Domain,
    /// For whom it was written: another gateway refuses it.
    pub audience: Domain,
    /// Its users' domains.
    pub local_domains: Vec<LocalDomain>,
    /// `host:port`, tried in order.
    pub endpoints: Vec<String>,
    /// Its certificate in PEM.
    pub certificate: String,
    /// The certificate's pin, for people to compare.
    pub pin: Pin,
    /// The API key issued to the audience: a secret.
    #[serde(with = "api_key_text")]
    pub api_key: ApiKey,
    /// When it ends.
    pub expires: Time,
    /// Random; an answer repeats it.
    pub nonce: String,
    /// The invitation's nonce, when this is an answer.
    #[serde(default)]
    pub in_reply_to: Option<String>,
}

/// Why a bundle is refused. Never shows the API key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Longer than [`BUNDLE_BYTES_MAX`].
    #[error("the file is longer than {BUNDLE_BYTES_MAX} bytes: this is not a peering bundle")]
    TooLong,
    /// Not JSON.
    #[error("the file is not JSON (line {line}): it was cut off or changed on its way; ask for it again")]
    Json {
        /// Where it goes wrong.
        line: usize,
    },
    /// JSON, but something else, or from a later version.
    #[error(
        "`format` is not {FORMAT}: this is not a peering bundle, or it is from a gateway that must be told to write the older format"
    )]
    Format,
    /// A field that is missing, superfluous or not what it should be.
    #[error("`{field}`: {problem}; ask the other operator for a new bundle")]
    Field {
        /// Which.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The pin that people compare is not the certificate's.
    #[error(
        "`pin` is not the pin of `certificate`: do not trust this file; ask for it again over another way"
    )]
    Pin,
    /// Changed after it was signed.
    #[error("`signature` does not match: the file was changed after it was signed; ask for it again")]
    Signature,
    /// Written for another deployment.
    #[error("`audience` is {audience}, but this deployment is {ours}: ask for a bundle written for {ours}")]
    Audience {
        /// For whom it is.
        audience: Domain,
        /// Who reads it.
        ours: Domain,
    },
    /// One's own.
    #[error("`domain` is this deployment's own: give the file to the other operator")]
    Own,
    /// Too old.
    #[error("`expires` is past: ask the other operator for a new bundle (or check this machine's clock)")]
    Expired,
}

impl Bundle {
    /// The signed file's text. `sign` makes an ECDSA P-256 SHA-256 signature in ASN.1 with the key of
    /// `certificate`. The text holds a secret: whoever writes it to a file keeps others from reading it.
    ///
    /// # Errors
    /// What `sign` answers.
    pub fn to_file<E>(&self, sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>) -> Result<String, E> {
        let bundle = serde_json::to_value(self).expect("a bundle is plain data with text keys");
        let signature = STANDARD.encode(sign(&signed_bytes(&bundle))?);
        let file = BundleFile { format: FORMAT, bundle: self, signature };
        let mut text = serde_json::to_string_pretty(&file).expect("a bundle is plain data with text keys");
        text.push('\n');
        Ok(text)
    }

    /// Reads a signed file at `now`, for the deployment `audience`.
    ///
    /// # Errors
    /// When it is no bundle, was changed, is not for us, or is too old.
    pub fn parse(file: &[u8], now: Time, audience: &Domain) -> Result<Self, BundleError> {
        if file.len() > BUNDLE_BYTES_MAX {
            return Err(BundleError::TooLong);
        }
        let file: Value =
            serde_json::from_slice(file).map_err(|error| BundleError::Json { line: error.line() })?;
        let Value::Object(mut file) = file else { return Err(BundleError::Format) };
        if file.remove("format").as_ref().and_then(Value::as_str) != Some(FORMAT) {
            return Err(BundleError::Format);
        }
        let signature: String = take(&mut file, "signature")?;
        let signature =
            STANDARD.decode(signature).map_err(|_| invalid("signature", "not base64".to_owned()))?;
        let value = file.remove("bundle").unwrap_or_default();
        nothing_left(&file)?;
        let message = signed_bytes(&value);
        let bundle = Self::from_value(value)?;
        bundle.check()?;
        bundle.check_signature(&message, &signature)?;
        if bundle.audience != *audience {
            return Err(BundleError::Audience { audience: bundle.audience.clone(), ours: audience.clone() });
        }
        if bundle.domain == *audience {
            return Err(BundleError::Own);
        }
        if bundle.expires <= now {
            return Err(BundleError::Expired);
        }
        Ok(bundle)
    }

    /// Field by field, so that an error names the field.
    fn from_value(value: Value) -> Result<Self, BundleError> {
        let Value::Object(mut map) = value else {
            return Err(invalid("bundle", "expected an object".to_owned()));
        };
        let api_key: String = take(&mut map, "api_key")?;
        let bundle = Self {
            domain: take(&mut map, "domain")?,
            audience: take(&mut map, "audience")?,
            local_domains: take(&mut map, "local_domains")?,
            endpoints: take(&mut map, "endpoints")?,
            certificate: take(&mut map, "certificate")?,
            pin: take(&mut map, "pin")?,
            api_key: ApiKey::parse(&api_key).map_err(|error| invalid("api_key", error.to_string()))?,
            expires: take(&mut map, "expires")?,
            nonce: take(&mut map, "nonce")?,
            in_reply_to: take(&mut map, "in_reply_to")?,
        };
        nothing_left(&map)?;
        Ok(bundle)
    }

    /// What types alone do not say.
    fn check(&self) -> Result<(), BundleError> {
        if self.local_domains.len() > LOCAL_DOMAINS_MAX {
            return Err(invalid("local_domains", format!("more than {LOCAL_DOMAINS_MAX}")));
        }
        if self.endpoints.len() > ENDPOINTS_MAX {
            return Err(invalid("endpoints", format!("more than {ENDPOINTS_MAX}")));
        }
        if let Some(endpoint) = self.endpoints.iter().find(|endpoint| split_endpoint(endpoint).is_none()) {
            let shown: String = endpoint.chars().filter(|c| !c.is_control()).take(80).collect();
            return Err(invalid("endpoints", format!("`{shown}` is not host:port")));
        }
        for (field, nonce) in [("nonce", Some(&self.nonce)), ("in_reply_to", self.in_reply_to.as_ref())] {
            let fine = |nonce: &String| {
                NONCE_BYTES.contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_graphic())
            };
            if !nonce.is_none_or(fine) {
                return Err(invalid(field, "expected 16 to 64 printable characters".to_owned()));
            }
        }
        Ok(())
    }

    fn check_signature(&self, message: &[u8], signature: &[u8]) -> Result<(), BundleError> {
        let (certificate, _) = Certificate::parse_pem(&self.certificate)
            .map_err(|error| invalid("certificate", error.to_string()))?;
        if certificate.pin != self.pin {
            return Err(BundleError::Pin);
        }
        certificate.verify(message, signature).map_err(|error| match error {
            CertificateError::Signature => BundleError::Signature,
            other => invalid("certificate", other.to_string()),
        })
    }
}

/// Splits `host:port`; an IPv6 address stands in brackets. `None` when it is none.
#[must_use]
pub fn split_endpoint(endpoint: &str) -> Option<(&str, u16)> {
    let (host, port) = endpoint.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']')?;
            inner.parse::<std::net::Ipv6Addr>().ok()?;
            inner
        }
        None => {
            trunkline_common::ids::check_domain(host).ok()?;
            host
        }
    };
    Some((host, port))
}

#[derive(Serialize)]
struct BundleFile<'a> {
    format: &'static str,
    bundle: &'a Bundle,
    signature: String,
}

fn invalid(field: &str, problem: String) -> BundleError {
    BundleError::Field { field: field.to_owned(), problem }
}

/// A field of its type; one that is not there reads as null.
fn take<T: DeserializeOwned>(map: &mut Map<String, Value>, field: &str) -> Result<T, BundleError> {
    let value = map.remove(field).unwrap_or_default();
    let missing = value.is_null();
    serde_json::from_value(value).map_err(|error| {
        invalid(field, if missing { "missing".to_owned() } else { shorten(&error.to_string()) })
    })
}

fn nothing_left(map: &Map<String, Value>) -> Result<(), BundleError> {
    match map.keys().next() {
        Some(field) => Err(invalid(&shorten(field), "unknown to this version".to_owned())),
        None => Ok(()),
    }
}

/// A stranger's text never fills the operator's screen, nor moves its cursor.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(160).collect()
}

fn signed_bytes(bundle: &Value) -> Vec<u8> {
    let mut bytes = FORMAT.as_bytes().to_vec();
    bytes.push(b'\n');
    canonical(bundle, &mut bytes);
    bytes
}

/// Sorts names itself: whether the JSON library's own map does depends on who else is built with it. As deep as
/// its parser lets a document be, which is 128.
fn canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| name.as_bytes());
            out.push(b'{');
            for (n, (name, value)) in fields.into_iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                canonical(&Value::String(name.clone()), out);
                out.push(b':');
                canonical(value, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                canonical(item, out);
            }
            out.push(b']');
        }
        plain => out.extend_from_slice(plain.to_string().as_bytes()),
    }
}

/// In a bundle an API key is the text that operators know.
mod api_key_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::key::ApiKey;

    pub(super) fn serialize<S: Serializer>(key: &ApiKey, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&key.to_text())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ApiKey, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        ApiKey::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    const NOW: Time = Time::from_unix_ms(1_000_000);

    fn domain(text: &str) -> Domain {
        text.parse().unwrap()
    }

    fn signed(change: impl FnOnce(&mut Bundle)) -> String {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["alpha.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let mut bundle = Bundle {
            domain: domain("alpha.test"),
            audience: domain("beta.test"),
            local_domains: vec![LocalDomain {
                domain: domain("alpha.test"),
                network: "main".parse().unwrap(),
            }],
            endpoints: vec!["gate.alpha.test:8443".to_owned(), "[2001:db8::1]:8443".to_owned()],
            pin: Pin::of_certificate(certificate.der()).unwrap(),
            certificate: certificate.pem(),
            api_key: ApiKey::generate(),
            expires: Time::from_unix_ms(2_000_000),
            nonce: "0123456789abcdef".to_owned(),
            in_reply_to: None,
        };
        change(&mut bundle);
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.serialized_der()).unwrap();
        let sign = |message: &[u8]| signer.sign(&SystemRandom::new(), message).map(|s| s.as_ref().to_vec());
        bundle.to_file(sign).unwrap()
    }

    fn parse(file: &str) -> Result<Bundle, BundleError> {
        Bundle::parse(file.as_bytes(), NOW, &domain("beta.test"))
    }

    fn refused_field(file: &str) -> String {
        match parse(file) {
            Err(BundleError::Field { field, .. }) => field,
            other => panic!("expected a refused field, got {other:?}"),
        }
    }

    #[test]
    fn a_bundle_survives_its_file_and_re_indenting() {
        let file = signed(|_| ());
        let bundle = parse(&file).unwrap();
        assert_eq!(bundle.domain, domain("alpha.test"));
        let dense = serde_json::from_str::<Value>(&file).unwrap().to_string();
        assert_eq!(parse(&dense).unwrap(), bundle);
    }

    #[test]
    fn a_changed_value_breaks_the_signature() {
        let file = signed(|_| ()).replace("gate.alpha.test", "gate.evil.test");
        assert_eq!(parse(&file), Err(BundleError::Signature));
    }

    #[test]
    fn a_certificate_other_than_the_pinned_one_is_refused() {
        let file = signed(|bundle| bundle.pin = Pin::from_bytes([7; 32]));
        assert_eq!(parse(&file), Err(BundleError::Pin));
    }

    #[test]
    fn an_expired_bundle_is_refused() {
        assert_eq!(parse(&signed(|bundle| bundle.expires = NOW)), Err(BundleError::Expired));
    }

    #[test]
    fn a_bundle_for_another_deployment_is_refused() {
        let error = parse(&signed(|bundle| bundle.audience = domain("gamma.test"))).unwrap_err();
        assert_eq!(
            error,
            BundleError::Audience { audience: domain("gamma.test"), ours: domain("beta.test") }
        );
    }

    #[test]
    fn a_bundle_cut_anywhere_is_an_error() {
        let file = signed(|_| ());
        for cut in 0..file.trim_end().len() {
            assert!(Bundle::parse(&file.as_bytes()[..cut], NOW, &domain("beta.test")).is_err());
        }
    }

    #[test]
    fn a_wrong_field_is_named_and_the_key_is_not_shown() {
        let file = signed(|_| ());
        assert_eq!(refused_field(&file.replace("\"endpoints\"", "\"endpoint\"")), "endpoints");
        assert_eq!(refused_field(&file.replace("\"nonce\"", "\"extra\": 1, \"nonce\"")), "extra");
        assert_eq!(refused_field(&file.replace("\"alpha.test\"", "\"alpha test\"")), "domain");
        assert_eq!(refused_field(&signed(|bundle| bundle.endpoints.push("nowhere".to_owned()))), "endpoints");
        let mangled = file.replace("\"tlk_", "\"tlx_");
        assert_eq!(refused_field(&mangled), "api_key");
        assert!(!parse(&mangled).unwrap_err().to_string().contains("tlx_"));
    }

    #[test]
    fn what_is_no_bundle_at_all_is_told_so() {
        assert_eq!(parse("{}"), Err(BundleError::Format));
        assert_eq!(parse("[]"), Err(BundleError::Format));
        assert_eq!(parse("\n\nhello"), Err(BundleError::Json { line: 3 }));
        assert_eq!(parse(&" ".repeat(BUNDLE_BYTES_MAX + 1)), Err(BundleError::TooLong));
        assert!(parse(&"[".repeat(10_000)).is_err());
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        assert_eq!(split_endpoint("gate.test:8443"), Some(("gate.test", 8443)));
        assert_eq!(split_endpoint("192.0.2.1:1"), Some(("192.0.2.1", 1)));
        assert_eq!(split_endpoint("[2001:db8::1]:8443"), Some(("2001:db8::1", 8443)));
        for bad in ["", "gate", "gate:", "gate:0", "gate:70000", ":1", "::1:8443", "[gate]:1", "a b:1"] {
            assert_eq!(split_endpoint(bad), None, "{bad}");
        }
    }
}
