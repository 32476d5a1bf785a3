//! The bounds of the API. Each says which way to tune it, and what that costs.

use std::num::NonZeroU32;
use std::time::Duration;

/// Bytes of a JSON body: all of them are a few fields.
pub const JSON_BYTES_MAX: usize = 64 * 1024;

/// Characters of `meeting_id`: it is in every record of the call.
pub const MEETING_ID_CHARS_MAX: usize = 128;

/// Longest drain that can be asked for.
pub const DRAIN_MAX: Duration = Duration::from_secs(7 * 86_400);

/// How often an events connection is pinged. Also keeps proxies from cutting it off.
pub const EVENTS_PING: Duration = Duration::from_secs(20);

/// How long an events connection may say nothing, not even a pong.
pub const EVENTS_SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long one write to an events connection may take: a reader slower than that is cut off, and may connect again.
pub const EVENTS_WRITE_MAX: Duration = Duration::from_secs(10);

/// Bytes of a client's message: pins and mutes take about 150.
pub const EVENTS_MESSAGE_BYTES_MAX: usize = 4096;

/// Bytes of a node's event: the roster of a call of 500.
pub const EVENT_BYTES_MAX: usize = 1 << 20;

/// Bytes that wait to be written to an events connection: the largest event, and pings and pongs beside it. Without a
/// bound, pongs to somebody who pings and does not read would pile up. Less than an event would cut off large calls.
pub const EVENTS_UNSENT_BYTES_MAX: usize = EVENT_BYTES_MAX + 16 * 1024;

/// Requests of one session per second, over however many events connections; more are answered with an error. Pinning is
/// done by people. More lets one client make more work for everybody on its call.
pub const EVENTS_REQUESTS_PER_S: NonZeroU32 = NonZeroU32::MIN.saturating_add(19);

/// Changes of one session per second: new offers, and ICE restarts. Clients make one when something is switched on, or a
/// network lost. More lets one client make more work: everybody is told, and slots are chosen anew.
pub const CHANGES_PER_S: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);

/// As many of them may come all at once. Fewer would refuse clients that make them one by one.
pub const CHANGES_BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

/// Records of a page unless the caller asks for another number.
pub const RECORDS_DEFAULT: usize = 256;

/// When to come back to a node that drains. It may never be back: another node is better.
pub const DRAINING_RETRY: Duration = Duration::from_secs(30);

/// When to come back to a node that is full of calls.
pub const FULL_RETRY: Duration = Duration::from_secs(10);

/// When to come back for a call that was handed over and is not at another node yet. Those who were on it are there
/// within a second or two.
pub const MOVED_RETRY: Duration = Duration::from_secs(1);
