//! What the messaging server keeps for one person until that person's page has taken it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// Items kept for one person. More lets a page stay away longer, at up to [`BYTES_MAX`] of memory.
const ITEMS_MAX: usize = 1000;

/// Bytes of them together; the oldest go first.
const BYTES_MAX: usize = 8 << 20;

/// One event for the page.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Rises by one with each.
    pub(crate) seq: u64,
    /// `envelope`, `receipt` or `call-over`.
    pub(crate) event: &'static str,
    /// Its fields as JSON, `seq` among them.
    pub(crate) data: Arc<str>,
}

/// One person's items, and who follows them: the page that asked last.
pub(crate) struct Mailbox {
    kept: Mutex<Kept>,
    /// Changes with every item and every follower.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    items: VecDeque<Item>,
    bytes: usize,
    last: u64,
    follower: u64,
}

/// A page that follows.
pub(crate) struct Follower {
    mailbox: Arc<Mailbox>,
    number: u64,
    after: u64,
    changed: watch::Receiver<u64>,
    over: bool,
}

/// What a follower is told next.
#[derive(Debug)]
pub(crate) enum Next {
    /// An item.
    Item(Item),
    /// So many are gone: the page was away for too long.
    Missed(u64),
    /// Another page follows now. It is the last word.
    Replaced,
}

impl Mailbox {
    /// An empty one.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { kept: Mutex::default(), changed: watch::Sender::new(0) })
    }

    /// Keeps an item; the oldest go when there are too many.
    pub(crate) fn put(&self, event: &'static str, mut fields: Map<String, Value>) {
        let mut kept = self.kept();
        kept.last += 1;
        let seq = kept.last;
        fields.insert("seq".to_owned(), json!(seq));
        let data: Arc<str> = Value::Object(fields).to_string().into();
        kept.bytes += data.len();
        kept.items.push_back(Item { seq, event, data });
        while kept.items.len() > ITEMS_MAX || kept.bytes > BYTES_MAX {
            let Some(gone) = kept.items.pop_front() else { break };
            kept.bytes = kept.bytes.saturating_sub(gone.data.len());
        }
        drop(kept);
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Follows from the item after `after` on. Whoever followed before is told that it is over.
    pub(crate) fn follow(self: &Arc<Self>, after: u64) -> Follower {
        let mut kept = self.kept();
        kept.follower += 1;
        // One that knows more than there was is of an earlier life of this server: it starts anew.
        let after = if after > kept.last { 0 } else { after };
        let (number, changed) = (kept.follower, self.changed.subscribe());
        drop(kept);
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
        Follower { mailbox: Arc::clone(self), number, after, changed, over: false }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Waits for what is next. `None` after the last word.
    pub(crate) async fn next(&mut self) -> Option<Next> {
        loop {
            if self.over {
                return None;
            }
            self.changed.borrow_and_update();
            if let Some(next) = self.look() {
                return Some(next);
            }
            self.changed.changed().await.ok()?;
        }
    }

    fn look(&mut self) -> Option<Next> {
        let kept = self.mailbox.kept();
        if kept.follower != self.number {
            self.over = true;
            return Some(Next::Replaced);
        }
        let item = kept.items.iter().find(|item| item.seq > self.after)?;
        let missed = item.seq - self.after - 1;
        if missed > 0 {
            self.after += missed;
            return Some(Next::Missed(missed));
        }
        self.after = item.seq;
        Some(Next::Item(item.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(mailbox: &Mailbox, count: usize) {
        (0..count).for_each(|_| mailbox.put("envelope", Map::new()));
    }

    async fn seq(follower: &mut Follower) -> Option<u64> {
        match follower.next().await {
            Some(Next::Item(item)) => Some(item.seq),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_page_that_comes_back_gets_what_it_does_not_have_yet() {
        let mailbox = Mailbox::new();
        put(&mailbox, 3);
        let mut follower = mailbox.follow(1);
        assert_eq!((seq(&mut follower).await, seq(&mut follower).await), (Some(2), Some(3)));
        put(&mailbox, 1);
        assert_eq!(seq(&mut follower).await, Some(4));
    }

    #[tokio::test]
    async fn the_page_that_asked_last_follows_alone() {
        let mailbox = Mailbox::new();
        let (mut first, mut second) = (mailbox.follow(0), mailbox.follow(0));
        assert!(matches!(first.next().await, Some(Next::Replaced)));
        assert!(first.next().await.is_none());
        put(&mailbox, 1);
        assert_eq!(seq(&mut second).await, Some(1));
    }

    #[tokio::test]
    async fn what_is_too_much_is_forgotten_and_said_to_be() {
        let mailbox = Mailbox::new();
        put(&mailbox, ITEMS_MAX + 5);
        let mut follower = mailbox.follow(2);
        assert!(matches!(follower.next().await, Some(Next::Missed(3))));
        assert_eq!(seq(&mut follower).await, Some(6));
        assert_eq!(mailbox.kept().items.len(), ITEMS_MAX);
    }
}
