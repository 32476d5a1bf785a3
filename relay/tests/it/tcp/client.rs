//! A light peer on a real socket: UDP, TCP, or TLS over it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{Domain, Socket, Type};
use trunkline_relay_peer::{Frame, Peer, PeerEvent, Received};
use trunkline_relay_proto::event::SourceName;
use trunkline_relay_proto::framing::{self, Deframer};

/// Bytes of a receiver's socket buffer: little, so that one who does not read is noticed soon.
const RECEIVE_BUFFER: usize = 16 * 1024;

pub(super) enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<ClientConnection>, TcpStream),
}

pub(super) struct Client {
    pub(super) peer: Peer,
    pub(super) link: Link,
    /// Whether it takes what comes.
    pub(super) reading: bool,
    /// Whether each byte is written by itself.
    pub(super) chops: bool,
    /// Payloads of the packets that came.
    pub(super) media: Vec<Vec<u8>>,
    pub(super) events: Vec<PeerEvent>,
    deframer: Deframer,
    out: Vec<u8>,
    timestamp: u32,
}

impl Client {
    pub(super) fn new(peer: Peer, link: Link) -> Self {
        let (deframer, out, media, events) = (Deframer::default(), Vec::new(), Vec::new(), Vec::new());
        Self { peer, link, reading: true, chops: false, media, events, deframer, out, timestamp: 0 }
    }

    /// Sends one packet of its camera, a frame of its own.
    pub(super) fn film(&mut self, payload: &[u8]) {
        self.timestamp = self.timestamp.wrapping_add(3000);
        let mut out = [0; 1500];
        let frame = Frame::new(self.timestamp, true, payload);
        let len = self.peer.send_media(Instant::now(), &mut out, SourceName::Camera, &frame);
        assert!(len > 0, "connected");
        self.send(&out[..len]);
        self.write();
    }

    /// Puts bytes on the connection, between frames.
    pub(super) fn inject(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
    }

    /// Does what is due, reads what came.
    pub(super) fn turn(&mut self) {
        let now = Instant::now();
        if self.peer.poll_timeout().is_some_and(|at| at <= now) {
            self.peer.handle_timeout(now);
        }
        if self.reading {
            self.read(now);
        }
        let mut out = [0; 1500];
        while let Some(len) = self.peer.poll_transmit(now, &mut out) {
            self.send(&out[..len]);
        }
        self.write();
        while let Some(event) = self.peer.poll_event() {
            self.events.push(event);
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match &self.link {
            Link::Udp(socket) => socket.as_fd(),
            Link::Tcp(stream) | Link::Tls(_, stream) => stream.as_fd(),
        }
    }

    fn send(&mut self, datagram: &[u8]) {
        if let Link::Udp(socket) = &self.link {
            socket.send_to(datagram, self.peer.remote_address().unwrap()).unwrap();
        } else {
            self.out.extend(framing::length(datagram).unwrap());
            self.out.extend(datagram);
        }
    }

    fn write(&mut self) {
        while !self.out.is_empty() {
            let piece = if self.chops { &self.out[..1] } else { &self.out[..] };
            let written = match &mut self.link {
                Link::Udp(_) => return,
                Link::Tcp(stream) => stream.write(piece),
                Link::Tls(tls, _) => tls.writer().write(piece),
            };
            match written {
                Ok(0) => break,
                Ok(len) => drop(self.out.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        if let Link::Tls(tls, stream) = &mut self.link {
            while tls.wants_write() && tls.write_tls(stream).is_ok() {}
        }
    }

    fn read(&mut self, now: Instant) {
        let mut buffer = vec![0; 65_536];
        let Self { link, deframer, peer, media, .. } = self;
        let mut take = |datagram: &mut [u8]| {
            if let Some(Received::Media(packet)) = peer.handle_datagram(now, datagram) {
                media.push(datagram[packet.payload].to_vec());
            }
        };
        loop {
            let len = match link {
                Link::Udp(socket) => {
                    let Ok(len) = socket.recv(&mut buffer) else { return };
                    take(&mut buffer[..len]);
                    continue;
                }
                Link::Tcp(stream) => stream.read(&mut buffer),
                Link::Tls(tls, stream) => {
                    let came = tls.read_tls(stream);
                    tls.process_new_packets().expect("a certificate that is trusted");
                    match tls.reader().read(&mut buffer) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock && came.is_ok_and(|n| n > 0) => {
                            continue;
                        }
                        read => read,
                    }
                }
            };
            match len {
                Ok(0) => panic!("the relay closed the connection"),
                Ok(len) => deframer.feed(&mut buffer[..len], &mut take),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

pub(super) fn udp() -> Link {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    Link::Udp(socket)
}

fn connect(to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    socket.connect_timeout(&to.into(), Duration::from_secs(10)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

pub(super) fn tcp(to: SocketAddr) -> Link {
    Link::Tcp(connect(to))
}

/// A TLS client that trusts one certificate.
pub(super) fn tls(to: SocketAddr, trusted: &CertificateDer<'static>) -> Link {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("relay.test").unwrap();
    Link::Tls(Box::new(ClientConnection::new(Arc::new(config), name).unwrap()), connect(to))
}
