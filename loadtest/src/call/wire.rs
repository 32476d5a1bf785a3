//! Room to receive much with few system calls.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;

use quinn_udp::{RecvMeta, UdpSocketState};

/// Trains that one system call receives. More costs 64 KiB of cache each.
pub(super) const BATCH: usize = 8;

/// Room for one train: the largest datagram there is.
pub(super) const BUFFER_BYTES: usize = 65_536;

/// Socket buffers in bytes, where the system allows as much: a picture to a hundred people comes at once.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Buffers of one system call.
pub(super) struct Buffers(Vec<u8>);

impl Buffers {
    pub(super) fn new() -> Self {
        Self(vec![0; BATCH * BUFFER_BYTES])
    }

    /// Receives what there is, up to [`BATCH`] trains.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        state: &UdpSocketState,
        metas: &mut [RecvMeta; BATCH],
    ) -> io::Result<usize> {
        let mut rest = self.0.chunks_mut(BUFFER_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or_default()));
        state.recv(socket.into(), &mut slices, metas)
    }

    /// The same room for a stream: one half for what is read, one for what was in it.
    pub(super) fn halves(&mut self) -> (&mut [u8], &mut [u8]) {
        self.0.split_at_mut(BATCH / 2 * BUFFER_BYTES)
    }

    /// The buffers, in order, to be opened in place.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.0.chunks_mut(BUFFER_BYTES)
    }
}

/// Makes a socket's buffers as large as the system allows. Smaller ones lose packets when others have the core.
pub(super) fn enlarge(socket: &UdpSocket, state: &UdpSocketState) {
    let _ = state.set_recv_buffer_size(socket.into(), SOCKET_BUFFER_BYTES);
    let _ = state.set_send_buffer_size(socket.into(), SOCKET_BUFFER_BYTES);
}
