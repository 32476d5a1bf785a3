//! Simulcast: which encodings of a section a client sends side by side, by name (RFC 8851, RFC 8853).

use trunkline_relay_proto::media::{ENCODINGS_MAX, Rid};

/// Names of one section that are looked at. Browsers offer three; more lets one request take more time.
const RIDS_MAX: usize = 16;

/// What a section says of encodings.
#[derive(Default)]
pub(super) struct Simulcast<'a> {
    /// The names the client sends with (`a=rid:<name> send`).
    sent: Vec<Rid>,
    /// The value of `a=simulcast`.
    listed: Option<&'a str>,
}

impl<'a> Simulcast<'a> {
    /// Takes `a=rid`: `<name> <direction> [<restrictions>]`. Restrictions bind who sends, and are left to it.
    pub(super) fn take_rid(&mut self, value: &str) {
        let mut words = value.split_ascii_whitespace();
        let rid = words.next().and_then(Rid::new).filter(|_| words.next() == Some("send"));
        if let Some(rid) = rid.filter(|_| self.sent.len() < RIDS_MAX) {
            self.sent.push(rid);
        }
    }

    /// Takes `a=simulcast`. A section has one: what follows is left out.
    pub(super) fn take(&mut self, value: &'a str) {
        self.listed.get_or_insert(value);
    }

    /// The encodings that the relay takes: the first [`ENCODINGS_MAX`] of the list, in its order, of alternatives the
    /// first, and whether they are paused (`~`) or not, since they may be sent later.
    pub(super) fn encodings(&self) -> Vec<Rid> {
        let mut encodings = Vec::new();
        let mut words = self.listed.unwrap_or_default().split_ascii_whitespace();
        let mut directions = std::iter::from_fn(|| words.next().zip(words.next()));
        let Some((_, list)) = directions.find(|(direction, _)| *direction == "send") else {
            return encodings;
        };
        for alternatives in list.split(';') {
            let name = alternatives.split(',').next().unwrap_or_default();
            let rid = Rid::new(name.strip_prefix('~').unwrap_or(name));
            let Some(rid) = rid.filter(|rid| self.sent.contains(rid) && !encodings.contains(rid)) else {
                continue;
            };
            encodings.push(rid);
            if encodings.len() >= ENCODINGS_MAX {
                break;
            }
        }
        encodings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encodings(rids: &[&str], listed: &[&'static str]) -> Vec<String> {
        let mut simulcast = Simulcast::default();
        rids.iter().for_each(|rid| simulcast.take_rid(rid));
        listed.iter().for_each(|listed| simulcast.take(listed));
        simulcast.encodings().iter().map(|rid| rid.as_str().to_owned()).collect()
    }

    #[test]
    fn encodings_are_those_that_are_named_and_listed_in_the_order_of_the_list() {
        let rids = ["h send", "q send pt=96;max-width=320", "f  send", "r recv", "x"];
        for (listed, expected) in [
            ("send q;h;f", &["q", "h", "f"][..]),
            ("send h;q", &["h", "q"]),
            ("recv r send f;h", &["f", "h"]),
            ("send ~q;h,q;~f,h", &["q", "h", "f"]),
            ("send q;q;h", &["q", "h"]),
            ("send q;r;x;y;h", &["q", "h"]),
            ("send q;;h", &["q", "h"]),
            ("send f", &["f"]),
            ("recv r", &[]),
            ("send", &[]),
            ("send send q", &[]),
            ("sendonly q", &[]),
            ("", &[]),
        ] {
            assert_eq!(encodings(&rids, &[listed]), expected, "{listed}");
        }
        assert!(encodings(&rids, &[]).is_empty());
        assert_eq!(encodings(&rids, &["send q", "send h"]), ["q"]);
    }

    #[test]
    fn no_more_are_taken_than_the_relay_keeps() {
        let rids: Vec<String> = (0..40).map(|number| format!("r{number} send")).collect();
        let rids: Vec<&str> = rids.iter().map(String::as_str).collect();
        assert_eq!(encodings(&rids, &["send r3;r2;r1;r0"]), ["r3", "r2", "r1"]);
        assert_eq!(encodings(&rids, &["send r39;r16;r15"]), ["r15"]);
    }

    #[test]
    fn names_are_letters_and_digits() {
        assert!(encodings(&["q-1 send", "q_1 send", "12345678901234567 send"], &["send q-1;q_1"]).is_empty());
    }
}
