//! Text as numbered lines, and the few pieces of syntax that all attributes share.

use trunkline_relay_proto::media::Mid;

use super::error::{OfferError, Reason};

/// One line of a description.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    /// Counted from 1.
    pub(super) number: usize,
    /// What stands before `=`.
    pub(super) letter: u8,
    /// What stands after it, without spaces at its end.
    pub(super) value: &'a str,
}

impl<'a> Line<'a> {
    /// An error of this line.
    pub(super) fn error(&self, reason: Reason) -> OfferError {
        OfferError { line: self.number, reason }
    }

    /// Name and value of an attribute (`a=`). Without a colon, the value is empty.
    pub(super) fn attribute(&self) -> (&'a str, &'a str) {
        self.value.split_once(':').unwrap_or((self.value, ""))
    }
}

/// All lines that are not empty. They may end with LF alone, as people's own descriptions do.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Result<Line<'_>, OfferError>> {
    text.split('\n')
        .zip(1..)
        .map(|(line, number)| (line.trim_ascii_end(), number))
        .filter(|(line, _)| !line.is_empty())
        .map(|(line, number)| {
            let error = |reason| OfferError { line: number, reason };
            if has_control(line) {
                return Err(error(Reason::ControlCharacter));
            }
            match line.split_at_checked(2) {
                Some(("a=", value)) => Ok(Line { number, letter: b'a', value }),
                Some((start, value)) => match start.as_bytes() {
                    [letter, b'='] if letter.is_ascii_lowercase() => {
                        Ok(Line { number, letter: *letter, value })
                    }
                    _ => Err(error(Reason::NotALine)),
                },
                None => Err(error(Reason::NotALine)),
            }
        })
}

/// Looks at every byte, found or not: the compiler then takes many at a time, and lines are short.
fn has_control(line: &str) -> bool {
    line.bytes().fold(false, |found, byte| found | byte.is_ascii_control())
}

/// A name of a media section: a token, because it is written into the answer.
pub(super) fn mid(text: &str) -> Option<Mid> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&byte);
    Mid::new(text).filter(|mid| mid.as_bytes().iter().copied().all(is_token))
}

/// 4 to 256 ICE characters (RFC 8839).
pub(super) fn is_ice_ufrag(text: &str) -> bool {
    (4..=256).contains(&text.len()) && is_ice(text)
}

/// 22 to 256 ICE characters (RFC 8839).
pub(super) fn is_ice_pwd(text: &str) -> bool {
    (22..=256).contains(&text.len()) && is_ice(text)
}

fn is_ice(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
}

/// 32 bytes in hexadecimal, with colons between them.
pub(super) fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let mut fingerprint = [0; 32];
    let mut parts = text.split(':');
    for byte in &mut fingerprint {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_know_their_numbers_and_may_end_either_way() {
        let read: Vec<_> = lines("v=0\r\n\r\na=mid:0\na=sendrecv \n")
            .map(|line| line.map(|line| (line.number, line.letter, line.value)))
            .collect();
        assert_eq!(read, [Ok((1, b'v', "0")), Ok((3, b'a', "mid:0")), Ok((4, b'a', "sendrecv"))]);
    }

    #[test]
    fn what_is_no_line_is_an_error_with_its_number() {
        for (text, reason) in [
            ("v=0\nhello", Reason::NotALine),
            ("v=0\na", Reason::NotALine),
            ("v=0\nA=b", Reason::NotALine),
            ("v=0\nä=b", Reason::NotALine),
            ("v=0\na=b\rc", Reason::ControlCharacter),
            ("v=0\na=\u{0}", Reason::ControlCharacter),
        ] {
            let last = lines(text).last().map(|line| line.map(|line| line.number));
            assert_eq!(last, Some(Err(OfferError { line: 2, reason })), "{text:?}");
        }
    }

    #[test]
    fn a_fingerprint_is_32_bytes() {
        let text = ["aB"; 32].join(":");
        assert_eq!(fingerprint(&text), Some([0xab; 32]));
        for wrong in [&text[1..], &text[3..], "", &format!("{text}:00"), &text.replace("aB:", "+B:")] {
            assert_eq!(fingerprint(wrong), None, "{wrong}");
        }
    }
}
