//! How a client's datagrams reach the relay: a UDP socket, or frames on a TCP or TLS connection.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::event::epoll::EventFlags;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use trunkline_relay_peer::framed::Framed;

use super::wire::{BATCH, Buffers, enlarge};

/// Reads of one turn: the others on the thread have theirs, too.
const READS_MAX: usize = 4;

/// A client's way to the relay.
pub(crate) enum Connection {
    /// Datagrams.
    Datagrams(Datagrams),
    /// Frames of RFC 4571, within TLS if need be.
    Stream(Box<Stream>),
}

/// A UDP socket and whom it sends to.
pub(crate) struct Datagrams {
    socket: UdpSocket,
    state: UdpSocketState,
    relay: SocketAddr,
}

/// A TCP connection.
pub(crate) struct Stream {
    socket: TcpStream,
    tls: Option<ClientConnection>,
    framed: Framed,
}

impl Connection {
    /// A socket for datagrams to and from `relay`.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn datagrams(relay: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let state = UdpSocketState::new((&socket).into())?;
        enlarge(&socket, &state);
        Ok(Self::Datagrams(Datagrams { socket, state, relay }))
    }

    /// A connection to `relay`; with `tls`, the handshake goes on as it is sent and received on.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(crate) async fn stream(relay: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let socket = tokio::net::TcpStream::connect(relay).await?.into_std()?;
        socket.set_nodelay(true)?;
        let tls = tls.map(|config| {
            ClientConnection::new(Arc::clone(config), ServerName::from(relay.ip())).map_err(io::Error::other)
        });
        Ok(Self::Stream(Box::new(Stream { socket, tls: tls.transpose()?, framed: Framed::default() })))
    }

    /// What to wait for on it.
    pub(crate) fn interest(&self) -> EventFlags {
        match self {
            Self::Stream(stream) if stream.wants_write() => EventFlags::IN | EventFlags::OUT,
            _ => EventFlags::IN,
        }
    }

    /// Sends one datagram; [`Connection::flush`] is to follow.
    pub(crate) fn send(&mut self, datagram: &[u8]) {
        match self {
            // A socket that takes nothing is a network that loses it.
            Self::Datagrams(udp) => drop(udp.socket.send_to(datagram, udp.relay)),
            Self::Stream(stream) => stream.framed.push(datagram),
        }
    }

    /// Sends a run of datagrams of `segment` bytes, the last of which may be shorter.
    pub(crate) fn send_run(&mut self, run: &[u8], segment: usize) {
        if run.is_empty() || segment == 0 {
            return;
        }
        match self {
            Self::Datagrams(udp) => udp.send_run(run, segment),
            Self::Stream(stream) => {
                run.chunks(segment).for_each(|datagram| stream.framed.push(datagram));
                // Whether it broke is found out by whoever reads.
                let _ = stream.flush();
            }
        }
    }

    /// Writes what waits, as far as it is taken.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Datagrams(_) => Ok(()),
            Self::Stream(stream) => stream.flush(),
        }
    }

    /// Hands on each datagram that came.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) fn receive(
        &mut self,
        buffers: &mut Buffers,
        mut handle: impl FnMut(&mut [u8]),
    ) -> io::Result<()> {
        match self {
            Self::Datagrams(udp) => {
                udp.receive(buffers, &mut handle);
                Ok(())
            }
            Self::Stream(stream) => stream.receive(buffers, &mut handle),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Datagrams(udp) => udp.socket.as_fd(),
            Self::Stream(stream) => stream.socket.as_fd(),
        }
    }
}

impl Datagrams {
    fn send_run(&self, run: &[u8], segment: usize) {
        for part in run.chunks(segment * self.state.max_gso_segments().max(1)) {
            let transmit = Transmit {
                destination: self.relay,
                ecn: None,
                contents: part,
                segment_size: (part.len() > segment).then_some(segment),
                src_ip: None,
            };
            // What the socket does not take is lost, as on any network.
            let _ = self.state.try_send((&self.socket).into(), &transmit);
        }
    }

    fn receive(&self, buffers: &mut Buffers, handle: &mut impl FnMut(&mut [u8])) {
        let mut metas = [RecvMeta::default(); BATCH];
        let Ok(received) = buffers.receive(&self.socket, &self.state, &mut metas) else { return };
        for (meta, train) in metas.iter().zip(buffers.all_mut()).take(received) {
            let Some(train) = train.get_mut(..meta.len) else { continue };
            train.chunks_mut(meta.stride.max(1)).for_each(&mut *handle);
        }
    }
}

impl Stream {
    fn wants_write(&self) -> bool {
        match &self.tls {
            // What it does not take before the handshake is over goes on when something was read.
            Some(tls) => tls.wants_write(),
            None => !self.framed.waiting().is_empty(),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        loop {
            let done = match &mut self.tls {
                None if self.framed.waiting().is_empty() => return Ok(()),
                None => self.socket.write(self.framed.waiting()).map(|bytes| self.framed.wrote(bytes)),
                Some(tls) if tls.wants_write() => tls.write_tls(&mut self.socket).map(drop),
                Some(tls) => match tls.writer().write(self.framed.waiting()) {
                    Ok(0) => return Ok(()),
                    taken => taken.map(|bytes| self.framed.wrote(bytes)),
                },
            };
            match done {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                done => done?,
            }
        }
    }

    fn receive(&mut self, buffers: &mut Buffers, handle: &mut impl FnMut(&mut [u8])) -> io::Result<()> {
        let (wire, clear) = buffers.halves();
        for _ in 0..READS_MAX {
            let came = match self.socket.read(wire) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(came) => came,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let bytes = wire.get_mut(..came).unwrap_or_default();
            match &mut self.tls {
                None => self.framed.feed(bytes, &mut *handle),
                Some(tls) => {
                    let mut records = &*bytes;
                    while !records.is_empty() {
                        tls.read_tls(&mut records)?;
                        tls.process_new_packets().map_err(io::Error::other)?;
                        while let Ok(len @ 1..) = tls.reader().read(clear) {
                            self.framed.feed(clear.get_mut(..len).unwrap_or_default(), &mut *handle);
                        }
                    }
                }
            }
            if came < wire.len() {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

    use super::*;

    /// Reads so many frames, and writes each back.
    fn echo(mut stream: impl Read + Write, frames: usize) {
        for _ in 0..frames {
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a length");
            let mut frame = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut frame).expect("a frame");
            stream.write_all(&[&length[..], &frame].concat()).expect("an echo");
        }
    }

    /// Waits until so many datagrams came back.
    fn collect(connection: &mut Connection, count: usize) -> Vec<Vec<u8>> {
        let (mut buffers, mut came) = (Buffers::new(), Vec::new());
        while came.len() < count {
            connection.flush().expect("still there");
            let wanted = if connection.interest().contains(EventFlags::OUT) {
                PollFlags::IN | PollFlags::OUT
            } else {
                PollFlags::IN
            };
            poll(&mut [PollFd::new(&*connection, wanted)], None).expect("a wait");
            connection.receive(&mut buffers, |datagram| came.push(datagram.to_vec())).expect("still there");
        }
        came
    }

    fn tls() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a certificate and its key");
        (Arc::new(client), Arc::new(server))
    }

    #[tokio::test]
    async fn datagrams_cross_tcp_and_tls_in_order_and_whole() {
        let datagrams: Vec<Vec<u8>> = (1..=200_u8).map(|at| vec![at; 5 * usize::from(at)]).collect();
        let (client, server) = tls();
        for tls in [None, Some((&client, &server))] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
            let to = listener.local_addr().expect("an address");
            let (config, frames) = (tls.map(|(_, server)| Arc::clone(server)), datagrams.len());
            let other = thread::spawn(move || {
                let (stream, _) = listener.accept().expect("a connection");
                match config {
                    None => echo(stream, frames),
                    Some(config) => {
                        let server = ServerConnection::new(config).expect("a server");
                        echo(StreamOwned::new(server, stream), frames);
                    }
                }
            });
            let mut connection =
                Connection::stream(to, tls.map(|(client, _)| client)).await.expect("a connection");
            // One by one before the handshake, then in a run.
            let (single, run) = datagrams.split_at(10);
            single.iter().for_each(|datagram| connection.send(datagram));
            run.iter().for_each(|datagram| connection.send_run(datagram, datagram.len()));
            assert_eq!(collect(&mut connection, frames), datagrams);
            other.join().expect("it ends");
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let to = listener.local_addr().expect("an address");
        let mut connection = Connection::stream(to, None).await.expect("a connection");
        drop(listener.accept().expect("a connection"));
        poll(&mut [PollFd::new(&connection, PollFlags::IN)], None).expect("a wait");
        assert!(connection.receive(&mut Buffers::new(), |_| {}).is_err());
    }
}
