//! RTP header extensions (RFC 8285) in both forms, read element by element and written in one go.

use std::iter::FusedIterator;
use std::time::Duration;

/// The profile of one-byte elements: identifiers 1 to 14, values of 1 to 16 bytes.
pub const ONE_BYTE: u16 = 0xbede;

/// The profile of two-byte elements: identifiers 1 to 255, values of 0 to 255 bytes. Its lowest four bits are for the
/// application and zero when written here.
pub const TWO_BYTE: u16 = 0x1000;

/// Profile and length, before the first element.
const PREFIX_LEN: usize = 4;

/// The largest identifier of the one-byte form; 15 is reserved.
const ONE_BYTE_ID_MAX: u8 = 14;

/// The longest value of the one-byte form.
const ONE_BYTE_VALUE_MAX: usize = 16;

#[derive(Clone, Copy, Debug)]
enum Form {
    OneByte,
    TwoByte,
}

/// The elements of an extension: identifier and value. See [`elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    form: Form,
    rest: &'a [u8],
}

/// Reads an extension. Padding between elements is skipped; at anything malformed, and with any other profile, it
/// ends. There are at most as many elements as bytes.
#[must_use]
pub fn elements(profile: u16, words: &[u8]) -> Elements<'_> {
    if profile == ONE_BYTE {
        Elements { form: Form::OneByte, rest: words }
    } else if profile & 0xfff0 == TWO_BYTE {
        Elements { form: Form::TwoByte, rest: words }
    } else {
        Elements { form: Form::OneByte, rest: &[] }
    }
}

impl<'a> Elements<'a> {
    fn read(&mut self) -> Option<(u8, &'a [u8])> {
        // Every round takes a byte or more.
        loop {
            let (&first, rest) = self.rest.split_first()?;
            if first == 0 {
                self.rest = rest;
                continue;
            }
            let (id, len, rest) = match self.form {
                Form::OneByte => (first >> 4, usize::from(first & 0x0f) + 1, rest),
                Form::TwoByte => {
                    let (&len, rest) = rest.split_first()?;
                    (first, usize::from(len), rest)
                }
            };
            // With identifier 15, or 0 and a length, everything after it is to be left alone (section 4.2).
            if matches!(self.form, Form::OneByte) && (id == 0 || id > ONE_BYTE_ID_MAX) {
                return None;
            }
            let (value, rest) = rest.split_at_checked(len)?;
            self.rest = rest;
            return Some((id, value));
        }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let element = self.read();
        if element.is_none() {
            self.rest = &[];
        }
        element
    }
}

impl FusedIterator for Elements<'_> {}

/// An audio level (RFC 6464): whether the sender takes it for a voice, and how far below the loudest it is, 0 (loudest)
/// to 127 (silence) in dB.
#[must_use]
pub fn audio_level(value: &[u8]) -> Option<(bool, u8)> {
    let &[byte] = value else { return None };
    Some((byte & 0x80 != 0, byte & 0x7f))
}

/// A transport-wide sequence number (draft-holmer-rmcat-transport-wide-cc-extensions-01, section 2); its value is
/// written with `to_be_bytes`.
#[must_use]
pub fn transport_sequence(value: &[u8]) -> Option<u16> {
    // The second version may carry two more bytes, which ask for feedback.
    let (bytes, _) = value.split_first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

/// When a packet was sent, in 1/2^18 s, modulo 64 s (`abs-send-time`).
#[must_use]
pub fn absolute_send_time(value: &[u8]) -> Option<u32> {
    let &[high, middle, low] = value else { return None };
    Some(u32::from_be_bytes([0, high, middle, low]))
}

/// The value that says when a packet was sent, as the time since any moment.
#[must_use]
pub fn absolute_send_time_value(since: Duration) -> [u8; 3] {
    let seconds = since.as_secs() & 0x3f;
    // Less than 2^18, as there is less than a second.
    let fraction = (u64::from(since.subsec_nanos()) << 18) / 1_000_000_000;
    let [.., high, middle, low] = (seconds << 18 | fraction).to_be_bytes();
    [high, middle, low]
}

/// Writes a whole extension, with profile, length and padding to 32 bits, and says how many bytes it takes: 0 when
/// there are no elements. It has one-byte form unless an identifier is above 14, or a value is empty or longer than
/// 16 bytes.
///
/// `None` when it does not fit into `out`, or no form can say it: an identifier of 0, a value of more than 255 bytes.
/// What `out` holds is then undefined.
#[inline]
pub fn write<'a>(out: &mut [u8], elements: impl Iterator<Item = (u8, &'a [u8])> + Clone) -> Option<usize> {
    let one_byte = elements
        .clone()
        .all(|(id, value)| id <= ONE_BYTE_ID_MAX && (1..=ONE_BYTE_VALUE_MAX).contains(&value.len()));
    let (profile, at) = if one_byte {
        (ONE_BYTE, write_one_byte(out, elements)?)
    } else {
        (TWO_BYTE, write_two_byte(out, elements)?)
    };
    if at == PREFIX_LEN {
        return Some(0);
    }
    let end = at.next_multiple_of(4);
    out.get_mut(at..end)?.fill(0);
    let words = u16::try_from((end - PREFIX_LEN) / 4).ok()?;
    let [p0, p1] = profile.to_be_bytes();
    let [l0, l1] = words.to_be_bytes();
    *out.first_chunk_mut()? = [p0, p1, l0, l1];
    Some(end)
}

/// Writes the elements after where profile and length go; returns where the last one ends.
fn write_one_byte<'a>(out: &mut [u8], elements: impl Iterator<Item = (u8, &'a [u8])>) -> Option<usize> {
    let mut at = PREFIX_LEN;
    for (id, value) in elements {
        let len = u8::try_from(value.len()).ok()?.checked_sub(1)?;
        let (head, rest) = out.get_mut(at..)?.split_first_mut()?;
        *head = (id != 0).then_some(id << 4 | len)?;
        rest.get_mut(..value.len())?.copy_from_slice(value);
        at += 1 + value.len();
    }
    Some(at)
}

fn write_two_byte<'a>(out: &mut [u8], elements: impl Iterator<Item = (u8, &'a [u8])>) -> Option<usize> {
    let mut at = PREFIX_LEN;
    for (id, value) in elements {
        let len = u8::try_from(value.len()).ok()?;
        let (head, rest) = out.get_mut(at..)?.split_first_chunk_mut::<2>()?;
        *head = (id != 0).then_some([id, len])?;
        rest.get_mut(..value.len())?.copy_from_slice(value);
        at += 2 + value.len();
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(profile: u16, words: &[u8]) -> Vec<(u8, Vec<u8>)> {
        elements(profile, words).map(|(id, value)| (id, value.to_vec())).collect()
    }

    fn written(list: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = [0xee; 600];
        let len = write(&mut out, list.iter().copied()).unwrap();
        out[..len].to_vec()
    }

    #[test]
    fn one_byte_elements_are_read_with_padding_between() {
        let words = [0x10, 0xaa, 0, 0, 0x31, 1, 2, 0];
        assert_eq!(read(ONE_BYTE, &words), [(1, vec![0xaa]), (3, vec![1, 2])]);
    }

    #[test]
    fn two_byte_elements_are_read_with_any_application_bits() {
        let words = [1, 0, 0, 200, 2, 8, 9, 15, 1, 7, 0, 0];
        let expected = [(1, vec![]), (200, vec![8, 9]), (15, vec![7])];
        assert_eq!(read(TWO_BYTE, &words), expected);
        assert_eq!(read(0x100f, &words), expected);
    }

    #[test]
    fn reading_ends_at_what_is_malformed_and_keeps_what_came_before() {
        assert_eq!(read(ONE_BYTE, &[0x10, 1, 0xf0, 2, 0x20, 3]), [(1, vec![1])], "identifier 15");
        assert_eq!(read(ONE_BYTE, &[0x10, 1, 0x02, 2, 0x20, 3]), [(1, vec![1])], "padding with a length");
        assert_eq!(read(ONE_BYTE, &[0x10, 1, 0x23, 2, 3]), [(1, vec![1])], "a value beyond the end");
        assert_eq!(read(TWO_BYTE, &[1, 1, 1, 2]), [(1, vec![1])], "no length");
        assert_eq!(read(TWO_BYTE, &[1, 1, 1, 2, 2, 0]), [(1, vec![1])], "a value beyond the end");
        assert_eq!(read(0x1010, &[1, 1, 1]), [], "another profile");
        assert_eq!(read(0, &[0x10, 1]), []);
        let mut ended = elements(ONE_BYTE, &[0xf0, 2, 0x20, 3]);
        assert_eq!((ended.next(), ended.next()), (None, None));
    }

    #[test]
    fn an_audio_level_is_one_byte() {
        assert_eq!(audio_level(&[0x80 | 30]), Some((true, 30)));
        assert_eq!(audio_level(&[127]), Some((false, 127)));
        assert_eq!(audio_level(&[]), None);
        assert_eq!(audio_level(&[1, 2]), None);
    }

    #[test]
    fn transport_sequences_and_send_times_are_read() {
        assert_eq!(transport_sequence(&[1, 2]), Some(0x0102));
        assert_eq!(transport_sequence(&[1, 2, 0x80, 1]), Some(0x0102), "with a request for feedback");
        assert_eq!(transport_sequence(&[1]), None);
        assert_eq!(absolute_send_time(&[4, 0, 1]), Some(0x04_0001));
        assert_eq!(absolute_send_time(&[4, 0]), None);
        let written = absolute_send_time_value(Duration::from_millis(64_000 + 1_500));
        assert_eq!(absolute_send_time(&written), Some(3 << 17));
    }

    #[test]
    fn the_shorter_form_is_written_when_it_can_say_everything() {
        assert_eq!(
            written(&[(1, &[0xaa]), (14, &[1, 2])]),
            [0xbe, 0xde, 0, 2, 0x10, 0xaa, 0xe1, 1, 2, 0, 0, 0]
        );
        assert_eq!(written(&[(3, &[5; 16])])[..5], [0xbe, 0xde, 0, 5, 0x3f]);
    }

    #[test]
    fn the_longer_form_is_written_for_large_identifiers_and_empty_and_long_values() {
        assert_eq!(written(&[(15, &[9])]), [0x10, 0, 0, 1, 15, 1, 9, 0]);
        assert_eq!(written(&[(1, &[])]), [0x10, 0, 0, 1, 1, 0, 0, 0]);
        assert_eq!(written(&[(1, &[9]), (2, &[5; 17])])[..9], [0x10, 0, 0, 6, 1, 1, 9, 2, 17]);
    }

    #[test]
    fn nothing_is_written_for_no_elements() {
        assert_eq!(write(&mut [], std::iter::empty()), Some(0));
    }

    #[test]
    fn what_cannot_be_said_or_does_not_fit_is_refused() {
        let mut out = [0; 400];
        let mut refused = |id, value: &[u8]| write(&mut out, std::iter::once((id, value))).is_none();
        assert!(refused(0, &[1]));
        assert!(refused(0, &[]));
        assert!(refused(1, &[0; 256]));
        let whole = written(&[(1, &[1]), (2, &[2, 3])]).len();
        for len in 0..whole {
            let list: [(u8, &[u8]); 2] = [(1, &[1]), (2, &[2, 3])];
            assert_eq!(write(&mut vec![0; len], list.into_iter()), None, "into {len} bytes");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            list in prop::collection::vec((1_u8..=255, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
        ) {
            let mut out = [0xee; 1000];
            let len = write(&mut out, list.iter().map(|(id, value)| (*id, value.as_slice()))).unwrap();
            prop_assert_eq!(len % 4, 0);
            if len > 0 {
                let profile = u16::from_be_bytes([out[0], out[1]]);
                prop_assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])) * 4 + 4, len);
                prop_assert_eq!(read(profile, &out[4..len]), list);
            } else {
                prop_assert!(list.is_empty());
            }
        }

        #[test]
        fn no_extension_has_more_elements_than_bytes(
            profile in prop_oneof![Just(ONE_BYTE), Just(TWO_BYTE), any::<u16>()],
            words in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert!(elements(profile, &words).count() <= words.len());
        }
    }
}
