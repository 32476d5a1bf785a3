//! Session descriptions: an SDP offer comes in; what was agreed on and the text of the answer come out.
//!
//! Pure functions, no I/O: random numbers are handed in. What is unusable is refused with the line and the reason,
//! what is unknown is left out of the answer, as RFC 3264 has it.
//!
//! # Layout
//! - [`Offer`] (`offer.rs`): the session, and what must hold for all sections; `section.rs`: one media section
//! - `codec.rs`, `extension.rs`, `simulcast.rs`: what of a section the relay takes
//! - [`fn@answer`] (`answer.rs`): what is agreed on, `write.rs`: as text
//! - [`Fragment`] (`fragment.rs`): trickled candidates and ICE restarts (RFC 8840, RFC 9725)
//! - [`OfferError`] (`error.rs`), `lines.rs`: lines with their numbers

mod answer;
mod codec;
mod error;
mod extension;
mod fragment;
mod lines;
mod offer;
mod section;
mod simulcast;
#[cfg(test)]
mod tests;
mod write;

pub use answer::{Answer, answer};
pub use codec::CodecName;
pub use error::{OfferError, Reason};
pub use fragment::{Fragment, fragment_answer};
pub use offer::Offer;
pub use write::{Candidate, Local, Transport};

/// Bytes of an offer. Chromium's with 102 sections has 306 kB; more lets one request take more memory and time.
pub const OFFER_BYTES_MAX: usize = 1 << 20;

/// Bytes of a fragment. A candidate has about 150; more lets one request take more time.
pub const FRAGMENT_BYTES_MAX: usize = 1 << 16;

/// Header extensions in one section, known or not. Chromium offers up to 15 of its 20.
pub const EXTENSIONS_MAX: usize = 64;

/// SSRCs of one section. Simulcast without names has six; each costs four bytes for as long as the section lives.
pub const SSRCS_MAX: usize = 32;

/// The canonical name (RFC 3550) of everything that the relay sends. It says nothing about anybody.
pub const CNAME: &str = "trunkline";
