//! Fragments of descriptions: trickled candidates, and ICE restarts (RFC 8840, RFC 9725).

use std::fmt;
use std::fmt::Write;

use trunkline_relay_proto::media::{Description, IceCredentials, Kind};

use super::FRAGMENT_BYTES_MAX;
use super::error::{OfferError, Reason};
use super::lines::lines;
use super::section::Transport;
use super::write::{self, Local};

/// What a client sends as `application/trickle-ice-sdpfrag`. Candidates in it are not read: the relay is ICE-lite and
/// learns addresses from the checks that come from them.
#[derive(Clone, PartialEq, Eq)]
pub struct Fragment {
    ice: Option<IceCredentials>,
}

/// It holds credentials.
impl fmt::Debug for Fragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fragment")
    }
}

impl Fragment {
    /// Reads a fragment of [`FRAGMENT_BYTES_MAX`] bytes at most.
    ///
    /// # Errors
    /// The line that is none, or whose credentials are unusable.
    pub fn parse(text: &str) -> Result<Self, OfferError> {
        if text.len() > FRAGMENT_BYTES_MAX {
            return Err(OfferError { line: 1, reason: Reason::TooLong { bytes_max: FRAGMENT_BYTES_MAX } });
        }
        let mut ufrag: Option<&str> = None;
        let mut pwd: Option<&str> = None;
        for line in lines(text) {
            let line = line?;
            if line.letter != b'a' {
                continue;
            }
            let mut found = Transport::default();
            found.take(&line)?;
            for (known, found) in [(&mut ufrag, found.ufrag), (&mut pwd, found.pwd)] {
                let Some((_, value)) = found else { continue };
                if known.is_some_and(|known| known != value) {
                    return Err(line.error(Reason::IceDiffers));
                }
                *known = Some(value);
            }
        }
        let ice = ufrag.zip(pwd).map(|(ufrag, pwd)| IceCredentials { ufrag: ufrag.into(), pwd: pwd.into() });
        Ok(Self { ice })
    }

    /// The client's new credentials when the fragment restarts ICE: both are there, and the user name is another.
    #[must_use]
    pub fn restart(&self, current: &IceCredentials) -> Option<&IceCredentials> {
        self.ice.as_ref().filter(|ice| ice.ufrag != current.ufrag)
    }
}

/// What a restart is answered with: the relay's new credentials (`local.ice`) and its candidates (RFC 9725,
/// section 4.3.3).
#[must_use]
pub fn fragment_answer(description: &Description, local: &Local<'_>) -> String {
    let accepted = || description.sections.iter().filter(|section| !section.payload_types.is_empty());
    let mut out = String::new();
    write::write_ice_session(&mut out);
    write::write_group(&mut out, accepted().map(|section| section.mid));
    if let Some(section) = accepted().next() {
        let media = match section.kind {
            Kind::Audio => "audio",
            Kind::Video => "video",
        };
        let number = section.payload_types.first().map_or(0, |payload_type| payload_type.number);
        let _ = write!(out, "m={media} 9 UDP/TLS/RTP/SAVPF {number}\r\na=mid:{}\r\n", section.mid.as_str());
    }
    write::write_credentials(&mut out, local.ice);
    write::write_candidates(&mut out, local.candidates);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTART: &str = "a=ice-options:trickle ice2\r\na=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n\
        a=mid:0\r\na=ice-ufrag:ysXw\r\na=ice-pwd:vw5LmwG4y/e6dPP/zAP9Gp5k\r\n\
        a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag ysXw network-id 1\r\n\
        a=end-of-candidates\r\n";

    fn current(ufrag: &str) -> IceCredentials {
        IceCredentials { ufrag: ufrag.to_owned(), pwd: String::new() }
    }

    #[test]
    fn new_credentials_restart_and_known_ones_only_trickle() {
        let fragment = Fragment::parse(RESTART).unwrap();
        let restart = fragment.restart(&current("EsAw")).unwrap();
        assert_eq!((restart.ufrag.as_str(), restart.pwd.as_str()), ("ysXw", "vw5LmwG4y/e6dPP/zAP9Gp5k"));
        assert_eq!(fragment.restart(&current("ysXw")), None);
    }

    #[test]
    fn a_fragment_without_credentials_restarts_nothing() {
        for text in ["", "a=end-of-candidates\n", "m=audio 9 x 0\na=mid:0\na=ice-ufrag:ysXw\n"] {
            assert_eq!(Fragment::parse(text).unwrap().restart(&current("EsAw")), None);
        }
    }

    #[test]
    fn a_fragment_of_two_sessions_is_refused_with_its_line() {
        let text = format!("{RESTART}m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\na=ice-ufrag:other\r\n");
        let error = Fragment::parse(&text).unwrap_err();
        assert_eq!(error, OfferError { line: 11, reason: Reason::IceDiffers });
        assert_eq!(Fragment::parse("a=ice-ufrag:abc").unwrap_err().reason, Reason::IceUfrag);
        let long = "a=x\n".repeat(FRAGMENT_BYTES_MAX);
        assert!(matches!(Fragment::parse(&long).unwrap_err().reason, Reason::TooLong { .. }));
    }
}
