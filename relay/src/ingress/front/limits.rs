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

/// Requests that wait for nodes at a time. Each may hold a body of 1 MiB; more are refused with 503.
pub const REQUESTS_MAX: usize = 1024;

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
