//! What a participant's handshake holds in memory. Alone in its process, because it counts what everything allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Instant;

use dimpl::DtlsCertificate;
use rcgen::{CertificateParams, KeyPair};
use trunkline_relay_proto::dtls::{Handshake, MTU, Settings};

/// Before the first datagram: what somebody costs who joined and never came.
const NEW_BYTES_MAX: isize = 6 * 1024;

/// At the most, half-way through.
const BUSY_BYTES_MAX: isize = 20 * 1024;

/// For the rest of the call, so that the last flight can be repeated and either side can say that it is over. What
/// aws-lc holds comes on top: measured by resident memory it is 2 KiB.
const CONNECTED_BYTES_MAX: isize = 14 * 1024;

static HELD: AtomicIsize = AtomicIsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

#[allow(unsafe_code, reason = "an allocator is unsafe by its nature; this one only counts and hands on")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn held() -> isize {
    HELD.load(Ordering::Relaxed)
}

fn settings(version_13: bool) -> Settings {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let certificate =
        CertificateParams::new(Vec::new()).expect("parameters").self_signed(&key).expect("signed");
    let certificate =
        DtlsCertificate { certificate: certificate.der().to_vec(), private_key: key.serialize_der() };
    Settings::new(certificate, version_13).expect("usable")
}

#[test]
fn a_handshake_holds_little_and_a_finished_one_less() {
    for version_13 in [false, true] {
        let (ours, theirs) = (settings(version_13), settings(version_13));
        let now = Instant::now();
        let mut out = [0; MTU];
        let mut client = Handshake::new_client(now, &theirs, ours.fingerprint());

        let before = held();
        let mut server = Handshake::new(now, &ours, theirs.fingerprint());
        let mut server_bytes = held() - before;
        assert!(server_bytes <= NEW_BYTES_MAX, "{server_bytes} bytes when new");

        while !server.is_connected() {
            while let Some(len) = client.poll_transmit(&mut out) {
                let before = held();
                server.handle_datagram(now, &out[..len]).expect("taken");
                server_bytes += held() - before;
                assert!(server_bytes <= BUSY_BYTES_MAX, "{server_bytes} bytes half-way");
            }
            loop {
                let before = held();
                let Some(len) = server.poll_transmit(&mut out) else { break };
                server_bytes += held() - before;
                client.handle_datagram(now, &out[..len]).expect("taken");
            }
        }
        drop(server.poll_keys());
        let before = held();
        drop(server);
        let connected = before - held();
        assert!(connected <= CONNECTED_BYTES_MAX, "{connected} bytes when connected");
    }
}
