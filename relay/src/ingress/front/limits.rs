//! The bounds of the front. Each says which way to tune it, and what that costs.

use std::time::Duration;

/// How often each node is asked how it is. Rarer notices a dead machine later.
pub const POLL_EVERY: Duration = Duration::from_secs(1);

/// How long a node may take to say. Below [`POLL_EVERY`], so that a dead machine is known as such within three
/// seconds; much shorter takes a busy one for dead.
pub const POLL_MAX: Duration = Duration::from_millis(750);

/// Bytes of the answer to a poll, which are about 200.
pub const HEALTH_BYTES_MAX: usize = 4096;

/// How long connecting to a node may take: it is in the same network.
pub const CONNECT_MAX: Duration = Duration::from_secs(1);

/// How long a node may take to answer a request. Clients wait for ten seconds, and there may be another node to ask.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Bytes of a node's answer: the largest is a list of a thousand calls, or an SDP answer of a hundred sections.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Requests that are read or wait for nodes at a time; more are refused with 503. More lets a larger burst wait.
pub const REQUESTS_MAX: usize = 1024;

/// KiB of bodies of all those requests, which are counted as they announce themselves, or as large as they may be.
/// More are refused with 503. More lets more large offers wait, and is that much memory: 256 MiB. Each body may have
/// 1 MiB; offers usually have 10 to 100 KiB.
pub const BODIES_KIB_MAX: usize = 256 * 1024;

/// How long a body may take to arrive. Longer lets slower clients in, and lets stalled ones hold room.
pub const BODY_MAX: Duration = Duration::from_secs(10);

/// Idle connections kept per node. More saves connecting in a burst, and holds file descriptors on both sides.
pub const IDLE_PER_NODE_MAX: usize = 64;

/// How long an idle connection is kept: shorter than nodes keep theirs, or a request meets one that just closed.
pub const IDLE_MAX: Duration = Duration::from_secs(30);

/// Events connections at a time. Each takes two sockets and about 20 KiB.
pub const EVENTS_MAX: usize = 50_000;

/// Bytes that are read at once of an events connection. Less takes less memory for each.
pub const EVENTS_BUFFER_BYTES: usize = 4096;

/// When to come back when no node can be asked.
pub const NO_NODE_RETRY: Duration = Duration::from_secs(1);
