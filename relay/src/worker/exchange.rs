//! What workers tell each other: messages between the branches of a call that is on several of them. One queue for each
//! worker, the same as for commands; a batch of messages, not a packet, is what is handed over.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use trunkline_relay_proto::exchange::{Branch, Message};

use super::hosted::Hosted;
use super::{Command, Worker};

/// Bytes of messages that wait at one worker. A worker that is so far behind gets no more media until it has caught up:
/// receivers there miss packets. More lets it be further behind, and takes memory.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Where a worker is told what to do. Clones are the same worker's.
#[derive(Clone)]
pub(crate) struct Mailbox {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    /// It was woken and has not looked yet: waking it again would be a system call for nothing.
    woken: Arc<AtomicBool>,
    /// Bytes of messages from other workers that wait.
    waiting: Arc<AtomicUsize>,
}

/// Another branch of a call, and where it is.
pub(crate) struct Peer {
    branch: Branch,
    key: u32,
    mailbox: Mailbox,
    /// What is to go there next.
    outbox: Vec<Message>,
    bytes: usize,
}

impl Mailbox {
    /// A worker's, which waits for `wake`.
    pub(super) fn new(commands: mpsc::Sender<Command>, wake: Arc<OwnedFd>) -> Self {
        Self { commands, wake, woken: Arc::default(), waiting: Arc::default() }
    }

    /// Hands a command over. False when the worker is gone.
    pub(crate) fn tell(&self, command: Command) -> bool {
        if self.commands.send(command).is_err() {
            return false;
        }
        if self.woken.swap(true, Ordering::AcqRel) {
            return true;
        }
        // A full counter (EAGAIN) wakes it as well.
        matches!(rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()), Ok(_) | Err(rustix::io::Errno::AGAIN))
    }

    /// The worker looks at what waits, all that was handed over until now.
    pub(super) fn awake(&self) {
        // With what `tell` does, this sees every command that did not wake.
        self.woken.swap(false, Ordering::AcqRel);
    }

    /// Messages were taken out.
    pub(super) fn taken(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Peer {
    /// A branch of a call, at a worker that knows the call by this key.
    pub(crate) fn new(branch: Branch, key: u32, mailbox: Mailbox) -> Self {
        Self { branch, key, mailbox, outbox: Vec::new(), bytes: 0 }
    }

    /// Which one.
    pub(super) fn branch(&self) -> Branch {
        self.branch
    }

    /// Adds to what goes there. False when it is of no use late, and too much waits there already.
    pub(super) fn push(&mut self, message: Message) -> bool {
        let waiting = self.mailbox.waiting.load(Ordering::Relaxed).saturating_add(self.bytes);
        if message.is_perishable() && waiting >= WAITING_BYTES_MAX {
            return false;
        }
        self.bytes = self.bytes.saturating_add(message.bytes());
        self.outbox.push(message);
        true
    }

    /// Hands over what there is. A worker that is gone has ended its branch, or the process ends.
    pub(super) fn flush(&mut self, from: Branch) {
        if self.outbox.is_empty() {
            return;
        }
        let (messages, bytes) = (std::mem::take(&mut self.outbox), std::mem::take(&mut self.bytes));
        self.mailbox.waiting.fetch_add(bytes, Ordering::Relaxed);
        self.mailbox.tell(Command::Exchange { key: self.key, from, messages, bytes });
    }
}

impl Hosted {
    /// Hands over what the call has for its other branches.
    pub(super) fn export(&mut self) {
        while let Some(export) = self.call.poll_export() {
            for peer in self.peers.iter_mut().filter(|peer| export.to.contains(peer.branch())) {
                if !peer.push(export.message.clone()) {
                    self.dropped += export.message.packets() as u64;
                }
            }
        }
        for peer in &mut self.peers {
            peer.flush(self.branch);
        }
    }
}

impl Worker {
    /// A call has another branch: it is told how things are here.
    pub(super) fn attach(&mut self, key: u32, now: Instant, peer: Peer) {
        if let Some(hosted) = self.calls.get_mut(&key) {
            hosted.call.attach(now, peer.branch());
            hosted.peers.push(peer);
            self.settle(key, now);
        }
    }

    /// A branch of a call is gone.
    pub(super) fn detach(&mut self, key: u32, now: Instant, branch: Branch) {
        if let Some(hosted) = self.calls.get_mut(&key) {
            hosted.peers.retain(|peer| peer.branch() != branch);
            hosted.call.detach(now, branch);
            self.settle(key, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};
    use trunkline_relay_proto::event::ParticipantId;

    use super::*;

    fn mailbox() -> (Mailbox, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel();
        let wake = eventfd(0, EventfdFlags::NONBLOCK).expect("an event counter");
        (Mailbox::new(commands, Arc::new(wake)), receiver)
    }

    fn wakes(mailbox: &Mailbox) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(&*mailbox.wake, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    #[test]
    fn a_worker_is_woken_once_until_it_looks() {
        let (mailbox, receiver) = mailbox();
        for _ in 0..3 {
            assert!(mailbox.tell(Command::HandOver { key: 1 }));
        }
        assert_eq!(wakes(&mailbox), 1);
        mailbox.awake();
        assert_eq!(receiver.try_iter().count(), 3);
        assert!(mailbox.tell(Command::HandOver { key: 1 }));
        assert_eq!(wakes(&mailbox), 1);
        drop(receiver);
        assert!(!mailbox.tell(Command::HandOver { key: 1 }));
    }

    #[test]
    fn messages_go_together_and_are_taken_off_the_account_when_they_were_taken_out() {
        let (mailbox, receiver) = mailbox();
        let mut peer = Peer::new(Branch::HOME, 7, mailbox.clone());
        for id in 0..3 {
            assert!(peer.push(Message::Left { id: ParticipantId(id), replaced: false }));
        }
        peer.flush(Branch::HOME);
        peer.flush(Branch::HOME);
        let Ok(Command::Exchange { key, messages, bytes, .. }) = receiver.try_recv() else {
            panic!("one command with all of them")
        };
        assert_eq!((key, messages.len()), (7, 3));
        assert_eq!(mailbox.waiting.load(Ordering::Relaxed), bytes);
        mailbox.taken(bytes);
        assert_eq!(mailbox.waiting.load(Ordering::Relaxed), 0);
        assert!(receiver.try_recv().is_err());
    }
}
