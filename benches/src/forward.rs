//! The limit of the ingress's job on this machine: receive trains out of a tunnel, find the client of each in the header
//! in front of its datagrams, and send them on as a train without those headers and without a copy.
//!
//! As [`crate::fanout`], it shares no code with the relay. What it leaves out (flows, where their nodes are, timers,
//! counting) is what the ingress's own work costs beyond that limit.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::Socket;

use crate::fanout::sys::{self, Inbox, Outbox, RECEIVE_MESSAGES, Train};
use crate::fanout::{Drain, Plan, Sample, WARM_UP_ROUNDS, address, bind, thread_cpu};

/// Bytes in front of every datagram of the tunnel.
const TUNNEL_BYTES: usize = 24;

/// The forwarder with its sockets. Of a [`Plan`], every receiver is a client.
#[derive(Debug)]
pub struct Forward {
    plan: Plan,
    tunnel: Socket,
    outside: Socket,
    node: Node,
    drain: Drain,
    inbox: Inbox,
    outbox: Outbox,
}

/// Who sends into the tunnel: a train for every client.
#[derive(Debug)]
struct Node {
    socket: Socket,
    arena: Vec<u8>,
    trains: Vec<Train>,
    outbox: Outbox,
}

impl Forward {
    /// Binds all sockets on 127.0.0.1.
    ///
    /// # Errors
    /// When the plan is out of range, or sockets cannot be had.
    pub fn new(plan: Plan) -> io::Result<Self> {
        plan.check()?;
        let (tunnel, outside) = (bind()?, bind()?);
        sys::take_trains(tunnel.as_fd())?;
        let clients = (0..plan.receivers).map(|_| bind()).collect::<io::Result<Vec<_>>>()?;
        let mut addresses = Vec::new();
        for client in &clients {
            if plan.receivers_take_trains {
                sys::take_trains(client.as_fd())?;
            }
            addresses.push(address(client)?);
        }
        let mut taken = Inbox::default();
        let take = move |socket: &Socket| taken.receive(socket.as_fd(), plan.packet_bytes).unwrap_or(0);
        Ok(Self {
            plan,
            node: Node::new(plan, address(&tunnel)?, &addresses)?,
            tunnel,
            outside,
            drain: Drain::start(clients, plan, take)?,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
        })
    }

    /// One run of the plan.
    ///
    /// # Errors
    /// When a socket is broken.
    pub fn run(&mut self) -> io::Result<Sample> {
        for _ in 0..WARM_UP_ROUNDS {
            self.round()?;
        }
        let arrived_before = self.drain.arrived();
        let mut cpu = Duration::ZERO;
        for _ in 0..self.plan.rounds {
            cpu += self.round()?;
        }
        let sent = (self.plan.burst * self.plan.receivers * self.plan.rounds) as u64;
        let arrived = self.drain.arrived() - arrived_before;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let ns_per_packet = cpu.as_nanos() as f64 / sent as f64;
        Ok(Sample { ns_per_packet, sent, arrived })
    }

    /// One train to every client. The CPU time it took to forward them.
    fn round(&mut self) -> io::Result<Duration> {
        let arrived = self.drain.arrived();
        let mut cpu = Duration::ZERO;
        let batches = self.node.trains.len().div_ceil(RECEIVE_MESSAGES);
        for batch in 0..batches {
            // As many as one call receives: more would not fit into the socket's buffer everywhere.
            let mut waiting = self.node.feed(batch, self.plan)?;
            let began = thread_cpu();
            while waiting > 0 {
                let came = self.forward()?;
                waiting = waiting.saturating_sub(came);
            }
            cpu += thread_cpu().saturating_sub(began);
        }
        self.drain.wait_for(arrived + (self.plan.burst * self.plan.receivers) as u64);
        Ok(cpu)
    }

    /// Sends on what one call receives: how many datagrams.
    fn forward(&mut self) -> io::Result<usize> {
        let size = self.plan.packet_bytes + TUNNEL_BYTES;
        let came = self.inbox.receive(self.tunnel.as_fd(), size)?;
        let mut trains = [(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), &[][..]); RECEIVE_MESSAGES];
        let mut count = 0;
        for (place, message) in trains.iter_mut().zip(self.inbox.messages()) {
            *place = (client(message), message);
            count += 1;
        }
        self.outbox.forward(self.outside.as_fd(), &trains[..count], size, TUNNEL_BYTES)?;
        Ok(came)
    }
}

impl Node {
    fn new(plan: Plan, tunnel: SocketAddrV4, clients: &[SocketAddrV4]) -> io::Result<Self> {
        let size = plan.packet_bytes + TUNNEL_BYTES;
        let (mut arena, mut trains) = (Vec::new(), Vec::new());
        for client in clients {
            let start = arena.len();
            for _ in 0..plan.burst {
                let at = arena.len();
                arena.extend_from_slice(&[0x10, 0]);
                arena.extend_from_slice(&client.port().to_be_bytes());
                arena.extend_from_slice(&client.ip().to_ipv6_mapped().octets());
                arena.resize(at + size, 0x5a);
            }
            trains.push(Train { to: tunnel, start, len: arena.len() - start });
        }
        Ok(Self { socket: bind()?, arena, trains, outbox: Outbox::default() })
    }

    /// Sends one batch of trains: how many datagrams.
    fn feed(&mut self, batch: usize, plan: Plan) -> io::Result<usize> {
        let trains = self.trains.chunks(RECEIVE_MESSAGES).nth(batch).unwrap_or_default();
        let size = plan.packet_bytes + TUNNEL_BYTES;
        self.outbox.send(self.socket.as_fd(), &self.arena, trains, size)?;
        Ok(trains.len() * plan.burst)
    }
}

/// The client that a header names.
fn client(message: &[u8]) -> SocketAddrV4 {
    let port = u16::from_be_bytes([message[2], message[3]]);
    SocketAddrV4::new(Ipv4Addr::new(message[16], message[17], message[18], message[19]), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_arrives_at_every_client() {
        let small = Plan { rounds: 3, ..Plan::video(8, 40) };
        let plans = [
            small,
            Plan { receivers_take_trains: true, receivers_sleep: true, ..small },
            Plan { packet_bytes: 160, burst: 1, ..small },
        ];
        for plan in plans {
            let sample = Forward::new(plan).expect("sockets on loopback").run().expect("a run");
            let expected = (plan.burst * plan.receivers * plan.rounds) as u64;
            assert_eq!((sample.sent, sample.arrived), (expected, expected), "{plan:?}");
            assert!(sample.ns_per_packet > 0.0);
        }
    }
}
