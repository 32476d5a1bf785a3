//! The system calls of the limits: `recvmmsg` with receive offload, `sendmmsg` with segmentation offload.
//!
//! Everything here takes slices and gives back numbers; pointers live for one call.
#![allow(unsafe_code, reason = "recvmmsg, sendmmsg and UDP_SEGMENT have no safe wrapper")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of structures, and datagrams of a checked plan")]

use std::fmt;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Messages of one receiving call.
pub(crate) const RECEIVE_MESSAGES: usize = 16;

/// Bytes of a received message: the most that offload puts together.
const RECEIVE_BYTES: usize = 65_536;

/// Messages of one sending call.
const SEND_MESSAGES: usize = 128;

/// Most datagrams of one train (`UDP_MAX_SEGMENTS` of older kernels).
const SEGMENTS_MAX: usize = 64;

/// Room for one control message with a segment size or a source address, aligned as `cmsghdr` wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 32]);

/// Datagrams of one size to one destination, back to back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Train {
    pub(crate) to: SocketAddrV4,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// Lets a socket receive trains whole.
pub(crate) fn take_trains(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = size_of::<libc::c_int>() as u32;
    // SAFETY: the pointer is to a live c_int whose size is given.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, (&raw const on).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What was received last.
pub(crate) struct Inbox {
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
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>, size: usize) -> io::Result<usize> {
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
    pub(crate) fn datagrams(&self, size: usize) -> impl Iterator<Item = &[u8]> {
        let messages = self.bytes.chunks_exact(RECEIVE_BYTES).zip(self.lens);
        messages.flat_map(move |(bytes, len)| bytes[..len].chunks_exact(size))
    }

    /// The messages received last: a datagram or a train each.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &[u8]> {
        let messages = self.bytes.chunks_exact(RECEIVE_BYTES).zip(self.lens);
        messages.filter(|(_, len)| *len > 0).map(|(bytes, len)| &bytes[..len])
    }
}

/// Reused structures for sending.
pub(crate) struct Outbox {
    addresses: Vec<libc::sockaddr_in>,
    vectors: Vec<libc::iovec>,
    controls: Vec<Control>,
    headers: Vec<libc::mmsghdr>,
    /// The datagrams of trains that are sent on.
    pieces: Vec<libc::iovec>,
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
                pieces: Vec::new(),
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
    pub(crate) fn send(
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
            self.flush(fd, trains.len())?;
        }
        Ok(())
    }

    /// Sends trains of datagrams of `size` bytes, each without its first `skip`, from where they lie.
    pub(crate) fn forward(
        &mut self,
        fd: BorrowedFd<'_>,
        trains: &[(SocketAddrV4, &[u8])],
        size: usize,
        skip: usize,
    ) -> io::Result<()> {
        // SAFETY: all-zero is a valid value of this plain C structure.
        self.pieces.resize(SEND_MESSAGES * SEGMENTS_MAX, unsafe { zeroed() });
        for trains in trains.chunks(SEND_MESSAGES) {
            for (at, (to, bytes)) in trains.iter().enumerate() {
                self.write(at, *to, bytes, size);
                self.set_segment(at, bytes.len() > size, size - skip);
                let pieces = &mut self.pieces[at * SEGMENTS_MAX..][..SEGMENTS_MAX];
                let mut count = 0;
                for (piece, datagram) in pieces.iter_mut().zip(bytes.chunks_exact(size)) {
                    let rest = &datagram[skip..];
                    *piece = libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
                    count += 1;
                }
                let header = &mut self.headers[at].msg_hdr;
                header.msg_iov = pieces.as_mut_ptr();
                header.msg_iovlen = count as _;
            }
            self.flush(fd, trains.len())?;
        }
        Ok(())
    }

    /// Sends datagrams, each from its own address.
    pub(crate) fn spray(
        &mut self,
        fd: BorrowedFd<'_>,
        to: SocketAddrV4,
        datagrams: &[(Ipv4Addr, &[u8])],
    ) -> io::Result<()> {
        for datagrams in datagrams.chunks(SEND_MESSAGES) {
            for (at, (source, bytes)) in datagrams.iter().enumerate() {
                self.write(at, to, bytes, bytes.len());
                // SAFETY: all-zero is a valid value of this plain C structure.
                let mut info: libc::in_pktinfo = unsafe { zeroed() };
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(source.octets());
                self.control(at, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            self.flush(fd, datagrams.len())?;
        }
        Ok(())
    }

    /// Sends the first `count` of what was written.
    fn flush(&mut self, fd: BorrowedFd<'_>, count: usize) -> io::Result<()> {
        let mut sent = 0;
        while sent < count {
            let headers = &mut self.headers[sent..count];
            // SAFETY: each header points to an address, bytes (only read) and a control message, written just now,
            // and the call is over before any of them moves.
            let result =
                unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32, 0) };
            match usize::try_from(result) {
                Ok(more) => sent += more,
                Err(_) => return Err(io::Error::last_os_error()),
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
        self.set_segment(at, bytes.len() > size, size);
    }

    /// Says how long the datagrams of a train are.
    fn set_segment(&mut self, at: usize, train: bool, size: usize) {
        if train {
            self.control(at, libc::SOL_UDP, libc::UDP_SEGMENT, size as u16);
        } else {
            let header = &mut self.headers[at].msg_hdr;
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
        }
    }

    /// Gives a message its control message.
    fn control<T>(&mut self, at: usize, level: i32, kind: i32, value: T) {
        const { assert!(size_of::<T>() <= 12, "it does not fit behind its header") };
        let header = &mut self.headers[at].msg_hdr;
        header.msg_control = self.controls[at].0.as_mut_ptr().cast();
        // SAFETY: the control buffer is aligned, and has room for a header and 16 bytes.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(size_of::<T>() as u32) as _;
            let control = libc::CMSG_FIRSTHDR(header);
            (*control).cmsg_level = level;
            (*control).cmsg_type = kind;
            (*control).cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as _;
            std::ptr::write_unaligned(libc::CMSG_DATA(control).cast(), value);
        }
    }
}
