//! A link over QUIC: a stream for each channel, so that a lost packet holds up one lane only.
//!
//! Control has its own writer and a higher priority than everything else. The lanes' streams are opened at the
//! start, before any blob's, so that waiting blobs never use up what a lane needs; on the wire a stream begins
//! with its first frame.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{collections::HashMap, net::SocketAddr};

use bytes::BytesMut;
use quinn::congestion::{ControllerFactory, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    Connection, ConnectionError, Endpoint, IdleTimeout, Incoming, ReadError, RecvStream, SendStream,
    ServerConfig, TransportConfig, TransportErrorCode, VarInt, WriteError,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use trunkline_common::redact;
use trunkline_gateway_proto::frame::{self, Channel};
use trunkline_gateway_proto::store::{LANES, Lane, PeerKey};
use trunkline_gateway_proto::wire::Reason;
use trunkline_gateway_proto::wire::frame::Body;

use super::admit::Permit;
use super::congestion::MeasuredConfig;
use super::end::{CERTIFICATE_REFUSED, CLOSE_GRACE, End};
use super::listen::{Congestion, LinkConfig, Shared};
use super::tls::{self, Authenticated, Refusal};
use super::{LinkCommand, LinkEvent, LinkId, Transport};

/// Application close codes.
pub(super) const CODE_DONE: VarInt = VarInt::from_u32(0);
const CODE_PROTOCOL: VarInt = VarInt::from_u32(1);

/// Blobs that a peer may send at once. Each may hold one frame in memory; more lets large envelopes of
/// different lanes overlap further.
const BLOBS_MAX: u32 = 16;

/// Encoded frames in one write. Larger saves locks, and keeps a lane's turn longer.
const WRITE_BYTES: usize = 128 * 1024;

/// Largest piece read at once.
const READ_BYTES: usize = 256 * 1024;

/// Commands taken at once.
const BATCH: usize = 64;

/// How long after the peer's last control frame the ends of its lanes may take to arrive.
const LINGER: Duration = Duration::from_millis(500);

/// What the connection may buffer beyond the data window, in bytes, so that control is never blocked by it.
const CONTROL_ROOM: u32 = 16 << 20;

/// First congestion window in bytes. Larger starts faster on long paths, and bursts more at short ones.
const INITIAL_WINDOW: u64 = 256 * 1024;

fn transport(config: &LinkConfig, control_streams: u32) -> Arc<TransportConfig> {
    let congestion: Arc<dyn ControllerFactory + Send + Sync> = match config.congestion {
        Congestion::Cubic => Arc::new(initial_cubic()),
        Congestion::Bbr => Arc::new(MeasuredConfig { initial_window: INITIAL_WINDOW }),
    };
    let idle = IdleTimeout::try_from(config.idle_timeout).ok();
    let connection_window = config.window_bytes.saturating_add(CONTROL_ROOM);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(control_streams.into())
        .max_concurrent_uni_streams((u32::from(LANES) + BLOBS_MAX).into())
        .stream_receive_window(config.window_bytes.into())
        .receive_window(connection_window.into())
        .send_window(u64::from(connection_window))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(idle)
        .keep_alive_interval(Some(config.keep_alive))
        .congestion_controller_factory(congestion);
    Arc::new(transport)
}

fn initial_cubic() -> CubicConfig {
    let mut config = CubicConfig::default();
    config.initial_window(INITIAL_WINDOW);
    config
}

pub(super) fn server_config(config: &LinkConfig, crypto: Arc<QuicServerConfig>) -> ServerConfig {
    let mut server = ServerConfig::with_crypto(crypto);
    server
        .transport_config(transport(config, 1))
        // Nothing but a handshake may come before we accept: there is no early data.
        .incoming_buffer_size(64 * 1024)
        .incoming_buffer_size_total(8 << 20)
        .max_incoming(config.pending_max);
    server
}

/// A connection that a peer made to us.
pub(super) async fn accept(shared: Arc<Shared>, incoming: Incoming, permit: Permit) {
    let remote = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let connection = match tokio::time::timeout(shared.config.handshake_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(remote = %redact::ip(&remote), reason = %error, "QUIC handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(remote = %redact::ip(&remote), "QUIC handshake timed out");
            return;
        }
    };
    drop(permit);
    run(shared, connection, None).await;
}

/// Connects to a peer. Its certificate was checked when this succeeds, ours not yet.
pub(super) async fn connect(
    shared: &Shared,
    peer: PeerKey,
    name: &str,
    address: SocketAddr,
) -> Result<Connection, String> {
    let endpoint = shared
        .endpoints
        .to(address)
        .ok_or("this machine has no UDP socket for that address family: see `listen`")?;
    let refusal = Arc::new(OnceLock::new());
    let crypto = tls::client_config(
        Arc::clone(&shared.identity),
        Arc::clone(&shared.directory),
        peer,
        Arc::clone(&refusal),
    );
    establish(&shared.config, endpoint, crypto, name, address, &refusal).await
}

/// As [`connect`], from any socket and with any certificate of ours.
pub(super) async fn establish(
    config: &LinkConfig,
    endpoint: &Endpoint,
    crypto: rustls::ClientConfig,
    name: &str,
    address: SocketAddr,
    refusal: &OnceLock<Refusal>,
) -> Result<Connection, String> {
    let crypto = QuicClientConfig::try_from(crypto).expect("the provider has AES-128-GCM");
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client.transport_config(transport(config, 0));
    let connecting = endpoint.connect_with(client, address, name).map_err(|error| error.to_string())?;
    match tokio::time::timeout(config.handshake_timeout, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(explain(&error, refusal.get())),
        Err(_) => Err("no answer: UDP is blocked on the way, or the peer is down".to_owned()),
    }
}

/// Why a connection ended, in words for the operator.
pub(super) fn explain(error: &ConnectionError, refusal: Option<&Refusal>) -> String {
    if let Some(refusal) = refusal {
        return refusal.to_string();
    }
    match error {
        ConnectionError::ConnectionClosed(close) if is_refusal(close.error_code) => {
            CERTIFICATE_REFUSED.to_owned()
        }
        ConnectionError::ConnectionClosed(close) => format!("the peer closed the connection: {close}"),
        ConnectionError::ApplicationClosed(close) if close.error_code == CODE_DONE => {
            "the peer closed the link".to_owned()
        }
        ConnectionError::ApplicationClosed(close) => {
            let why: String =
                String::from_utf8_lossy(&close.reason).chars().filter(|c| !c.is_control()).collect();
            format!("the peer closed the link because of what we sent: {why}")
        }
        ConnectionError::TimedOut => "nothing was heard from the peer any more".to_owned(),
        ConnectionError::LocallyClosed => "closed here".to_owned(),
        other => format!("the connection failed: {other}"),
    }
}

/// TLS alerts about a certificate (RFC 8446, section 6.2): 42 to 49, without the illegal parameter 47.
fn is_refusal(code: TransportErrorCode) -> bool {
    let code = u64::from(code);
    (0x100 + 42..=0x100 + 49).contains(&code) && code != 0x100 + 47
}

/// How reading a stream ends.
enum ReadEnd {
    /// The control stream is finished.
    Control,
    /// A lane's or a blob's is.
    Data,
    /// What came cannot be.
    Fault(String),
    /// The connection is gone, or nobody wants its frames: the main loop knows why.
    Gone,
}

/// The life of a link.
pub(super) async fn run(shared: Arc<Shared>, connection: Connection, dialed: Option<PeerKey>) {
    let _alive = shared.alive();
    let chain =
        connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let export =
        |value: &mut [u8; 32], label: &[u8]| connection.export_keying_material(value, label, &[]).is_ok();
    let role = if dialed.is_some() { tls::Role::Server } else { tls::Role::Client };
    let chain = chain.as_deref().map(Vec::as_slice);
    let Some(Authenticated { certificate, vouched, binding }) =
        Authenticated::new(&shared.directory.load(), role, chain, export)
    else {
        connection.close(CODE_PROTOCOL, b"no certificate");
        return;
    };
    let link = shared.next_link();
    let (sender, commands) = unbounded_channel();
    let remote = connection.remote_address();
    let transport = Transport::Quic;
    let opened = LinkEvent::Opened { link, dialed, transport, certificate, vouched, remote, binding, sender };
    if shared.events.send(opened).await.is_err() {
        connection.close(CODE_DONE, b"stopping");
        return;
    }
    let reason = Session::new(&shared, &connection, link).run(dialed.is_some(), commands).await;
    let _ = shared.events.send(LinkEvent::Closed { link, reason }).await;
}

struct Session<'a> {
    shared: &'a Arc<Shared>,
    connection: &'a Connection,
    link: LinkId,
    readers: JoinSet<ReadEnd>,
    writers: JoinSet<Result<(), WriteError>>,
    /// Lanes the peer has opened.
    lanes_seen: Arc<AtomicU32>,
    control: Option<UnboundedSender<Body>>,
    lanes: Vec<UnboundedSender<Body>>,
    blobs: HashMap<u64, UnboundedSender<Body>>,
}

impl<'a> Session<'a> {
    fn new(shared: &'a Arc<Shared>, connection: &'a Connection, link: LinkId) -> Self {
        Self {
            shared,
            connection,
            link,
            readers: JoinSet::new(),
            writers: JoinSet::new(),
            lanes_seen: Arc::default(),
            control: None,
            lanes: Vec::with_capacity(usize::from(LANES)),
            blobs: HashMap::new(),
        }
    }

    /// Answers why the link ended.
    async fn run(mut self, dialer: bool, commands: UnboundedReceiver<LinkCommand>) -> String {
        let end = match self.open(dialer).await {
            Ok(()) => self.serve(commands).await,
            Err(reason) => End::Lost(reason),
        };
        let reason = self.close(end).await;
        self.writers.shutdown().await;
        self.readers.shutdown().await;
        reason
    }

    /// Opens what we open, and waits for the control stream where the peer opens it.
    async fn open(&mut self, dialer: bool) -> Result<(), String> {
        let explain = |error| explain(&error, None);
        let (send, receive) = if dialer {
            self.connection.open_bi().await.map_err(explain)?
        } else {
            let accept = self.connection.accept_bi();
            match tokio::time::timeout(self.shared.config.handshake_timeout, accept).await {
                Ok(accepted) => accepted.map_err(explain)?,
                Err(_) => {
                    self.connection.close(CODE_PROTOCOL, b"no control stream");
                    return Err("the peer opened no control stream".to_owned());
                }
            }
        };
        let _ = send.set_priority(1);
        let (control, queue) = unbounded_channel();
        self.control = Some(control);
        self.writers.spawn(write_channel(send, None, queue));
        let reader = self.reader(receive);
        self.readers.spawn(reader.run(Some(Channel::Control)));
        for lane in 0..LANES {
            let stream = self.connection.open_uni().await.map_err(explain)?;
            let (lane_sender, queue) = unbounded_channel();
            self.lanes.push(lane_sender);
            self.writers.spawn(write_channel(stream, Some(Channel::Lane(Lane(lane))), queue));
        }
        Ok(())
    }

    fn reader(&self, stream: RecvStream) -> Reader {
        Reader {
            stream,
            link: self.link,
            shared: Arc::clone(self.shared),
            lanes_seen: Arc::clone(&self.lanes_seen),
        }
    }

    async fn serve(&mut self, mut commands: UnboundedReceiver<LinkCommand>) -> End {
        let connection = self.connection;
        let shared = Arc::clone(self.shared);
        let closed = connection.closed();
        let stopping = shared.stopping();
        tokio::pin!(closed, stopping);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = &mut stopping => return End::stopping(),
                error = &mut closed => return End::Lost(explain(&error, None)),
                Some(end) = self.readers.join_next() => match end {
                    Ok(ReadEnd::Data) => {}
                    Ok(ReadEnd::Control) => return End::Peer,
                    Ok(ReadEnd::Fault(reason)) => return End::fault(&reason),
                    // When it is the connection, `closed` says why.
                    Ok(ReadEnd::Gone) if connection.close_reason().is_some() => {}
                    Ok(ReadEnd::Gone) => return End::Local(None, "stopping".to_owned()),
                    Err(_) => return End::Local(None, "a reader failed: this is a defect".to_owned()),
                },
                Ok(stream) = connection.accept_uni() => {
                    let reader = self.reader(stream);
                    self.readers.spawn(reader.run(None));
                }
                count = commands.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return End::closed(None);
                    }
                    for command in batch.drain(..) {
                        match command {
                            LinkCommand::Send(channel, body) => self.send(channel, body),
                            LinkCommand::Close(goaway) => return End::closed(goaway),
                        }
                    }
                }
            }
        }
    }

    /// Hands a frame to its channel's writer. A writer that is gone took the connection with it.
    fn send(&mut self, channel: Channel, body: Body) {
        match (channel, &body) {
            (Channel::Control, _) => {
                if let Some(control) = &self.control {
                    let _ = control.send(body);
                }
            }
            (Channel::Lane(lane), _) => {
                if let Some(lane) = self.lanes.get(usize::from(lane.0)) {
                    let _ = lane.send(body);
                }
            }
            (Channel::Blob(id), Body::Blob(blob)) => {
                let last = blob.last;
                let writer = self.blobs.entry(id).or_insert_with(|| {
                    let (sender, queue) = unbounded_channel();
                    self.writers.spawn(write_blob(self.connection.clone(), id, queue));
                    sender
                });
                let _ = writer.send(body);
                if last {
                    self.blobs.remove(&id);
                }
            }
            (Channel::Blob(_), _) => debug_assert!(false, "the core sends only pieces on a blob's channel"),
        }
        // Blobs come and go: what has ended is forgotten.
        while self.writers.try_join_next().is_some() {}
    }

    /// Ends the link, and answers why.
    async fn close(&mut self, end: End) -> String {
        match end {
            End::Lost(reason) => reason,
            End::Peer => {
                let rest = async {
                    while let Some(end) = self.readers.join_next().await {
                        if matches!(end, Ok(ReadEnd::Gone)) {
                            break;
                        }
                    }
                };
                let _ = tokio::time::timeout(LINGER, rest).await;
                self.connection.close(CODE_DONE, b"done");
                "the peer closed the link".to_owned()
            }
            End::Local(goaway, reason) => {
                let fault = goaway.as_ref().filter(|goaway| goaway.reason() == Reason::ProtocolError);
                let (code, told) = match fault {
                    Some(goaway) => (CODE_PROTOCOL, goaway.detail.clone()),
                    None => (CODE_DONE, String::new()),
                };
                if let (Some(control), Some(goaway)) = (&self.control, goaway) {
                    let _ = control.send(Body::Goaway(goaway));
                }
                // Writers finish their streams when their queues end.
                self.control = None;
                self.lanes.clear();
                self.blobs.clear();
                let flushed = async {
                    while self.writers.join_next().await.is_some() {}
                    // The peer closes once it has read everything.
                    self.connection.closed().await;
                };
                let _ = tokio::time::timeout(CLOSE_GRACE, flushed).await;
                self.connection.close(code, told.as_bytes());
                reason
            }
        }
    }
}

async fn write_blob(
    connection: Connection,
    id: u64,
    queue: UnboundedReceiver<Body>,
) -> Result<(), WriteError> {
    // Waits while the peer reads as many as it wants to.
    let stream = connection.open_uni().await.map_err(WriteError::ConnectionLost)?;
    write_channel(stream, Some(Channel::Blob(id)), queue).await
}

/// Writes frames until the queue ends, finishes the stream, and waits until the peer has it all.
async fn write_channel(
    mut stream: SendStream,
    mut preamble: Option<Channel>,
    mut queue: UnboundedReceiver<Body>,
) -> Result<(), WriteError> {
    let mut buffer = BytesMut::new();
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        if let Some(channel) = preamble.take() {
            frame::put_varint(channel.number(), &mut buffer);
        }
        for body in batch.drain(..) {
            frame::encode(body, &mut buffer);
            if buffer.len() >= WRITE_BYTES {
                stream.write_chunk(buffer.split().freeze()).await?;
            }
        }
        if !buffer.is_empty() {
            stream.write_chunk(buffer.split().freeze()).await?;
        }
    }
    let _ = stream.finish();
    let _ = stream.stopped().await;
    Ok(())
}

/// Reads one stream.
struct Reader {
    stream: RecvStream,
    link: LinkId,
    shared: Arc<Shared>,
    lanes_seen: Arc<AtomicU32>,
}

impl Reader {
    /// A stream that is not control says first which channel it is.
    async fn run(mut self, mut channel: Option<Channel>) -> ReadEnd {
        let mut buffer = BytesMut::new();
        loop {
            match self.stream.read_chunk(READ_BYTES, true).await {
                Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
                Ok(None) if !buffer.is_empty() => {
                    return ReadEnd::Fault("a stream ended in the middle of a frame".to_owned());
                }
                Ok(None) if channel == Some(Channel::Control) => return ReadEnd::Control,
                Ok(None) => return ReadEnd::Data,
                Err(ReadError::Reset(_)) => return ReadEnd::Fault("a stream was reset".to_owned()),
                Err(_) => return ReadEnd::Gone,
            }
            let channel = match channel {
                Some(channel) => channel,
                None => {
                    let Some(number) = frame::get_varint(&mut buffer) else { continue };
                    let named = Channel::from_number(number);
                    if let Err(fault) = self.name(named) {
                        return ReadEnd::Fault(fault);
                    }
                    *channel.insert(named)
                }
            };
            loop {
                match frame::decode(channel, &mut buffer) {
                    Ok(Some(body)) => {
                        let event = LinkEvent::Frame { link: self.link, channel, body };
                        if self.shared.events.send(event).await.is_err() {
                            return ReadEnd::Gone;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return ReadEnd::Fault(error.to_string()),
                }
            }
        }
    }

    fn name(&self, channel: Channel) -> Result<(), String> {
        match channel {
            Channel::Control => Err("a second control stream".to_owned()),
            Channel::Lane(lane) => {
                let bit = 1_u32 << lane.0;
                let seen = self.lanes_seen.fetch_or(bit, Ordering::Relaxed);
                if seen & bit == 0 { Ok(()) } else { Err("a second stream for one lane".to_owned()) }
            }
            Channel::Blob(_) => Ok(()),
        }
    }
}
