//! Clients for tests: blocking sockets, TLS over them, frames.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use trunkline_http::serve::tls::{Tls, TlsFiles};
use trunkline_relay_proto::stun;
use trunkline_relay_proto::ufrag::{Key, Route};

/// Nothing in a test takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What clients speak through.
pub(crate) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A plain client.
pub(crate) fn tcp(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A TLS client that trusts one certificate.
pub(crate) fn tls(
    to: SocketAddr,
    trusted: &CertificateDer<'static>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("relay.test").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), tcp(to))
}

/// Writes a certificate for `relay.test` and its key to a directory.
pub(crate) fn certificate(dir: &Path) -> (TlsFiles, CertificateDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let signed =
        rcgen::CertificateParams::new(vec!["relay.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let files = TlsFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem") };
    std::fs::write(&files.certificate, signed.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    (files, signed.der().clone())
}

/// A server's side of TLS.
pub(crate) fn server(dir: &Path) -> (Arc<Tls>, CertificateDer<'static>) {
    let (files, der) = certificate(dir);
    (Tls::load_for(files, super::PROTOCOLS).unwrap(), der)
}

/// Sends a datagram as a frame.
pub(crate) fn send(stream: &mut dyn Stream, datagram: &[u8]) {
    stream.write_all(&frame(datagram)).unwrap();
}

/// A datagram as a frame.
pub(crate) fn frame(datagram: &[u8]) -> Vec<u8> {
    [&u16::try_from(datagram.len()).unwrap().to_be_bytes()[..], datagram].concat()
}

/// The next frame.
pub(crate) fn next(stream: &mut dyn Stream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut datagram = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut datagram).unwrap();
    datagram
}

/// A connectivity check for a route.
pub(crate) fn check(key: &Key, route: &Route) -> Vec<u8> {
    let mut out = [0; 256];
    let name = format!("{}:them", key.write(route));
    let len = stun::write_request(&mut out, &name, "password", 1, 2, false, [7; 12]).unwrap();
    out[..len].to_vec()
}
