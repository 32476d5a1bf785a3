//! What a call counts. The shell adds the counts of all calls up into metrics.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since a call began.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every count with its name, for metrics.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }

            /// What was added since an earlier reading.
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.saturating_sub(earlier.$name)),* }
            }

            /// Adds another call's counts.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Datagrams that arrived.
    datagrams_in,
    /// Their bytes.
    bytes_in,
    /// RTP packets opened and taken.
    media_in,
    /// RTP packets sealed for a receiver, retransmissions not among them.
    media_out,
    /// Bytes of all datagrams sealed or written.
    bytes_out,
    /// Retransmissions sent on RTX.
    retransmissions_out,
    /// Bytes sent only to find out what lines carry.
    probe_bytes_out,
    /// Packets handed to other branches of the call, once for all of them.
    shared_out,
    /// Packets taken in from other branches of the call.
    shared_in,
    /// Packets asked for again from senders.
    nacks_out,
    /// Packets receivers asked for again.
    nacks_in,
    /// Key frame requests sent to senders.
    key_frame_requests_out,
    /// Key frame requests from receivers.
    key_frame_requests_in,
    /// Pictures that came so late after the one before that receivers must see a freeze.
    freezes,
    /// Times that a receiver got more of a source than before: a larger picture, or more pictures a second.
    layer_switches_up,
    /// Times that a receiver got less of it.
    layer_switches_down,
    /// Times that nothing of a source was sent for a slot, for want of bandwidth.
    slot_pauses,
    /// Silent audio that was not forwarded.
    silence_withheld,
    /// Participants that joined.
    joins,
    /// DTLS handshakes that completed.
    handshakes,
    /// Paths that changed during a call.
    migrations,
    /// Dropped: neither STUN, DTLS, RTP nor RTCP.
    dropped_unknown,
    /// Dropped: STUN that does not parse, or is no binding request.
    dropped_stun_malformed,
    /// Dropped: STUN for nobody in the call.
    dropped_stun_username,
    /// Dropped: STUN whose integrity does not verify.
    dropped_stun_integrity,
    /// Dropped: from an address no authenticated check came from.
    dropped_path,
    /// Dropped: DTLS beyond a participant's budget, or after a failure.
    dropped_dtls,
    /// Dropped: media before the handshake completed.
    dropped_early,
    /// Dropped: RTP or RTCP that does not parse.
    dropped_malformed,
    /// Dropped: SRTP or SRTCP whose tag does not verify.
    dropped_authentication,
    /// Dropped: replayed, or too old to tell.
    dropped_replay,
    /// Dropped: an SSRC that no section of the participant claims.
    dropped_ssrc,
    /// Dropped: a payload type the section did not agree on.
    dropped_payload_type,
    /// Dropped: larger than the relay forwards.
    dropped_size,
    /// Dropped: over the participant's rate of packets.
    dropped_rate,
    /// Dropped: no room left in the arena.
    dropped_egress,
}
