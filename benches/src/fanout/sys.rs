//! The system calls of the limit: `recvmmsg` with receive offload, `sendmmsg` with segmentation offload.
//!
//! Everything here takes slices and gives back numbers; pointers live for one call.
#![allow(unsafe_code, reason = "recvmmsg, sendmmsg and UDP_SEGMENT have no safe wrapper")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of structures, and datagrams of a checked plan")]

use std::fmt;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Messages of one receiving call.
const RECEIVE_MESSAGES: usize = 16;

/// Bytes of a received message: the most that offload puts together.
const RECEIVE_BYTES: usize = 65_536;

/// Messages of one sending call.
const SEND_MESSAGES: usize = 128;

/// Room for one control message with a segment size, aligned as `cmsghdr` wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 32]);

/// Datagrams of one size to one destination, back to back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Train {
    pub(super) to: SocketAddrV4,
    pub(super) start: usize,
    pub(super) len: usize,
}

/// Lets a socket receive trains whole.
pub(super) fn take_trains(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = size_of::<libc::c_int>() as u32;
    // SAFETY: the pointer is to a live c_int whose size is given.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, (&raw const on).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What was received last.
pub(super) struct Inbox {
    bytes: Vec<u8>,
    lens: [usize; RECEIVE_MESSAGES],
}

impl Default for Inbox {
    fn default() -> Self {
        Self { bytes: vec![0; RECEIVE_MESSAGES * RECEIVE_BYTES], lens: [0; RECEIVE_MESSAGES] }
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbox")
    }
}

impl Inbox {
    /// Receives what is there. How many datagrams of `size` that is; zero when nothing waits.
    pub(super) fn receive(&mut self, fd: BorrowedFd<'_>, size: usize) -> io::Result<usize> {
        // SAFETY: all-zero is a valid value of these plain C structures.
        let (mut vectors, mut headers): ([libc::iovec; RECEIVE_MESSAGES], [libc::mmsghdr; RECEIVE_MESSAGES]) =
            unsafe { (zeroed(), zeroed()) };
        for (at, buffer) in self.bytes.chunks_exact_mut(RECEIVE_BYTES).enumerate() {
            vectors[at] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            headers[at].msg_hdr.msg_iov = &raw mut vectors[at];
            headers[at].msg_hdr.msg_iovlen = 1;
        }
        self.lens = [0; RECEIVE_MESSAGES];
        // SAFETY: each header points to one vector, and that to a buffer; both outlive the call.
        let came = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                RECEIVE_MESSAGES as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(came) = usize::try_from(came) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
        };
        for (len, header) in self.lens.iter_mut().zip(&headers).take(came) {
            *len = header.msg_len as usize;
        }
        Ok(self.lens.iter().map(|len| len.div_ceil(size)).sum())
    }

    /// The datagrams received last. All have one size here, so the kernel need not say which.
    pub(super) fn datagrams(&self, size: usize) -> impl Iterator<Item = &[u8]> {
        let messages = self.bytes.chunks_exact(RECEIVE_BYTES).zip(self.lens);
        messages.flat_map(move |(bytes, len)| bytes[..len].chunks_exact(size))
    }
}

/// Reused structures for sending.
pub(super) struct Outbox {
    addresses: Vec<libc::sockaddr_in>,
    vectors: Vec<libc::iovec>,
    controls: Vec<Control>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: pointers in it are written before every use and never read in between.
unsafe impl Send for Outbox {}

impl Default for Outbox {
    fn default() -> Self {
        // SAFETY: all-zero is a valid value of these plain C structures.
        unsafe {
            Self {
                addresses: vec![zeroed(); SEND_MESSAGES],
                vectors: vec![zeroed(); SEND_MESSAGES],
                controls: vec![Control([0; 32]); SEND_MESSAGES],
                headers: vec![zeroed(); SEND_MESSAGES],
            }
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}

impl Outbox {
    /// Sends all trains of datagrams of `size` out of the arena.
    pub(super) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        arena: &[u8],
        trains: &[Train],
        size: usize,
    ) -> io::Result<()> {
        for trains in trains.chunks(SEND_MESSAGES) {
            for (at, train) in trains.iter().enumerate() {
                self.write(at, train.to, &arena[train.start..train.start + train.len], size);
            }
            let mut sent = 0;
            while sent < trains.len() {
                let headers = &mut self.headers[sent..trains.len()];
                // SAFETY: each header points to an address, bytes (only read) and a control message, written just now,
                // and the call is over before any of them moves.
                let result =
                    unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32, 0) };
                match usize::try_from(result) {
                    Ok(more) => sent += more,
                    Err(_) => return Err(io::Error::last_os_error()),
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, at: usize, to: SocketAddrV4, bytes: &[u8], size: usize) {
        let address = &mut self.addresses[at];
        address.sin_family = libc::AF_INET as u16;
        address.sin_port = to.port().to_be();
        address.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
        self.vectors[at] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let header = &mut self.headers[at].msg_hdr;
        header.msg_name = (&raw mut self.addresses[at]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
        header.msg_iov = &raw mut self.vectors[at];
        header.msg_iovlen = 1;
        header.msg_control = std::ptr::null_mut();
        header.msg_controllen = 0;
        if bytes.len() > size {
            header.msg_control = self.controls[at].0.as_mut_ptr().cast();
            // SAFETY: the control buffer is aligned, and has room for a header and two bytes.
            unsafe {
                header.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
                let control = libc::CMSG_FIRSTHDR(header);
                (*control).cmsg_level = libc::SOL_UDP;
                (*control).cmsg_type = libc::UDP_SEGMENT;
                (*control).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
                std::ptr::write_unaligned(libc::CMSG_DATA(control).cast(), size as u16);
            }
        }
    }
}
