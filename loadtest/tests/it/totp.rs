//! The codes that an authenticator app shows (RFC 6238): what a person would read from a telephone.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;

/// How long each code is shown.
pub(crate) const STEP: Duration = Duration::from_secs(30);

/// The code for a moment, of a secret in base32.
pub(crate) fn code(secret: &str, at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let step = since.as_secs() / STEP.as_secs();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &base32(secret));
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let tag = tag.as_ref();
    let at = usize::from(tag[tag.len() - 1] & 15);
    let word = u32::from_be_bytes([tag[at] & 0x7f, tag[at + 1], tag[at + 2], tag[at + 3]]);
    format!("{:06}", word % 1_000_000)
}

fn base32(text: &str) -> Vec<u8> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for letter in text.bytes().filter(u8::is_ascii_alphanumeric) {
        let value = match letter.to_ascii_uppercase() {
            letter @ b'A'..=b'Z' => letter - b'A',
            digit => digit - b'2' + 26,
        };
        (bits, count) = ((bits << 5) | u32::from(value), count + 5);
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).expect("eight bits"));
        }
    }
    bytes
}

#[test]
fn codes_are_those_of_the_standard() {
    // RFC 6238, appendix B, the last six digits; the secret is `12345678901234567890`.
    let secret = "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ";
    for (at_s, expected) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
        assert_eq!(code(secret, SystemTime::UNIX_EPOCH + Duration::from_secs(at_s)), expected);
    }
}
