//! A proxy before the server that cuts a connection at the worst moment: around a COMMIT.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What a client sends to commit, as a simple query.
const COMMIT: &[u8] = b"COMMIT\0";

/// When a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Before the server hears of the commit.
    Before,
    /// After the server carried it out, and before the client hears of that.
    After,
}

/// The proxy. It serves until the process ends.
#[derive(Clone, Debug)]
pub struct Proxy {
    address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    /// Commits to let through first, and what happens then.
    cut: Option<(u32, Cut)>,
    /// Nobody gets through.
    closed: bool,
    connections: Vec<TcpStream>,
    cuts: u32,
}

impl Proxy {
    /// Starts before the server at a port of loopback.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let proxy = Self { address: listener.local_addr()?, plan: Arc::default() };
        let its = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Refused as a server that is not there refuses.
                if !its.plan().closed {
                    its.clone().carry(client, server).ok();
                }
            }
        });
        Ok(proxy)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts the connection at the commit after `skip` more.
    pub fn cut_at(&self, skip: u32, cut: Cut) {
        self.plan().cut = Some((skip, cut));
    }

    /// How often it cut.
    #[must_use]
    pub fn cuts(&self) -> u32 {
        self.plan().cuts
    }

    /// Cuts all connections, and lets nobody through until [`Self::open`].
    pub fn close(&self) {
        let plan = &mut *self.plan();
        plan.closed = true;
        for connection in plan.connections.drain(..) {
            connection.shutdown(Shutdown::Both).ok();
        }
    }

    /// Lets clients through again.
    pub fn open(&self) {
        self.plan().closed = false;
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this commit is the one.
    fn due(&self) -> Option<Cut> {
        let plan = &mut *self.plan();
        let (skip, cut) = plan.cut?;
        plan.cut = skip.checked_sub(1).map(|skip| (skip, cut));
        if plan.cut.is_none() {
            plan.cuts += 1;
            return Some(cut);
        }
        None
    }

    fn carry(self, mut client: TcpStream, server: u16) -> io::Result<()> {
        let mut server = TcpStream::connect(("127.0.0.1", server))?;
        self.plan().connections.extend([client.try_clone()?, server.try_clone()?]);
        let answered = Arc::new(Mutex::new(None));
        let (mut to_client, mut from_server, its) =
            (client.try_clone()?, server.try_clone()?, Arc::clone(&answered));
        thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(len @ 1..) = from_server.read(&mut buffer) {
                let cut = its.lock().unwrap_or_else(PoisonError::into_inner).is_some();
                if cut || to_client.write_all(buffer.get(..len).unwrap_or_default()).is_err() {
                    break;
                }
            }
            to_client.shutdown(Shutdown::Both).ok();
            from_server.shutdown(Shutdown::Both).ok();
        });
        thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(len @ 1..) = client.read(&mut buffer) {
                let data = buffer.get(..len).unwrap_or_default();
                if data.windows(COMMIT.len()).any(|window| window == COMMIT) {
                    match self.due() {
                        Some(Cut::Before) => break,
                        Some(Cut::After) => {
                            *answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(());
                        }
                        None => {}
                    }
                }
                if server.write_all(data).is_err() {
                    break;
                }
            }
            client.shutdown(Shutdown::Both).ok();
            server.shutdown(Shutdown::Both).ok();
        });
        Ok(())
    }
}
