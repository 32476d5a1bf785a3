//! What waits to be sent over TCP, and whose turn it is.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use trunkline_gateway_proto::frame::{self, Channel};
use trunkline_gateway_proto::wire::frame::Body;

/// Frames of all channels that share one stream: control first, then every channel in turn, a frame at a time.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    control: VecDeque<Body>,
    channels: HashMap<Channel, VecDeque<Body>>,
    /// Channels with something to send, in the order of their turns.
    turns: VecDeque<Channel>,
    buffer: BytesMut,
}

impl Outgoing {
    pub(super) fn push(&mut self, channel: Channel, body: Body) {
        if channel == Channel::Control {
            self.control.push_back(body);
            return;
        }
        let queue = self.channels.entry(channel).or_default();
        if queue.is_empty() {
            self.turns.push_back(channel);
        }
        queue.push_back(body);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.turns.is_empty()
    }

    /// Encodes frames until there are `bytes` or more, or nothing waits.
    pub(super) fn take(&mut self, bytes: usize) -> Bytes {
        while self.buffer.len() < bytes {
            let Some((channel, body)) = self.next() else { break };
            frame::put_varint(channel.number(), &mut self.buffer);
            frame::encode(body, &mut self.buffer);
        }
        self.buffer.split().freeze()
    }

    fn next(&mut self) -> Option<(Channel, Body)> {
        if let Some(body) = self.control.pop_front() {
            return Some((Channel::Control, body));
        }
        let channel = self.turns.pop_front()?;
        let queue = self.channels.get_mut(&channel)?;
        let body = queue.pop_front()?;
        if queue.is_empty() {
            self.channels.remove(&channel);
        } else {
            self.turns.push_back(channel);
        }
        Some((channel, body))
    }
}

#[cfg(test)]
mod tests {
    use trunkline_gateway_proto::store::Lane;
    use trunkline_gateway_proto::wire::{Blob, Data, Ping};

    use super::*;

    fn piece(blob_id: u64, length: usize) -> Body {
        Body::Blob(Blob { blob_id, chunk: vec![0; length].into(), last: false })
    }

    fn channels(outgoing: &mut Outgoing) -> Vec<Channel> {
        std::iter::from_fn(|| outgoing.next().map(|(channel, _)| channel)).collect()
    }

    #[test]
    fn control_goes_first_and_channels_take_turns() {
        let (blob, lane) = (Channel::Blob(0), Channel::Lane(Lane(1)));
        let mut outgoing = Outgoing::default();
        for _ in 0..3 {
            outgoing.push(blob, piece(0, 10));
        }
        outgoing.push(lane, Body::Data(Data::default()));
        outgoing.push(Channel::Control, Body::Ping(Ping { nonce: 1 }));
        assert_eq!(channels(&mut outgoing), [Channel::Control, blob, lane, blob, blob]);
        assert!(outgoing.is_empty() && outgoing.channels.is_empty());
    }

    #[test]
    fn a_take_ends_at_its_size() {
        let mut outgoing = Outgoing::default();
        for id in 0..8 {
            outgoing.push(Channel::Blob(id), piece(id, 1000));
        }
        let taken = outgoing.take(2500).len();
        assert!((2500..4000).contains(&taken), "{taken}");
        assert!(!outgoing.is_empty());
    }
}
