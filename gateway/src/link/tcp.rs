//! A link over TCP: HTTP/2 over TLS, one `POST /trunkline/1` whose two bodies carry the frames of all channels.
//!
//! Everything shares one stream, so order is fairness: control first, then every channel in turn, and never
//! more than a little handed down at once.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use rustls::{AlertDescription, ConnectionCommon};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use trunkline_common::redact;
use trunkline_gateway_proto::directory::Directory;
use trunkline_gateway_proto::frame::{self, Channel};
use trunkline_gateway_proto::store::PeerKey;
use trunkline_gateway_proto::wire::frame::Body;

use super::admit::Permit;
use super::end::{CERTIFICATE_REFUSED, CLOSE_GRACE, End};
use super::listen::{LinkConfig, Shared};
use super::outgoing::Outgoing;
use super::tls::{self, Authenticated, Refusal};
use super::{LinkCommand, LinkEvent, LinkId, Transport};

/// Where the frames go.
const PATH: &str = "/trunkline/1";

/// Encoded frames in one write. Control waits behind what was handed down before, so smaller is quicker for it,
/// and larger is cheaper.
const WRITE_BYTES: usize = 64 * 1024;

/// What HTTP/2 may hold before it goes to the socket.
const SEND_BUFFER_BYTES: usize = 128 * 1024;

/// What the kernel may hold beyond what is on its way. Smaller is quicker for control, larger needs fewer wakes.
const UNSENT_BYTES: u32 = 128 * 1024;

/// Largest DATA frame we take. Larger saves headers.
const DATA_FRAME_BYTES: u32 = 128 * 1024;

/// Header bytes we take: there are five short ones.
const HEADER_BYTES_MAX: u32 = 8 * 1024;

/// Commands taken at once.
const BATCH: usize = 64;

/// A connection on which both sides know each other.
pub(super) struct Established {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Moves HTTP/2 along; ends when the connection does.
    driver: JoinHandle<String>,
    pings: Option<PingPong>,
    authenticated: Authenticated,
    remote: SocketAddr,
}

impl Drop for Established {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A connection that a peer made to us.
pub(super) async fn accept(
    shared: Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
    server: Arc<rustls::ServerConfig>,
    permit: Permit,
) {
    let handshake = Box::pin(handshake(&shared.config, &shared.directory, stream, remote, server));
    let established = match tokio::time::timeout(shared.config.handshake_timeout, handshake).await {
        Ok(Ok(established)) => established,
        Ok(Err(reason)) => {
            tracing::debug!(remote = %redact::ip(&remote), reason, "TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(remote = %redact::ip(&remote), "TLS handshake timed out");
            return;
        }
    };
    drop(permit);
    run(shared, established, None).await;
}

async fn handshake(
    config: &LinkConfig,
    directory: &ArcSwap<Directory>,
    stream: TcpStream,
    remote: SocketAddr,
    server: Arc<rustls::ServerConfig>,
) -> Result<Established, String> {
    prepare(&stream);
    let stream = TlsAcceptor::from(server).accept(stream).await.map_err(|error| error.to_string())?;
    let authenticated = authenticate(stream.get_ref().1, directory, tls::Role::Client)?;
    let (stream_window, connection_window) = windows(config);
    let mut connection = h2::server::Builder::new()
        .initial_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_frame_size(DATA_FRAME_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(1)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|error| error.to_string())?;
    let pings = connection.ping_pong();
    let (request, mut respond) = match connection.accept().await {
        Some(Ok(accepted)) => accepted,
        Some(Err(error)) => return Err(error.to_string()),
        None => return Err("the peer sent no request".to_owned()),
    };
    if request.method() != Method::POST || request.uri().path() != PATH {
        return Err(format!("the peer asked for something else than POST {PATH}"));
    }
    let send = respond.send_response(Response::new(()), false).map_err(|error| error.to_string())?;
    let driver = tokio::spawn(async move {
        loop {
            match connection.accept().await {
                // The one stream is taken, and `max_concurrent_streams` said so.
                Some(Ok((_, mut respond))) => respond.send_reset(h2::Reason::REFUSED_STREAM),
                Some(Err(error)) => break explain_h2(&error),
                None => break "the peer closed the connection".to_owned(),
            }
        }
    });
    Ok(Established { send, receive: request.into_body(), driver, pings, authenticated, remote })
}

/// Connects to a peer; both certificates were checked when this succeeds.
pub(super) async fn connect(
    shared: &Shared,
    peer: PeerKey,
    name: &str,
    address: SocketAddr,
) -> Result<Established, String> {
    let refusal = Arc::new(OnceLock::new());
    let config = tls::client_config(
        Arc::clone(&shared.identity),
        Arc::clone(&shared.directory),
        peer,
        Arc::clone(&refusal),
    );
    let connect = Box::pin(establish(&shared.config, &shared.directory, config, name, address, &refusal));
    match tokio::time::timeout(shared.config.handshake_timeout, connect).await {
        Ok(result) => result,
        Err(_) => Err("no answer: the peer is down, or a firewall is in between".to_owned()),
    }
}

/// As [`connect`], with any certificate of ours.
pub(super) async fn establish(
    config: &LinkConfig,
    directory: &ArcSwap<Directory>,
    client: rustls::ClientConfig,
    name: &str,
    address: SocketAddr,
    refusal: &OnceLock<Refusal>,
) -> Result<Established, String> {
    let server_name = rustls_pki_types::ServerName::try_from(name.to_owned())
        .map_err(|_| format!("{name} is not a DNS name"))?;
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    prepare(&stream);
    let stream = TlsConnector::from(Arc::new(client))
        .connect(server_name, stream)
        .await
        .map_err(|error| refusal.get().map_or_else(|| explain_io(&error), Refusal::to_string))?;
    let authenticated = authenticate(stream.get_ref().1, directory, tls::Role::Server)?;
    let (stream_window, connection_window) = windows(config);
    let (requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_frame_size(DATA_FRAME_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(0)
        .enable_push(false)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|error| explain_h2(&error))?;
    let pings = connection.ping_pong();
    let driver = tokio::spawn(async move {
        match connection.await {
            Ok(()) => "the peer closed the connection".to_owned(),
            Err(error) => explain_h2(&error),
        }
    });
    let mut dial = Dial { driver: Some(driver) };
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() =
        format!("https://{name}{PATH}").parse().map_err(|_| format!("{name} is not a DNS name"))?;
    let mut requests = requests.ready().await.map_err(|error| explain_h2(&error))?;
    let (response, send) = requests.send_request(request, false).map_err(|error| explain_h2(&error))?;
    let response = match response.await {
        Ok(response) => response,
        // The connection's own end says more than the stream's, for example which alert came.
        Err(error) => return Err(dial.why().await.unwrap_or_else(|| explain_h2(&error))),
    };
    if response.status() != StatusCode::OK {
        return Err(format!("the peer answered {}: is a gateway listening there?", response.status()));
    }
    let Some(driver) = dial.driver.take() else { return Err("closed here".to_owned()) };
    Ok(Established { send, receive: response.into_body(), driver, pings, authenticated, remote: address })
}

/// Small frames go at once, and what is not on its way yet stays here, where control can still overtake it.
fn prepare(stream: &TcpStream) {
    // Without these the link works too, with more delay.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES);
}

/// Stops the driver when a dial is given up.
struct Dial {
    driver: Option<JoinHandle<String>>,
}

impl Dial {
    async fn why(&mut self) -> Option<String> {
        let driver = self.driver.as_mut()?;
        tokio::time::timeout(Duration::from_millis(100), driver).await.ok()?.ok()
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

/// Who is at the other end, in this role, of a connection that speaks what we do.
fn authenticate<Data>(
    connection: &ConnectionCommon<Data>,
    directory: &ArcSwap<Directory>,
    role: tls::Role,
) -> Result<Authenticated, String> {
    if connection.alpn_protocol() != Some(tls::ALPN) {
        return Err("the peer does not speak trunkline/1".to_owned());
    }
    let export = |value: &mut [u8; 32], label: &[u8]| {
        connection.export_keying_material(value, label, Some(&[])).is_ok()
    };
    let authenticated = Authenticated::new(&directory.load(), role, connection.peer_certificates(), export);
    authenticated.ok_or_else(|| "no certificate".to_owned())
}

/// Window of the stream and of the connection.
fn windows(config: &LinkConfig) -> (u32, u32) {
    (config.window_bytes, config.window_bytes.saturating_add(1 << 20))
}

fn explain_h2(error: &h2::Error) -> String {
    error.get_io().map_or_else(|| format!("the connection failed: {error}"), explain_io)
}

fn explain_io(error: &io::Error) -> String {
    // HTTP/2 keeps an error's text only, so that is what there is to compare.
    let text = error.to_string();
    let is = |alert: AlertDescription| text == rustls::Error::AlertReceived(alert).to_string();
    let refused = [
        AlertDescription::AccessDenied,
        AlertDescription::BadCertificate,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateUnknown,
        AlertDescription::UnknownCA,
        AlertDescription::UnsupportedCertificate,
    ];
    if refused.into_iter().any(is) {
        CERTIFICATE_REFUSED.to_owned()
    } else if is(AlertDescription::NoApplicationProtocol) {
        "the peer does not speak trunkline/1".to_owned()
    } else {
        text
    }
}

/// How reading ends.
enum ReadEnd {
    Peer,
    Fault(String),
    Lost(String),
    /// Nobody wants the frames.
    Gone,
}

/// The life of a link.
pub(super) async fn run(shared: Arc<Shared>, mut established: Established, dialed: Option<PeerKey>) {
    let _alive = shared.alive();
    let link = shared.next_link();
    let (sender, commands) = unbounded_channel();
    let opened = LinkEvent::Opened {
        link,
        dialed,
        transport: Transport::Tcp,
        certificate: established.authenticated.certificate.clone(),
        vouched: established.authenticated.vouched.clone(),
        remote: established.remote,
        binding: established.authenticated.binding.clone(),
        sender,
    };
    if shared.events.send(opened).await.is_err() {
        return;
    }
    let reason = Box::pin(serve(&shared, &mut established, link, commands)).await;
    let _ = shared.events.send(LinkEvent::Closed { link, reason }).await;
}

/// Answers why the link ended.
async fn serve(
    shared: &Arc<Shared>,
    established: &mut Established,
    link: LinkId,
    commands: UnboundedReceiver<LinkCommand>,
) -> String {
    let Established { send, receive, driver, pings, .. } = established;
    let reader = read(shared, link, receive).fuse();
    tokio::pin!(reader);
    let mut writer = Writer { send, outgoing: Outgoing::default(), pending: Bytes::new() };
    let end = {
        let silence = keep_alive(&shared.config, pings.take());
        tokio::pin!(silence);
        tokio::select! {
            end = writer.serve(commands) => end,
            end = &mut reader => match end {
                ReadEnd::Peer => End::Peer,
                ReadEnd::Fault(reason) => End::fault(&reason),
                ReadEnd::Lost(reason) => End::Lost(reason),
                ReadEnd::Gone => End::Local(None, "stopping".to_owned()),
            },
            ended = &mut *driver => match tokio::time::timeout(CLOSE_GRACE / 2, &mut reader).await {
                // What came before the end still counts.
                Ok(ReadEnd::Peer) => End::Peer,
                _ => End::Lost(ended.unwrap_or_else(|_| "closed here".to_owned())),
            },
            () = &mut silence => End::Lost("nothing was heard from the peer any more".to_owned()),
            () = shared.stopping() => End::stopping(),
        }
    };
    match end {
        End::Lost(reason) => reason,
        End::Peer => {
            writer.finish();
            if !driver.is_finished() {
                let _ = tokio::time::timeout(CLOSE_GRACE / 2, driver).await;
            }
            "the peer closed the link".to_owned()
        }
        End::Local(goaway, reason) => {
            if let Some(goaway) = goaway {
                writer.outgoing.push(Channel::Control, Body::Goaway(goaway));
            }
            let goodbye = async {
                writer.flush().await;
                writer.finish();
                // The peer ends its side once it has read everything.
                tokio::select! {
                    _ = reader => {}
                    _ = driver => {}
                }
            };
            let _ = tokio::time::timeout(CLOSE_GRACE, goodbye).await;
            reason
        }
    }
}

struct Writer<'a> {
    send: &'a mut SendStream<Bytes>,
    outgoing: Outgoing,
    /// Encoded, and waiting for room in the window.
    pending: Bytes,
}

impl Writer<'_> {
    async fn serve(&mut self, mut commands: UnboundedReceiver<LinkCommand>) -> End {
        let mut batch = Vec::new();
        loop {
            self.fill();
            tokio::select! {
                count = commands.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return End::closed(None);
                    }
                    for command in batch.drain(..) {
                        match command {
                            LinkCommand::Send(channel, body) => self.outgoing.push(channel, body),
                            LinkCommand::Close(goaway) => return End::closed(goaway),
                        }
                    }
                }
                room = room(self.send), if !self.pending.is_empty() => {
                    // Without room for ever, the reader and the driver know why.
                    let Some(room) = room else { return std::future::pending().await };
                    if self.write(room).is_err() {
                        return std::future::pending().await;
                    }
                }
            }
        }
    }

    fn fill(&mut self) {
        if self.pending.is_empty() && !self.outgoing.is_empty() {
            self.pending = self.outgoing.take(WRITE_BYTES);
            self.send.reserve_capacity(self.pending.len());
        }
    }

    fn write(&mut self, room: usize) -> Result<(), h2::Error> {
        let piece = self.pending.split_to(room.min(self.pending.len()));
        self.send.send_data(piece, false)
    }

    /// Sends what waits.
    async fn flush(&mut self) {
        loop {
            self.fill();
            if self.pending.is_empty() {
                return;
            }
            match room(self.send).await {
                Some(room) if self.write(room).is_ok() => {}
                _ => return,
            }
        }
    }

    fn finish(&mut self) {
        let _ = self.send.send_data(Bytes::new(), true);
    }
}

/// How much may be sent now; waits until it is something. `None` when the stream is gone.
async fn room(send: &mut SendStream<Bytes>) -> Option<usize> {
    poll_fn(|context| {
        loop {
            let room = send.capacity();
            if room > 0 {
                return Poll::Ready(Some(room));
            }
            match send.poll_capacity(context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

async fn read(shared: &Shared, link: LinkId, receive: &mut RecvStream) -> ReadEnd {
    let mut buffer = BytesMut::new();
    let mut channel = None;
    while let Some(data) = receive.data().await {
        let data = match data {
            Ok(data) => data,
            Err(error) if error.is_reset() => return ReadEnd::Fault("the stream was reset".to_owned()),
            Err(error) => return ReadEnd::Lost(explain_h2(&error)),
        };
        let length = data.len();
        buffer.extend_from_slice(&data);
        drop(data);
        loop {
            if channel.is_none() {
                channel = frame::get_varint(&mut buffer).map(Channel::from_number);
            }
            let Some(of) = channel else { break };
            match frame::decode(of, &mut buffer) {
                Ok(Some(body)) => {
                    channel = None;
                    if shared.events.send(LinkEvent::Frame { link, channel: of, body }).await.is_err() {
                        return ReadEnd::Gone;
                    }
                }
                Ok(None) => break,
                Err(error) => return ReadEnd::Fault(error.to_string()),
            }
        }
        // Only now: a hub that falls behind slows its peer down.
        let _ = receive.flow_control().release_capacity(length);
    }
    if channel.is_some() || buffer.has_remaining() {
        return ReadEnd::Fault("the stream ended in the middle of a frame".to_owned());
    }
    ReadEnd::Peer
}

/// Asks for a sign of life now and then; completes when none came.
async fn keep_alive(config: &LinkConfig, pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(config.keep_alive).await;
        let patience = config.idle_timeout.saturating_sub(config.keep_alive);
        match tokio::time::timeout(patience, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is gone, and the driver knows why.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
