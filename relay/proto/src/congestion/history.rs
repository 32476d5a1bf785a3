//! What was sent under which transport-wide sequence number.

/// Packets that are remembered. More means feedback may come later, at 16 bytes each; 4096 of them are 0.8 s at the
/// highest rate.
const PACKETS_MAX: usize = 4096;

/// Packets there is room for at first. More saves copying later, fewer saves memory for receivers of little.
const PACKETS_MIN: usize = 256;

/// For how long a packet should be remembered. Longer bridges longer paths, and takes memory sooner.
const REMEMBERED_US: i64 = 1_500_000;

/// What is known of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Not reported yet.
    #[default]
    Sent,
    /// Reported missing. It may still be on its way.
    Missing,
    /// Arrived.
    Arrived,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    sent_us: i64,
    bytes: u16,
    /// The probe it was part of, 0 for none.
    probe: u8,
    state: State,
}

/// A packet that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Its number since the beginning.
    pub(super) number: u64,
    /// When it was sent.
    pub(super) sent_us: i64,
    /// How large it was.
    pub(super) bytes: u16,
    /// The probe it was part of, 0 for none.
    pub(super) probe: u8,
    /// Whether it had been reported missing.
    pub(super) was_missing: bool,
}

/// A ring of the last packets. It grows with the rate until it has [`PACKETS_MAX`].
#[derive(Debug, Default)]
pub(super) struct History {
    /// A power of two of them, or none.
    ring: Box<[Entry]>,
    /// Packets sent since the beginning. The next one's sequence number is its lower half.
    next: u64,
}

impl History {
    /// Makes room for the first packets.
    pub(super) fn reserve(&mut self) {
        if self.ring.is_empty() {
            self.ring = vec![Entry::default(); PACKETS_MIN].into_boxed_slice();
        }
    }

    /// The sequence number of the packet that is sent next.
    pub(super) fn next_sequence(&self) -> u16 {
        let [.., high, low] = self.next.to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// The number since the beginning of the packet that is sent next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// A packet is sent.
    pub(super) fn sent(&mut self, now_us: i64, bytes: usize, probe: u8) {
        self.reserve();
        if let Some(oldest) = self.entry(self.next)
            && oldest.sent_us.saturating_add(REMEMBERED_US) > now_us
            && self.next >= self.len()
            && self.ring.len() < PACKETS_MAX
        {
            self.grow();
        }
        let entry = Entry {
            sent_us: now_us,
            bytes: u16::try_from(bytes).unwrap_or(u16::MAX),
            probe,
            state: State::Sent,
        };
        if let Some(place) = self.entry(self.next) {
            *place = entry;
        }
        self.next += 1;
    }

    /// A packet is reported missing. The probe it was part of (0 for none), if that
    /// is new.
    pub(super) fn missing(&mut self, sequence: u16) -> Option<u8> {
        let entry = self.number(sequence).and_then(|number| self.entry(number));
        let entry = entry.filter(|entry| entry.state == State::Sent)?;
        entry.state = State::Missing;
        Some(entry.probe)
    }

    /// A packet is reported to have arrived. What it was, if that is new.
    pub(super) fn arrived(&mut self, sequence: u16) -> Option<Sent> {
        let number = self.number(sequence)?;
        let entry = self.entry(number).filter(|entry| entry.state != State::Arrived)?;
        let was_missing = entry.state == State::Missing;
        entry.state = State::Arrived;
        Some(Sent { number, sent_us: entry.sent_us, bytes: entry.bytes, probe: entry.probe, was_missing })
    }

    /// What was sent is not to be reported any more.
    pub(super) fn forget(&mut self) {
        for entry in &mut self.ring {
            entry.state = State::Arrived;
        }
    }

    /// The number of a packet that is remembered.
    fn number(&self, sequence: u16) -> Option<u64> {
        let behind = u64::from(self.next_sequence().wrapping_sub(sequence));
        if behind == 0 || behind > self.len() { None } else { self.next.checked_sub(behind) }
    }

    fn len(&self) -> u64 {
        self.ring.len() as u64
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let place = usize::try_from(number % self.len().max(1)).ok()?;
        self.ring.get_mut(place)
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.ring);
        let len = old.len() as u64;
        self.ring = vec![Entry::default(); old.len() * 2].into_boxed_slice();
        for number in self.next.saturating_sub(len)..self.next {
            let entry = usize::try_from(number % len).ok().and_then(|place| old.get(place));
            if let (Some(entry), Some(place)) = (entry, self.entry(number)) {
                *place = *entry;
            }
        }
        // What was never there cannot be reported.
        let (len, before) = (self.len(), len);
        for back in before + 1..=len {
            if let Some(number) = self.next.checked_sub(back)
                && let Some(entry) = self.entry(number)
            {
                entry.state = State::Arrived;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_sixteen_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }

    #[test]
    fn a_packet_arrives_once_even_after_it_was_missing() {
        let mut history = History::default();
        assert_eq!(history.arrived(0), None, "nothing was sent");
        history.sent(5, 1200, 3);
        assert_eq!(history.missing(0), Some(3));
        assert_eq!(history.missing(0), None);
        let sent = Sent { number: 0, sent_us: 5, bytes: 1200, probe: 3, was_missing: true };
        assert_eq!(history.arrived(0), Some(sent));
        assert_eq!(history.arrived(0), None);
        assert_eq!(history.missing(0), None);
        assert_eq!(history.arrived(1), None, "never sent");
    }

    #[test]
    fn it_grows_with_the_rate_up_to_its_limit_and_forgets_nothing_on_the_way() {
        let mut history = History::default();
        for number in 0..300_000_u64 {
            history.sent(i64::try_from(number).unwrap(), 100, 0);
            let back = number.min(PACKETS_MAX as u64 - 1).min(200);
            let sequence = history.next_sequence().wrapping_sub(1 + u16::try_from(back).unwrap());
            if number % 211 == 0 {
                assert_eq!(history.arrived(sequence).map(|sent| sent.number), Some(number - back));
            }
        }
        assert_eq!(history.ring.len(), PACKETS_MAX);
        let mut slow = History::default();
        (0..100_000).for_each(|number| slow.sent(number * 20_000, 100, 0));
        assert_eq!(slow.ring.len(), PACKETS_MIN);
    }
}
