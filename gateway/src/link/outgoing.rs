//! What waits to be sent: whose turn it is over TCP, and when a blob is complete over QUIC.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use trunkline_gateway_proto::frame::{self, Channel};
use trunkline_gateway_proto::wire::frame::Body;
use trunkline_gateway_proto::wire::{Blob, Data, item};

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

/// When the blobs of one link are complete: the placeholder in the lane says how long each is, and it may go
/// before or after the pieces.
#[derive(Debug, Default)]
pub(super) struct Blobs(HashMap<u64, Progress>);

#[derive(Debug, Default)]
struct Progress {
    sent: u64,
    expected: Option<u64>,
}

impl Blobs {
    /// Notes the placeholders in a lane's frame; answers the blobs that are complete with it.
    pub(super) fn announced(&mut self, data: &Data) -> Vec<u64> {
        let mut complete = Vec::new();
        for item in &data.items {
            if let Some(item::Body::Blob(blob)) = &item.body {
                let progress = self.0.entry(blob.blob_id).or_default();
                progress.expected = Some(blob.bytes);
                if progress.sent >= blob.bytes && progress.sent > 0 {
                    self.0.remove(&blob.blob_id);
                    complete.push(blob.blob_id);
                }
            }
        }
        complete
    }

    /// Notes a piece; answers whether it is the last. An empty piece is: it says that no more will come.
    pub(super) fn sent(&mut self, blob: &Blob) -> bool {
        let progress = self.0.entry(blob.blob_id).or_default();
        progress.sent += blob.chunk.len() as u64;
        let last = blob.chunk.is_empty() || progress.expected.is_some_and(|bytes| progress.sent >= bytes);
        if last {
            self.0.remove(&blob.blob_id);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use trunkline_gateway_proto::store::Lane;
    use trunkline_gateway_proto::wire::{BlobRef, Item, Ping};

    use super::*;

    fn piece(blob_id: u64, length: usize) -> Body {
        Body::Blob(Blob { blob_id, chunk: vec![0; length].into() })
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

    #[test]
    fn a_blob_is_complete_whichever_comes_first_the_placeholder_or_the_pieces() {
        let mut blobs = Blobs::default();
        let placeholder = |blob_id| {
            let body = Some(item::Body::Blob(BlobRef { blob_id, bytes: 20 }));
            Data { first_seq: 1, items: vec![Item { ttl_ms: 1, body }] }
        };
        let piece = |blob_id, length| Blob { blob_id, chunk: vec![0; length].into() };
        assert!(blobs.announced(&placeholder(1)).is_empty());
        assert!(!blobs.sent(&piece(1, 10)));
        assert!(blobs.sent(&piece(1, 10)));
        assert!(!blobs.sent(&piece(2, 10)));
        assert!(!blobs.sent(&piece(2, 10)));
        assert_eq!(blobs.announced(&placeholder(2)), [2]);
        assert!(!blobs.sent(&piece(3, 10)));
        assert!(blobs.sent(&piece(3, 0)));
        assert!(blobs.0.is_empty());
    }
}
