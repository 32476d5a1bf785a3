//! One-time codes by time (RFC 6238 over RFC 4226): SHA-1, six digits, thirty seconds, as every authenticator makes
//! them.

use aws_lc_rs::{constant_time, hmac};
use qrcodegen::{QrCode, QrCodeEcc};
use trunkline_gateway_proto::administrator::TotpSecret;

/// Length of a time step in seconds.
pub(super) const STEP_S: u64 = 30;

/// Steps before and after the present one whose codes are good too. More forgives clocks that are further off, and
/// gives a guesser more codes that are right.
const WINDOW: u64 = 1;

/// Digits of a code.
const DIGITS: usize = 6;

/// What codes are taken from: ten to the power of [`DIGITS`].
const CODES: u32 = 1_000_000;

/// RFC 4648, section 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The time step that `code` is for, when it is good at `now_s` (seconds since the Unix epoch) and later than the
/// step `used` before.
pub(super) fn verify(secret: &TotpSecret, code: &str, now_s: u64, used: u64) -> Option<u64> {
    let code: String = code.chars().filter(|c| !c.is_whitespace()).take(DIGITS + 1).collect();
    let now = now_s / STEP_S;
    let steps = now.saturating_sub(WINDOW)..=now.saturating_add(WINDOW);
    // All are tried, so that the time it takes does not tell which one it was.
    let good = steps.filter(|step| {
        let expected = format!("{:0DIGITS$}", truncated(&secret.0, *step) % CODES);
        constant_time::verify_slices_are_equal(expected.as_bytes(), code.as_bytes()).is_ok()
    });
    good.filter(|step| *step > used).max()
}

/// The secret as authenticators take it by hand.
pub(super) fn base32(secret: &TotpSecret) -> String {
    let mut out = String::with_capacity(32);
    for chunk in secret.0.chunks(5) {
        let bits = chunk.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for shift in (0..8).rev() {
            let index = usize::try_from(bits >> (shift * 5) & 31).unwrap_or(0);
            out.extend(BASE32.get(index).map(|byte| char::from(*byte)));
        }
    }
    out
}

/// The URI that authenticators read out of a QR code.
pub(super) fn uri(secret: &TotpSecret, issuer: &str, name: &str) -> String {
    let (issuer, name) = (escaped(issuer), escaped(name));
    let secret = base32(secret);
    format!(
        "otpauth://totp/{issuer}:{name}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}&period={STEP_S}"
    )
}

/// The rows of a text's QR code, without the quiet zone: `1` is a dark module. `None` when the text is too long.
pub(super) fn qr(text: &str) -> Option<Vec<String>> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).ok()?;
    let row = |y| (0..code.size()).map(|x| if code.get_module(x, y) { '1' } else { '0' }).collect();
    Some((0..code.size()).map(row).collect())
}

/// RFC 4226, section 5.3, without the reduction to digits.
fn truncated(secret: &[u8], step: u64) -> u32 {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let mac = hmac::sign(&key, &step.to_be_bytes());
    let mac = mac.as_ref();
    let offset = usize::from(mac.last().copied().unwrap_or(0) & 0x0f);
    let chosen = mac.get(offset..).and_then(|rest| rest.first_chunk::<4>()).copied().unwrap_or_default();
    u32::from_be_bytes(chosen) & 0x7fff_ffff
}

/// What an authenticator shows at `now_s` for a secret that was typed into it.
#[cfg(test)]
pub(crate) fn code_of(typed: &str, now_s: u64) -> String {
    let mut secret = Vec::new();
    for chunk in typed.as_bytes().chunks(8) {
        let value = |byte: &u8| BASE32.iter().position(|known| known == byte).unwrap() as u64;
        let bits = chunk.iter().fold(0u64, |bits, byte| bits << 5 | value(byte));
        secret.extend_from_slice(&bits.to_be_bytes()[3..]);
    }
    format!("{:0DIGITS$}", truncated(&secret, now_s / STEP_S) % CODES)
}

/// RFC 3986, section 2.1: everything but the unreserved characters.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238, appendix B.
    const SECRET: TotpSecret = TotpSecret(*b"12345678901234567890");

    #[test]
    fn codes_are_those_of_rfc_6238() {
        for (time, code) in [
            (59, 94_287_082),
            (1_111_111_109, 7_081_804),
            (1_111_111_111, 14_050_471),
            (1_234_567_890, 89_005_924),
            (2_000_000_000, 69_279_037),
            (20_000_000_000, 65_353_130),
        ] {
            assert_eq!(truncated(&SECRET.0, time / STEP_S) % 100_000_000, code, "{time}");
        }
    }

    #[test]
    fn a_code_is_good_for_its_step_and_one_on_either_side_and_once() {
        let code = "050471";
        let step = 1_111_111_111 / STEP_S;
        for (now, good) in [(-2i64, false), (-1, true), (0, true), (1, true), (2, false)] {
            let now_s = 1_111_111_111u64.saturating_add_signed(now * 30);
            assert_eq!(verify(&SECRET, code, now_s, 0).is_some(), good, "{now}");
        }
        assert_eq!(verify(&SECRET, " 050 471 ", 1_111_111_111, 0), Some(step));
        assert_eq!(verify(&SECRET, code, 1_111_111_111, step), None);
        assert_eq!(verify(&SECRET, code, 1_111_111_111, step - 1), Some(step));
    }

    #[test]
    fn other_texts_are_no_codes() {
        for code in ["", "50471", "0050471", "050472", "abcdef", "０５０４７１"] {
            assert_eq!(verify(&SECRET, code, 1_111_111_111, 0), None, "{code}");
        }
        assert_eq!(verify(&SECRET, &"0".repeat(1 << 16), 0, 0), None);
    }

    #[test]
    fn the_uri_is_one_that_authenticators_read_and_fits_a_qr_code() {
        assert_eq!(base32(&SECRET), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        let text = uri(&SECRET, "Trunkline alpha.test", "ann@home");
        assert_eq!(
            text,
            "otpauth://totp/Trunkline%20alpha.test:ann%40home?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\
             &issuer=Trunkline%20alpha.test&algorithm=SHA1&digits=6&period=30"
        );
        let rows = qr(&text).unwrap();
        assert!(rows.len() >= 21 && rows.iter().all(|row| row.len() == rows.len()));
        // The finder pattern in the corner.
        assert!(rows[0].starts_with("11111110") && rows[1].starts_with("1000001"));
        assert_eq!(code_of(&base32(&SECRET), 1_111_111_111), "050471");
        let longest = uri(&SECRET, &"a".repeat(253), &"@".repeat(64));
        assert!(qr(&longest).is_some(), "the longest names fit");
    }
}
