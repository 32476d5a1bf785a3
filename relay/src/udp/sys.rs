//! The system calls that no safe crate offers: `recvmmsg` and `sendmmsg` with control messages, and `getifaddrs`.
//!
//! Everything here takes slices and gives back slices or numbers; pointers live for one call.
#![expect(unsafe_code, reason = "recvmmsg, sendmmsg and their control messages have no safe wrapper")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of structures, address families and datagrams, all of which C keeps in less"
)]

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use trunkline_relay_proto::path::Path;

use super::Position;

/// Messages of one receiving call. With offload each holds many datagrams.
pub(super) const RECEIVE_MESSAGES: usize = 16;

/// Bytes of one received message: the most that offload puts together.
pub(super) const RECEIVE_BYTES: usize = 65_536;

/// Messages of one sending call. Each takes about 300 bytes of the stack.
pub(super) const SEND_MESSAGES: usize = 64;

/// Room for control messages: an IPv6 packet info and a segment size.
const CONTROL_BYTES: usize = 128;

/// Control messages, aligned as `cmsghdr` wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// What a receiving call found out about one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) path: Path,
    pub(super) len: usize,
    /// Bytes of each datagram in it but the last.
    pub(super) segment: usize,
}

/// One message to send: datagrams of one size, the last of which may be shorter, in pieces that lie behind one another
/// in the list that the call is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) to: SocketAddr,
    /// Which of our addresses it leaves from. The unspecified one leaves that to the system.
    pub(super) local: IpAddr,
    /// Pieces it consists of.
    pub(super) parts: usize,
    /// Bytes of all pieces.
    pub(super) bytes: usize,
    /// Bytes of each datagram but the last; as many as there are bytes for a single one.
    pub(super) segment: usize,
    /// Datagrams in it.
    pub(super) datagrams: usize,
    /// How far sending is when it has left.
    pub(super) end: Position,
}

/// Turns on what a media socket needs: the address a datagram came to, and receive offload where there is one.
pub(super) fn prepare(fd: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
    } else {
        set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    }
    // Kernels before 5.0 have none: each datagram comes alone then.
    let _ = set(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    Ok(())
}

/// Makes paths to IPv6 destinations look as narrow as tunnels are, where trains of larger datagrams are refused.
#[cfg(test)]
pub(super) fn limit_ipv6_mtu(fd: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU, bytes)
}

fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer is to a live c_int whose size is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Addresses of this machine's interfaces that are up, loopback excepted.
pub(crate) fn machine_addresses() -> io::Result<Vec<IpAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the pointer is to a live place for the list's head.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = (libc::IFF_UP | libc::IFF_RUNNING).cast_unsigned();
    let mut addresses = Vec::new();
    let mut next = list;
    // SAFETY: the list and all it points to live until it is freed below; every address begins with its family, and
    // is as long as that family's is.
    unsafe {
        while let Some(entry) = next.as_ref() {
            next = entry.ifa_next;
            let is_up = entry.ifa_flags & wanted == wanted;
            let is_loopback = entry.ifa_flags & libc::IFF_LOOPBACK.cast_unsigned() != 0;
            let Some(family) = entry.ifa_addr.as_ref().map(|address| i32::from(address.sa_family)) else {
                continue;
            };
            if !is_up || is_loopback {
                continue;
            }
            match family {
                libc::AF_INET => {
                    let v4: libc::sockaddr_in = std::ptr::read_unaligned(entry.ifa_addr.cast());
                    addresses.push(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into());
                }
                libc::AF_INET6 => {
                    let v6: libc::sockaddr_in6 = std::ptr::read_unaligned(entry.ifa_addr.cast());
                    addresses.push(Ipv6Addr::from(v6.sin6_addr.s6_addr).into());
                }
                _ => {}
            }
        }
        libc::freeifaddrs(list);
    }
    Ok(addresses)
}

/// Receives what is there, message by message into `buffers` of [`RECEIVE_BYTES`] each. How many came.
pub(super) fn receive(
    fd: BorrowedFd<'_>,
    buffers: &mut [u8],
    received: &mut [Option<Received>; RECEIVE_MESSAGES],
) -> io::Result<usize> {
    // SAFETY: all-zero is a valid value of these plain C structures.
    let (mut addresses, mut vectors, mut messages): (
        [libc::sockaddr_storage; RECEIVE_MESSAGES],
        [libc::iovec; RECEIVE_MESSAGES],
        [libc::mmsghdr; RECEIVE_MESSAGES],
    ) = unsafe { (zeroed(), zeroed(), zeroed()) };
    let mut controls = [Control([0; CONTROL_BYTES]); RECEIVE_MESSAGES];
    let mut count = 0;
    for (at, buffer) in buffers.chunks_exact_mut(RECEIVE_BYTES).take(RECEIVE_MESSAGES).enumerate() {
        vectors[at] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let header = &mut messages[at].msg_hdr;
        header.msg_name = (&raw mut addresses[at]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
        header.msg_iov = &raw mut vectors[at];
        header.msg_iovlen = 1;
        header.msg_control = controls[at].0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES as _;
        count += 1;
    }
    // SAFETY: each header points to an address, a buffer and a control buffer that outlive the call, with their sizes.
    let came = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT as _,
            std::ptr::null_mut(),
        )
    };
    let Ok(came) = usize::try_from(came) else { return Err(io::Error::last_os_error()) };
    for at in 0..came.min(RECEIVE_MESSAGES) {
        let len = messages[at].msg_len as usize;
        let (mut local, mut segment) = (None, len);
        // SAFETY: the kernel wrote well-formed control messages into the buffer the header points to, which lives.
        unsafe {
            let header = &raw const messages[at].msg_hdr;
            let mut control = libc::CMSG_FIRSTHDR(header);
            while let Some(message) = control.as_ref() {
                let data = libc::CMSG_DATA(control);
                match (message.cmsg_level, message.cmsg_type) {
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info: libc::in6_pktinfo = std::ptr::read_unaligned(data.cast());
                        local = Some(IpAddr::from(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info: libc::in_pktinfo = std::ptr::read_unaligned(data.cast());
                        local = Some(IpAddr::from(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())));
                    }
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        let size: libc::c_int = std::ptr::read_unaligned(data.cast());
                        segment = usize::try_from(size).unwrap_or(len);
                    }
                    _ => {}
                }
                control = libc::CMSG_NXTHDR(header, control);
            }
        }
        received[at] = address(&addresses[at]).zip(local).map(|(remote, local)| Received {
            path: Path::new(remote, local),
            len: len.min(RECEIVE_BYTES),
            segment: segment.clamp(1, len.max(1)),
        });
    }
    Ok(came.min(RECEIVE_MESSAGES))
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a sockaddr_in, which is smaller than the storage.
            let v4: libc::sockaddr_in = unsafe { std::ptr::read((&raw const *storage).cast()) };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a sockaddr_in6, which is smaller than the storage.
            let v6: libc::sockaddr_in6 = unsafe { std::ptr::read((&raw const *storage).cast()) };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Sends up to [`SEND_MESSAGES`] messages, whose pieces are `parts`, in order. How many left before the first that could
/// not; an error is that of the very first.
pub(super) fn send(
    fd: BorrowedFd<'_>,
    is_ipv6: bool,
    messages: &[Message],
    mut parts: &[IoSlice<'_>],
) -> io::Result<usize> {
    // SAFETY: all-zero is a valid value of these plain C structures.
    let (mut addresses, mut headers): ([libc::sockaddr_in6; SEND_MESSAGES], [libc::mmsghdr; SEND_MESSAGES]) =
        unsafe { (zeroed(), zeroed()) };
    let mut controls = [Control([0; CONTROL_BYTES]); SEND_MESSAGES];
    let mut count = 0;
    for (at, message) in messages.iter().enumerate().take(SEND_MESSAGES) {
        let Some((own, rest)) = parts.split_at_checked(message.parts) else { break };
        parts = rest;
        let name_len = write_address(&mut addresses[at], message.to, is_ipv6);
        let header = &mut headers[at].msg_hdr;
        header.msg_name = (&raw mut addresses[at]).cast();
        header.msg_namelen = name_len;
        // `IoSlice` is an iovec by another name, which the standard library guarantees.
        header.msg_iov = own.as_ptr().cast_mut().cast();
        header.msg_iovlen = own.len() as _;
        header.msg_control = controls[at].0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES as _;
        let used = write_control(header, message, is_ipv6);
        header.msg_controllen = used as _;
        count += 1;
    }
    // SAFETY: each header points to an address, pieces (only read) and control messages that outlive the call.
    let sent =
        unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Writes a destination as the socket's family has it; an IPv6 socket reaches IPv4 as `::ffff:a.b.c.d`.
fn write_address(out: &mut libc::sockaddr_in6, remote: SocketAddr, is_ipv6: bool) -> u32 {
    if is_ipv6 {
        out.sin6_family = libc::AF_INET6 as _;
        out.sin6_port = remote.port().to_be();
        out.sin6_addr.s6_addr = mapped(remote.ip()).octets();
        if let SocketAddr::V6(v6) = remote {
            out.sin6_scope_id = v6.scope_id();
        }
        size_of::<libc::sockaddr_in6>() as u32
    } else {
        let IpAddr::V4(ip) = remote.ip() else { return 0 };
        // SAFETY: a sockaddr_in is smaller than a sockaddr_in6, and both are plain C structures.
        let v4 = unsafe { &mut *(&raw mut *out).cast::<libc::sockaddr_in>() };
        v4.sin_family = libc::AF_INET as _;
        v4.sin_port = remote.port().to_be();
        v4.sin_addr.s_addr = u32::from_ne_bytes(ip.octets());
        size_of::<libc::sockaddr_in>() as u32
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Writes the source address, and the segment size of a train. Bytes used.
fn write_control(header: &libc::msghdr, message: &Message, is_ipv6: bool) -> usize {
    let mut used = 0;
    // SAFETY: the header's control buffer has room for both messages (`CONTROL_BYTES`), and CMSG_NXTHDR stays within.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        // An address that is named, be it the unspecified one, would take the place of the one that the socket is
        // bound to.
        if !message.local.is_unspecified() {
            if is_ipv6 {
                let mut info: libc::in6_pktinfo = zeroed();
                info.ipi6_addr.s6_addr = mapped(message.local).octets();
                used += put(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            } else if let IpAddr::V4(ip) = message.local {
                let mut info: libc::in_pktinfo = zeroed();
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(ip.octets());
                used += put(control, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
        }
        if message.datagrams > 1 {
            if used > 0 {
                control = libc::CMSG_NXTHDR(header, control);
            }
            if !control.is_null() {
                used += put(control, libc::SOL_UDP, libc::UDP_SEGMENT, message.segment as u16);
            }
        }
    }
    used
}

/// Writes one control message. Bytes it takes.
///
/// # Safety
/// `control` points to room for a header and a `T`.
unsafe fn put<T>(control: *mut libc::cmsghdr, level: i32, kind: i32, value: T) -> usize {
    // SAFETY: as promised by the caller; lengths are those of `T`.
    unsafe {
        (*control).cmsg_level = level;
        (*control).cmsg_type = kind;
        (*control).cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as _;
        std::ptr::write_unaligned(libc::CMSG_DATA(control).cast(), value);
        libc::CMSG_SPACE(size_of::<T>() as u32) as usize
    }
}
