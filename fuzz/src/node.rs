//! The parsers of the relay's shell, as [`crate::relay`] has its core's: one function per fuzz target. None may panic,
//! whatever it is given. The committed seeds, in `seeds/node`, go through the very same functions in an ordinary test.

use trunkline_relay::sdp::{
    Candidate, CodecName, Fragment, Local, Offer, Transport, answer, fragment_answer,
};
use trunkline_relay::token::Tokens;
use trunkline_relay_proto::event::Role;
use trunkline_relay_proto::media::IceCredentials;

/// A parser that is fed.
pub type Parser = fn(&[u8]);

/// Every target by the name of its folder of seeds.
pub const TARGETS: &[(&str, Parser)] = &[("sdp", sdp), ("token", token)];

/// The secret that seeds are signed with, and when they expire.
pub const SECRET: [u8; 32] = [0x5e; 32];
pub const EXPIRES_S: u64 = 4_102_444_800;

/// An offer, or a fragment. What is taken is answered section by section, and taken again with what was agreed on.
pub fn sdp(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Fragment::parse(text);
    let Ok(offer) = Offer::parse(text) else { return };
    let ice = IceCredentials { ufrag: "ufrag".to_owned(), pwd: "password of 22 letters".to_owned() };
    let candidate = Candidate { address: ([192, 0, 2, 1], 16_384).into(), transport: Transport::Udp };
    for role in [Role::Presenter, Role::Viewer] {
        let local = Local {
            ice: &ice,
            fingerprint: &[0xab; 32],
            candidates: &[candidate],
            role,
            codecs: &CodecName::DEFAULT,
        };
        let Ok(first) = answer(&offer, None, &local, &mut || 1) else { continue };
        let sections = |text: &str| text.split('\n').filter(|line| line.starts_with("m=")).count();
        assert_eq!(sections(&first.text), sections(text), "every section is answered");
        let again = answer(&offer, Some(&first.description), &local, &mut || 1);
        assert_eq!(again.map(|again| again.text).as_ref(), Ok(&first.text), "the same is answered alike");
        let _ = fragment_answer(&first.description, &local);
    }
}

/// A join token. What is taken was signed here, and reads as it was minted.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(grant) = tokens().verify(text) {
        let again = tokens().mint(&grant, EXPIRES_S).expect("there is a secret");
        assert_eq!(tokens().verify(&again), Ok(grant), "a grant survives being minted");
    }
}

/// Keys of both kinds. Nobody has the private half of the public one.
pub fn tokens() -> Tokens {
    let mut tokens = Tokens::new(None, None);
    tokens.trust_secret(&SECRET);
    tokens.trust_public_key(&[0x5e; 32]);
    tokens
}
