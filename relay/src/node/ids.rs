//! Names of calls and sessions in URLs.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;
use trunkline_common::redact::{Detail, Redacted};

use super::Mode;

/// Random bytes of an identifier: enough that nobody guesses one.
const RANDOM_BYTES: usize = 16;

/// Characters they take.
const RANDOM_CHARS: usize = 22;

/// Bytes of a call's settings in its id: flags, participants at most, seconds.
const SETTINGS_BYTES: usize = 7;

/// Bytes of a call's id behind the node.
const CALL_BYTES: usize = SETTINGS_BYTES + RANDOM_BYTES;

/// Flag: few send to many.
const BROADCAST: u8 = 1 << 0;

/// Flag: clients are told about TCP only.
const FORCE_TCP: u8 = 1 << 1;

/// What a call is, as its id says, so that any node can make it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallSettings {
    /// What kind.
    pub mode: Mode,
    /// Clients are told about TCP only.
    pub force_tcp: bool,
    /// Participants at a time, from 1 to as many as the mode takes.
    pub participants_max: u16,
    /// When the call was created, in seconds since the Unix epoch.
    pub created_s: u32,
}

/// A call: the node it was created on, what it is, and 128 random bits.
///
/// As text `<node, 4 hex>-<31 characters of base64url>`, of these bytes in network order: one of flags (bit 0
/// broadcast, bit 1 force TCP, the others zero), two of participants at most, four of seconds since the Unix epoch, 16
/// random ones.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    text: String,
    node: u16,
    settings: CallSettings,
    random: [u8; RANDOM_BYTES],
}

impl CallId {
    /// A new one on a node.
    #[must_use]
    pub fn new(node: u16, settings: CallSettings) -> Self {
        Self::of(node, settings, random())
    }

    /// The node it was created on.
    #[must_use]
    pub fn node(&self) -> u16 {
        self.node
    }

    /// What the call is.
    #[must_use]
    pub fn settings(&self) -> CallSettings {
        self.settings
    }

    /// As in URLs.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What no other call has.
    pub(crate) fn unique(&self) -> u128 {
        u128::from_be_bytes(self.random)
    }

    fn of(node: u16, settings: CallSettings, random: [u8; RANDOM_BYTES]) -> Self {
        let broadcast = if settings.mode == Mode::Broadcast { BROADCAST } else { 0 };
        let force_tcp = if settings.force_tcp { FORCE_TCP } else { 0 };
        let mut bytes = Vec::with_capacity(CALL_BYTES);
        bytes.push(broadcast | force_tcp);
        bytes.extend(settings.participants_max.to_be_bytes());
        bytes.extend(settings.created_s.to_be_bytes());
        bytes.extend(random);
        Self { text: format!("{node:04x}-{}", URL_SAFE_NO_PAD.encode(bytes)), node, settings, random }
    }
}

impl FromStr for CallId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (node, rest) = text.split_once('-').ok_or(IdError)?;
        let is_hex = node.len() == 4 && node.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex {
            return Err(IdError);
        }
        let node = u16::from_str_radix(node, 16).map_err(|_| IdError)?;
        // One text per call: the decoder takes neither padding nor bits that mean nothing.
        let bytes = URL_SAFE_NO_PAD.decode(rest).map_err(|_| IdError)?;
        let bytes: [u8; CALL_BYTES] = bytes.try_into().map_err(|_| IdError)?;
        let [flags, max_0, max_1, s_0, s_1, s_2, s_3, random @ ..] = bytes;
        let mode = if flags & BROADCAST == 0 { Mode::Conference } else { Mode::Broadcast };
        let participants_max = u16::from_be_bytes([max_0, max_1]);
        if flags & !(BROADCAST | FORCE_TCP) != 0
            || !(1..=mode.participants_max()).contains(&usize::from(participants_max))
        {
            return Err(IdError);
        }
        let settings = CallSettings {
            mode,
            force_tcp: flags & FORCE_TCP != 0,
            participants_max,
            created_s: u32::from_be_bytes([s_0, s_1, s_2, s_3]),
        };
        Ok(Self { text: text.to_owned(), node, settings, random })
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// It tells which call, so logs show it only where the operator allows.
impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Redacted::new(&self.text, Detail::Messaging, "call"), f)
    }
}

/// A participant's session: 128 random bits, known to the participant alone. It is a credential, so it does not print.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(String);

impl SessionId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(random_text())
    }

    /// As in the session's URL.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if is_random(text) { Ok(Self(text.to_owned())) } else { Err(IdError) }
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId")
    }
}

/// Not an identifier of this node's making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an identifier that a relay gave out")]
pub struct IdError;

fn is_random(text: &str) -> bool {
    text.len() == RANDOM_CHARS
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system gives random numbers");
    bytes
}

fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(random::<RANDOM_BYTES>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings() -> impl Strategy<Value = CallSettings> {
        let settings = |(broadcast, force_tcp, most, created_s): (bool, bool, u16, u32)| {
            let mode = if broadcast { Mode::Broadcast } else { Mode::Conference };
            let participants_max = 1 + most % u16::try_from(mode.participants_max()).unwrap();
            CallSettings { mode, force_tcp, participants_max, created_s }
        };
        any::<(bool, bool, u16, u32)>().prop_map(settings)
    }

    proptest! {
        #[test]
        fn a_call_id_reads_back_with_all_it_says(node: u16, settings in settings()) {
            let id = CallId::new(node, settings);
            prop_assert_eq!(id.as_str().len(), 36);
            let read: CallId = id.as_str().parse().unwrap();
            prop_assert_eq!((read.node(), read.settings(), read.unique()), (node, settings, id.unique()));
            prop_assert_eq!(read, id);
        }

        #[test]
        fn a_call_has_one_text_only(node: u16, bytes: [u8; CALL_BYTES]) {
            let text = format!("{node:04x}-{}", URL_SAFE_NO_PAD.encode(bytes));
            if let Ok(id) = text.parse::<CallId>() {
                prop_assert_eq!(CallId::of(id.node, id.settings, id.random).text, text);
            }
        }

        #[test]
        fn any_text_is_an_id_or_refused(text in "[0-9a-f]{0,5}-?[A-Za-z0-9_=-]{0,34}") {
            if let Ok(id) = text.parse::<CallId>() {
                prop_assert_eq!(id.as_str(), text.as_str());
            }
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let settings = CallSettings {
            mode: Mode::Conference,
            force_tcp: false,
            participants_max: 100,
            created_s: 1_795_298_625,
        };
        let id = CallId::new(0xbeef, settings).text;
        let with = |bytes: [u8; CALL_BYTES]| format!("beef-{}", URL_SAFE_NO_PAD.encode(bytes));
        let mut bytes = [0; CALL_BYTES];
        bytes[2] = 1;
        assert!(with(bytes).parse::<CallId>().is_ok());
        for text in [
            String::new(),
            "beef".into(),
            "beef-".into(),
            id.replace("beef", "BEEF"),
            id.replace("beef", "bee"),
            id.replace("beef-", "beef"),
            format!("{id}="),
            format!("{id}A"),
            id[..35].to_owned(),
            format!("{}/", &id[..35]),
            // The last character carries four bits, and two that mean nothing.
            format!("{}B", &id[..35]),
            // Ids of versions before.
            "beef-AAAAAAAAAAAAAAAAAAAAAA".into(),
            with([0; CALL_BYTES]),
            with([&[1 << 2, 0, 1][..], &[0; 20]].concat().try_into().unwrap()),
            with([&[0, 0, 101][..], &[0; 20]].concat().try_into().unwrap()),
            with([&[1, 1, 245][..], &[0; 20]].concat().try_into().unwrap()),
        ] {
            assert!(text.parse::<CallId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_session_id_is_22_characters_of_base64url() {
        assert!("AAAAAAAAAAAAAAAAAAAAAA".parse::<SessionId>().is_ok());
        for text in ["", "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAA/", "AAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(text.parse::<SessionId>().is_err(), "{text}");
        }
    }
}
