//! Connections. Bytes are read eagerly, up to what a long fat network holds, and written when they are due.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until};

use super::pipe::{Counters, Pipe};
use super::profile::{Cut, Direction, Profile, Protocol, Settings};
use crate::rng::Rng;

/// Bytes of one connection on their way in one direction. Less than rate times delay makes the network slower than
/// its profile says; more lets a sender run further ahead of a slow receiver. 50 MB/s at 150 ms need 7.5 MB.
const FLIGHT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of one read.
const READ_BYTES: usize = 256 * 1024;

/// Reads before other tasks have their turn.
const READS_MAX: usize = 4;

/// How long to wait when no connection can be accepted, for example for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// The connection service.
pub(super) struct Tcp {
    listener: TcpListener,
    shared: Rc<Shared>,
}

struct Shared {
    settings: watch::Receiver<Settings>,
    to_target: RefCell<Pipe>,
    from_target: RefCell<Pipe>,
    scratch: RefCell<Vec<u8>>,
}

/// One direction of one connection.
struct Carrier<'a> {
    shared: &'a Shared,
    settings: watch::Receiver<Settings>,
    direction: Direction,
    from: &'a OwnedReadHalf,
    flight: VecDeque<Chunk>,
    flight_bytes: usize,
    /// When the last bytes that were read arrive: none may overtake them.
    last_due: Instant,
    ended: bool,
}

/// Bytes that arrive together; no bytes are the end.
struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
    written: usize,
}

impl Tcp {
    pub(super) fn new(
        listener: std::net::TcpListener,
        settings: watch::Receiver<Settings>,
        counters: [Arc<Counters>; 2],
        rng: &mut Rng,
    ) -> io::Result<Self> {
        let [to_target, from_target] = counters.map(|counters| RefCell::new(Pipe::new(rng.fork(), counters)));
        let scratch = RefCell::new(vec![0; READ_BYTES]);
        let shared = Rc::new(Shared { settings, to_target, from_target, scratch });
        Ok(Self { listener: TcpListener::from_std(listener)?, shared })
    }

    pub(super) fn start(self) {
        spawn_local(async move {
            loop {
                match self.listener.accept().await {
                    Ok((client, _)) => {
                        spawn_local(connection(Rc::clone(&self.shared), client));
                    }
                    Err(_) => sleep(ACCEPT_AGAIN).await,
                }
            }
        });
    }
}

/// Carries one connection until both sides ended it, or one of them, or the test, broke it.
async fn connection(shared: Rc<Shared>, client: TcpStream) {
    let mut settings = shared.settings.clone();
    let resets = settings.borrow_and_update().resets;
    let server = tokio::select! {
        server = connect(&shared) => server,
        () = broken(settings.clone(), resets) => Err(io::ErrorKind::ConnectionReset.into()),
    };
    let Ok(server) = server else {
        // Without lingering, closing resets. A failure leaves an ordinary end, which is as bad for the client.
        let _ = client.set_zero_linger();
        return;
    };
    // A shaper that waits for more bytes would add delays that no profile asked for.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (client_reads, mut client_writes) = client.into_split();
    let (server_reads, mut server_writes) = server.into_split();
    let ended = tokio::select! {
        ended = async { tokio::try_join!(
            Carrier::new(&shared, Direction::ToTarget, &client_reads).run(&mut server_writes),
            Carrier::new(&shared, Direction::FromTarget, &server_reads).run(&mut client_writes),
        ) } => ended.is_ok(),
        () = broken(settings, resets) => false,
    };
    if !ended {
        for half in [client_writes, server_writes] {
            let _ = half.as_ref().set_zero_linger();
            // Dropping it would say goodbye first.
            half.forget();
        }
    }
}

/// Opens the connection to the target, as late as the handshake would have taken. The client's system believes
/// itself connected meanwhile; what it sends waits.
async fn connect(shared: &Shared) -> io::Result<TcpStream> {
    let mut settings = shared.settings.clone();
    // An error means that the shaper stops.
    let _ = settings.wait_for(|settings| settings.tcp_cut() != Cut::Silent).await;
    let (target, round_trip) = {
        let settings = settings.borrow();
        (settings.target, round_trip(&settings))
    };
    if !round_trip.is_zero() {
        sleep(round_trip).await;
    }
    TcpStream::connect(target).await
}

/// Waits until the test resets connections.
async fn broken(mut settings: watch::Receiver<Settings>, resets: u64) {
    // An error means that the shaper stops, which ends all connections as well.
    let _ = settings.wait_for(|settings| settings.resets != resets || settings.tcp_cut() == Cut::Reset).await;
}

fn round_trip(settings: &Settings) -> Duration {
    [Direction::ToTarget, Direction::FromTarget]
        .map(|direction| settings.profile(Protocol::Tcp, direction).delay)
        .iter()
        .sum()
}

impl<'a> Carrier<'a> {
    fn new(shared: &'a Shared, direction: Direction, from: &'a OwnedReadHalf) -> Self {
        Self {
            shared,
            settings: shared.settings.clone(),
            direction,
            from,
            flight: VecDeque::new(),
            flight_bytes: 0,
            last_due: Instant::now(),
            ended: false,
        }
    }

    /// Carries bytes until the end has been passed on.
    async fn run(mut self, to: &mut OwnedWriteHalf) -> io::Result<()> {
        loop {
            let (profile, round_trip) = {
                let settings = self.settings.borrow_and_update();
                (settings.profile(Protocol::Tcp, self.direction), round_trip(&settings))
            };
            let open = profile.cut == Cut::Open;
            let blocked = open && self.write(to)?;
            let now = Instant::now();
            let due = self.flight.front().map(|chunk| (chunk.due, chunk.bytes.is_empty()));
            if open && due.is_some_and(|(due, is_end)| is_end && due <= now) {
                return to.shutdown().await;
            }
            let room_at = self.pipe().borrow().room_at(profile.rate, now);
            let wants = open && !self.ended && self.flight_bytes < FLIGHT_BYTES_MAX;
            let may_read = wants && room_at <= now;
            let wakes = [
                due.map(|(due, _)| due).filter(|_| open && !blocked),
                Some(room_at).filter(|_| wants && !may_read),
            ];
            let wakes = wakes.into_iter().flatten().min();
            tokio::select! {
                ready = self.from.readable(), if may_read => {
                    ready?;
                    self.read(&profile, round_trip)?;
                }
                ready = to.writable(), if blocked => ready?,
                () = sleep_until(wakes.unwrap_or(now)), if wakes.is_some() => {}
                // An error means that the shaper stops.
                changed = self.settings.changed() => changed.map_err(io::Error::other)?,
            }
        }
    }

    /// Writes what is due; whether the receiver takes no more for now.
    fn write(&mut self, to: &OwnedWriteHalf) -> io::Result<bool> {
        let now = Instant::now();
        while let Some(chunk) = self.flight.front_mut()
            && chunk.due <= now
            && let Some(rest) = chunk.bytes.get(chunk.written..)
            && !rest.is_empty()
        {
            match to.try_write(rest) {
                Ok(len) => {
                    chunk.written += len;
                    self.flight_bytes -= len;
                    let done = chunk.written == chunk.bytes.len();
                    self.pipe().borrow().counters().carried(usize::from(done), len);
                    if done {
                        self.flight.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Reads what there is, up to a limit.
    fn read(&mut self, profile: &Profile, round_trip: Duration) -> io::Result<()> {
        let shared = self.shared;
        let mut scratch = shared.scratch.borrow_mut();
        let now = Instant::now();
        for _ in 0..READS_MAX {
            let len = match self.from.try_read(&mut scratch) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let due = self.pipe().borrow_mut().segments(profile, now, len, round_trip);
            self.last_due = due.max(self.last_due);
            self.flight_bytes += len;
            self.ended = len == 0;
            self.push(scratch.get(..len).unwrap_or_default());
            if len < scratch.len() {
                break;
            }
        }
        Ok(())
    }

    /// Puts bytes that arrive at `last_due` behind all others.
    fn push(&mut self, bytes: &[u8]) {
        if let Some(last) = self.flight.back_mut()
            && last.due == self.last_due
            && !bytes.is_empty()
            && last.bytes.len() + bytes.len() <= READ_BYTES
        {
            last.bytes.extend_from_slice(bytes);
        } else {
            self.flight.push_back(Chunk { due: self.last_due, bytes: bytes.to_vec(), written: 0 });
        }
    }

    fn pipe(&self) -> &'a RefCell<Pipe> {
        match self.direction {
            Direction::ToTarget => &self.shared.to_target,
            Direction::FromTarget => &self.shared.from_target,
        }
    }
}
