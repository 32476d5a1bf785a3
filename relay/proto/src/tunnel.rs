//! The tunnel between an ingress and a node: UDP datagrams that carry a client's datagrams or frames behind a header of
//! 24 bytes in network order, the same in both directions:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version (upper four bits), 1, and kind: 0 datagram, 1 closed, 2 dropped |
//! | 1 | how the client reaches the ingress: 0 UDP, 1 TCP, 2 TLS |
//! | 2 | the client's port |
//! | 16 | the client's address; an IPv4 one as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2) |
//! | 4 | the flow: what the ingress needs to find the way back; the node repeats it |
//!
//! Behind it: of a `datagram`, what the client sent or is to get; of `closed`, nothing (the client's connection is gone);
//! of `dropped`, the SSRCs, four bytes each, of which the ingress dropped old packets because the connection was too
//! slow.
//!
//! The header says everything that is needed to reach a client over UDP, so an ingress that was just restarted sends
//! on what comes from nodes before it has heard of the client again. It is not authenticated: both ends take it from
//! configured addresses only, and what it carries is protected end to end.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::path::Transport;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 24;

/// SSRCs that one `dropped` names at most. More wait for the next one.
pub const DROPPED_MAX: usize = 64;

/// The only version there is.
const VERSION: u8 = 1;

/// What is behind the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client's datagram or frame.
    Datagram,
    /// Nothing: the client's connection is gone.
    Closed,
    /// SSRCs of which packets were dropped before they reached the client.
    Dropped,
}

/// The header. It names a person's network address, so it does not print.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What is behind it.
    pub kind: Kind,
    /// How the client reaches the ingress.
    pub transport: Transport,
    /// The client's address and port. An IPv4 address is never written as an IPv6 one.
    pub remote: SocketAddr,
    /// What the ingress calls the flow.
    pub flow: u32,
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header")
            .field("kind", &self.kind)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// Why a tunnel's datagram is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TunnelError {
    /// Shorter than the header.
    #[error("shorter than the tunnel's header")]
    Short,
    /// Of another version: nodes and ingresses are updated one after the other.
    #[error("of an unknown version of the tunnel")]
    Version,
    /// A kind or transport that is not known, or no port.
    #[error("not a tunnel's header")]
    Malformed,
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn write(&self) -> [u8; HEADER_BYTES] {
        let kind = match self.kind {
            Kind::Datagram => 0,
            Kind::Closed => 1,
            Kind::Dropped => 2,
        };
        let transport = match self.transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
            Transport::Tls => 2,
        };
        let ip = match self.remote.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut bytes = [0; HEADER_BYTES];
        let parts: [&[u8]; 4] = [
            &[VERSION << 4 | kind, transport],
            &self.remote.port().to_be_bytes(),
            &ip.octets(),
            &self.flow.to_be_bytes(),
        ];
        let all = parts.iter().copied().flatten();
        bytes.iter_mut().zip(all).for_each(|(byte, value)| *byte = *value);
        bytes
    }

    /// Reads a header, and gives what is behind it.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(datagram: &[u8]) -> Result<(Self, &[u8]), TunnelError> {
        let (bytes, rest) = datagram.split_first_chunk::<HEADER_BYTES>().ok_or(TunnelError::Short)?;
        let ([first, transport, p0, p1], bytes) = bytes.split_first_chunk().ok_or(TunnelError::Short)?;
        let (ip, flow) = bytes.split_first_chunk::<16>().ok_or(TunnelError::Short)?;
        if first >> 4 != VERSION {
            return Err(TunnelError::Version);
        }
        let kind = match first & 0x0f {
            0 => Kind::Datagram,
            1 => Kind::Closed,
            2 => Kind::Dropped,
            _ => return Err(TunnelError::Malformed),
        };
        let transport = match transport {
            0 => Transport::Udp,
            1 => Transport::Tcp,
            2 => Transport::Tls,
            _ => return Err(TunnelError::Malformed),
        };
        let port = u16::from_be_bytes([*p0, *p1]);
        if port == 0 {
            return Err(TunnelError::Malformed);
        }
        let remote = SocketAddr::new(IpAddr::from(Ipv6Addr::from(*ip)).to_canonical(), port);
        let flow = flow.first_chunk().copied().map(u32::from_be_bytes).ok_or(TunnelError::Short)?;
        Ok((Self { kind, transport, remote, flow }, rest))
    }
}

/// The SSRCs behind the header of a `dropped`.
pub fn dropped(rest: &[u8]) -> impl Iterator<Item = u32> {
    rest.as_chunks::<4>().0.iter().take(DROPPED_MAX).map(|ssrc| u32::from_be_bytes(*ssrc))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(remote: &str) -> Header {
        let remote = remote.parse().expect("an address");
        Header { kind: Kind::Datagram, transport: Transport::Tcp, remote, flow: 0x0102_0304 }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let bytes = header("192.0.2.7:258").write();
        let expected = [0x10, 1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7, 1, 2, 3, 4];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn addresses_of_both_families_come_back_with_what_is_behind() {
        for remote in ["192.0.2.7:258", "[2001:db8::7]:65535"] {
            let written = header(remote);
            let datagram = [&written.write()[..], b"rest"].concat();
            assert_eq!(Header::parse(&datagram), Ok((written, &b"rest"[..])));
        }
    }

    #[test]
    fn what_is_no_header_is_refused_with_the_reason() {
        let good = header("192.0.2.7:258").write();
        let changed = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            Header::parse(&bytes).expect_err("not a header")
        };
        assert_eq!(changed(0, 0x20), TunnelError::Version);
        assert_eq!(changed(0, 0x1f), TunnelError::Malformed);
        assert_eq!(changed(1, 3), TunnelError::Malformed);
        assert_eq!(Header::parse(&good[..23]), Err(TunnelError::Short));
        let mut no_port = good;
        no_port[2..4].fill(0);
        assert_eq!(Header::parse(&no_port), Err(TunnelError::Malformed));
    }

    #[test]
    fn dropped_ssrcs_are_bounded_and_a_cut_one_is_left_out() {
        let bytes: Vec<u8> = (0..100_u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(dropped(&bytes).count(), DROPPED_MAX);
        assert_eq!(dropped(&bytes[..7]).collect::<Vec<_>>(), [0]);
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((header, rest)) = Header::parse(&bytes) {
                let written = [&header.write()[..], rest].concat();
                prop_assert_eq!(Header::parse(&written), Ok((header, rest)));
            }
        }
    }
}
