//! A peer's link that came in at a follower: its frames go to the leader's driver and back, on one HTTP/2 stream.
//!
//! Either side of the stream carries items, each a byte that says what it is, a length (4 bytes, big endian) and that
//! many bytes. What may be under way is bounded by the credit that the core gives, as on the link itself.

use std::net::SocketAddr;

use axum::body::{Body as HttpBody, BodyDataStream};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};
use trunkline_gateway_proto::frame::{self, Channel, FRAME_BYTES_MAX};
use trunkline_gateway_proto::key::ChannelBinding;
use trunkline_gateway_proto::link::{LinkId, Transport};
use trunkline_gateway_proto::store::PeerKey;
use trunkline_gateway_proto::wire::Goaway;
use trunkline_gateway_proto::wire::frame::Body;

use crate::link::{LinkCommand, LinkEvent, LinkSender};

/// Longest item. A frame with its channel is the longest that is sent.
const ITEM_BYTES_MAX: usize = FRAME_BYTES_MAX + 64;

/// Items written at once.
const BATCH: usize = 64;

const OPENED: u8 = 0;
const FRAME: u8 = 1;
const CLOSED: u8 = 2;
const CLOSE: u8 = 3;

/// What the other end has to be told of a link.
#[derive(Debug)]
pub(super) enum Item {
    /// To the leader, first: how the link came up.
    Opened(Arrived),
    /// Either way.
    Frame(Channel, Body),
    /// To the leader, last: why the link is gone.
    Closed(String),
    /// To the follower, last: the link is to be closed.
    Close(Option<Goaway>),
}

/// A link that a follower accepted.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Arrived {
    #[prost(bool, tag = "1")]
    tcp: bool,
    #[prost(bytes = "bytes", tag = "2")]
    certificate: Bytes,
    #[prost(uint32, repeated, tag = "3")]
    vouched: Vec<u32>,
    #[prost(string, tag = "4")]
    remote: String,
    /// For the dialer, the acceptor and rotation, one after the other.
    #[prost(bytes = "vec", tag = "5")]
    binding: Vec<u8>,
}

impl Arrived {
    fn new(
        transport: Transport,
        certificate: Bytes,
        vouched: &[PeerKey],
        remote: SocketAddr,
        binding: &ChannelBinding,
    ) -> Self {
        Self {
            tcp: transport == Transport::Tcp,
            certificate,
            vouched: vouched.iter().map(|peer| peer.0).collect(),
            remote: remote.to_string(),
            binding: [binding.dialer, binding.acceptor, binding.rotation].concat(),
        }
    }

    /// As the driver takes it; `None` when it cannot be meant.
    fn event(self, link: LinkId, sender: LinkSender) -> Option<LinkEvent> {
        let ([dialer, acceptor, rotation], []) = self.binding.as_chunks::<32>() else { return None };
        Some(LinkEvent::Opened {
            link,
            dialed: None,
            transport: if self.tcp { Transport::Tcp } else { Transport::Quic },
            certificate: self.certificate,
            vouched: self.vouched.into_iter().map(PeerKey).collect(),
            remote: self.remote.parse().ok()?,
            binding: ChannelBinding { dialer: *dialer, acceptor: *acceptor, rotation: *rotation },
            sender,
        })
    }
}

impl Item {
    fn put(self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u8(match self {
            Self::Opened(_) => OPENED,
            Self::Frame(..) => FRAME,
            Self::Closed(_) => CLOSED,
            Self::Close(_) => CLOSE,
        });
        out.put_u32(0);
        match self {
            Self::Opened(arrived) => arrived.encode(out).expect("a buffer grows"),
            Self::Frame(channel, body) => {
                frame::put_varint(channel.number(), out);
                frame::encode(body, out);
            }
            Self::Closed(reason) => out.put_slice(reason.as_bytes()),
            Self::Close(goaway) => {
                if let Some(goaway) = goaway {
                    out.put_u8(1);
                    goaway.encode(out).expect("a buffer grows");
                }
            }
        }
        let length = u32::try_from(out.len() - start - 5).expect("a frame is bounded");
        out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    }

    /// Takes one off the front; `Ok(None)` when more bytes are needed.
    fn get(buffer: &mut BytesMut) -> Result<Option<Self>, &'static str> {
        let Some((kind, rest)) = buffer.split_first() else { return Ok(None) };
        let kind = *kind;
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > ITEM_BYTES_MAX {
            return Err("an item that is too long");
        }
        if buffer.len() < 5 + length {
            buffer.reserve(5 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(5);
        let mut content = buffer.split_to(length);
        Ok(Some(match kind {
            OPENED => Self::Opened(Arrived::decode(content).map_err(|_| "a link that cannot be read")?),
            FRAME => {
                let number = frame::get_varint(&mut content).ok_or("a frame without a channel")?;
                let channel = Channel::from_number(number);
                let body = frame::decode(channel, &mut content).map_err(|_| "a frame that cannot be read")?;
                Self::Frame(channel, body.ok_or("half a frame")?)
            }
            CLOSED => Self::Closed(String::from_utf8_lossy(&content).into_owned()),
            CLOSE => Self::Close(match content.split_first() {
                None => None,
                Some((_, goaway)) => {
                    Some(Goaway::decode(goaway).map_err(|_| "a GOAWAY that cannot be read")?)
                }
            }),
            _ => return Err("an item of another release"),
        }))
    }
}

/// Items as they come from the other end.
struct Incoming {
    body: BodyDataStream,
    buffer: BytesMut,
}

impl Incoming {
    fn new(body: HttpBody) -> Self {
        Self { body: body.into_data_stream(), buffer: BytesMut::new() }
    }

    /// The next item; `None` when there is none any more, for whatever reason.
    async fn next(&mut self) -> Option<Item> {
        loop {
            match Item::get(&mut self.buffer) {
                Ok(Some(item)) => return Some(item),
                Ok(None) => {}
                Err(what) => {
                    tracing::warn!("another replica sent {what}");
                    return None;
                }
            }
            self.buffer.extend_from_slice(&self.body.next().await?.ok()?);
        }
    }
}

/// Batches of what a queue holds, for as long as somebody can put something into it.
fn outgoing<T: Send + 'static>(
    queue: UnboundedReceiver<T>,
    put: impl Fn(T, &mut BytesMut) -> bool + Send + 'static,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static {
    stream::unfold(Some((queue, put)), |state| async {
        let (mut queue, put) = state?;
        let mut batch = Vec::with_capacity(BATCH);
        if queue.recv_many(&mut batch, BATCH).await == 0 {
            return None;
        }
        let mut out = BytesMut::new();
        let goes_on = batch.into_iter().all(|item| put(item, &mut out));
        Some((Ok(out.freeze()), goes_on.then_some((queue, put))))
    })
}

// ------------------------------------------------------------ at the follower

/// The follower's end of a link that it accepted.
#[derive(Debug)]
pub(crate) struct Relay(UnboundedSender<Item>);

impl Relay {
    /// What the leader is told first, and where the rest is put. `None` for a link that we dialled: followers do not.
    pub(super) fn new(opened: LinkEvent) -> Option<(Self, HttpBody, LinkSender)> {
        let LinkEvent::Opened {
            dialed: None, transport, certificate, vouched, remote, binding, sender, ..
        } = opened
        else {
            return None;
        };
        let (items, queue) = unbounded_channel();
        items.send(Item::Opened(Arrived::new(transport, certificate, &vouched, remote, &binding))).ok()?;
        let body = outgoing(queue, |item: Item, out| {
            item.put(out);
            true
        });
        Some((Self(items), HttpBody::from_stream(body), sender))
    }

    /// A frame came.
    pub(crate) fn frame(&self, channel: Channel, body: Body) {
        // When the leader is gone, the link is being closed.
        self.0.send(Item::Frame(channel, body)).ok();
    }

    /// The link is gone.
    pub(crate) fn closed(self, reason: String) {
        self.0.send(Item::Closed(reason)).ok();
    }
}

/// Does on a link what the leader wants done on it, until it is closed.
pub(super) async fn obey(answer: HttpBody, link: LinkSender) {
    let mut incoming = Incoming::new(answer);
    while let Some(item) = incoming.next().await {
        let command = match item {
            Item::Frame(channel, body) => LinkCommand::Send(channel, body),
            Item::Close(goaway) => LinkCommand::Close(goaway),
            Item::Opened(_) | Item::Closed(_) => break,
        };
        if link.send(command).is_err() {
            return;
        }
    }
    // Without the leader nobody answers the peer: it is to come again.
    link.send(LinkCommand::Close(None)).ok();
}

// ------------------------------------------------------------ at the leader

/// Takes a follower's link: what it brings goes to `events`. Answers what the follower is to do; `None` when that is no
/// link.
pub(super) async fn take(body: HttpBody, link: LinkId, events: Sender<LinkEvent>) -> Option<HttpBody> {
    let mut incoming = Incoming::new(body);
    let Some(Item::Opened(arrived)) = incoming.next().await else { return None };
    let (sender, commands) = unbounded_channel();
    events.send(arrived.event(link, sender)?).await.ok()?;
    tokio::spawn(async move {
        let reason = bring(&mut incoming, link, &events).await;
        events.send(LinkEvent::Closed { link, reason }).await.ok();
    });
    let answer = outgoing(commands, |command, out| match command {
        LinkCommand::Send(channel, body) => {
            Item::Frame(channel, body).put(out);
            true
        }
        LinkCommand::Close(goaway) => {
            Item::Close(goaway).put(out);
            false
        }
    });
    Some(HttpBody::from_stream(answer))
}

/// Brings frames until there are no more; answers why.
async fn bring(incoming: &mut Incoming, link: LinkId, events: &Sender<LinkEvent>) -> String {
    loop {
        match incoming.next().await {
            Some(Item::Frame(channel, body)) => {
                if events.send(LinkEvent::Frame { link, channel, body }).await.is_err() {
                    return "stopping".to_owned();
                }
            }
            Some(Item::Closed(reason)) => return reason,
            Some(Item::Opened(_) | Item::Close(_)) | None => {
                return "the replica that it came in at is gone".to_owned();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{Receiver, channel};
    use trunkline_gateway_proto::wire::{Ping, Reason};

    use super::*;

    /// Events up to the last of a link.
    async fn collect(mut events: Receiver<LinkEvent>) -> Vec<LinkEvent> {
        let mut all = Vec::new();
        while let Some(event) = events.recv().await {
            let last = matches!(event, LinkEvent::Closed { .. });
            all.push(event);
            if last {
                break;
            }
        }
        all
    }

    fn ping(nonce: u64) -> Body {
        Body::Ping(Ping { nonce })
    }

    fn opened(sender: LinkSender) -> LinkEvent {
        LinkEvent::Opened {
            link: LinkId(1),
            dialed: None,
            transport: Transport::Tcp,
            certificate: Bytes::from_static(b"der"),
            vouched: vec![PeerKey(4)],
            remote: "192.0.2.1:77".parse().unwrap(),
            binding: ChannelBinding { dialer: [1; 32], acceptor: [2; 32], rotation: [3; 32] },
            sender,
        }
    }

    #[tokio::test]
    async fn a_link_at_a_follower_is_one_at_the_leader() {
        let (to_link, mut on_link) = unbounded_channel();
        let (relay, body, link) = Relay::new(opened(to_link)).unwrap();
        let (events_in, events) = channel(8);
        let answer = take(body, LinkId(9), events_in).await.unwrap();
        relay.frame(Channel::Control, ping(5));
        relay.closed("unplugged".to_owned());
        let mut seen = collect(events).await.into_iter();
        let Some(LinkEvent::Opened { link: LinkId(9), transport, vouched, remote, binding, sender, .. }) =
            seen.next()
        else {
            panic!("the first event is another one");
        };
        assert_eq!((transport, vouched, remote.port()), (Transport::Tcp, vec![PeerKey(4)], 77));
        assert_eq!((binding.dialer[0], binding.acceptor[0], binding.rotation[0]), (1, 2, 3));
        assert!(matches!(seen.next(), Some(LinkEvent::Frame { body: Body::Ping(Ping { nonce: 5 }), .. })));
        assert!(matches!(seen.next(), Some(LinkEvent::Closed { reason, .. }) if reason == "unplugged"));

        sender.send(LinkCommand::Send(Channel::Control, ping(6))).unwrap();
        let goaway = Goaway { reason: Reason::Shutdown.into(), retry_after_ms: 3, detail: String::new() };
        sender.send(LinkCommand::Close(Some(goaway.clone()))).unwrap();
        obey(answer, link).await;
        let sent = on_link.recv().await;
        assert!(matches!(sent, Some(LinkCommand::Send(_, Body::Ping(Ping { nonce: 6 })))), "{sent:?}");
        let closed = on_link.recv().await;
        assert!(matches!(&closed, Some(LinkCommand::Close(Some(said))) if *said == goaway), "{closed:?}");
    }

    #[tokio::test]
    async fn a_link_is_closed_when_the_leader_is_gone_and_gone_when_the_follower_is() {
        let (to_link, mut on_link) = unbounded_channel();
        obey(HttpBody::empty(), to_link).await;
        assert!(matches!(on_link.recv().await, Some(LinkCommand::Close(None))));
        let (to_link, _on_link) = unbounded_channel();
        let (relay, body, _) = Relay::new(opened(to_link)).unwrap();
        let (events_in, events) = channel(8);
        let _answer = take(body, LinkId(9), events_in).await.unwrap();
        drop(relay);
        assert!(matches!(collect(events).await.last(), Some(LinkEvent::Closed { .. })));
    }

    #[test]
    fn an_item_split_at_every_byte_is_read_once_it_is_whole() {
        let mut whole = BytesMut::new();
        Item::Frame(Channel::Control, ping(7)).put(&mut whole);
        for cut in 0..whole.len() {
            assert!(matches!(Item::get(&mut BytesMut::from(&whole[..cut])), Ok(None)));
        }
        assert!(matches!(Item::get(&mut whole), Ok(Some(Item::Frame(Channel::Control, _)))));
        assert!(whole.is_empty());
    }

    #[test]
    fn what_is_no_item_is_refused_and_nothing_is_allocated_for_it() {
        for bad in [&[9, 0, 0, 0, 0][..], &[1, 0xff, 0xff, 0xff, 0xff], &[1, 0, 0, 0, 1, 0], &[1, 0, 0, 0, 0]]
        {
            assert!(Item::get(&mut BytesMut::from(bad)).is_err(), "{bad:?}");
        }
    }
}
