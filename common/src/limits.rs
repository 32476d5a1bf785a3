//! Limits that more than one crate must agree on. Each says which way to tune it, and what that costs.

/// Longest address, `local@domain`, in bytes (RFC 5321, section 4.5.3.1: 64 + 1 + 255).
pub const ADDRESS_BYTES_MAX: usize = 320;

/// Longest domain name in bytes (RFC 1035, section 2.3.4).
pub const DOMAIN_BYTES_MAX: usize = 253;

/// Longest network id in bytes. It travels in every envelope, so short is cheap.
pub const NETWORK_BYTES_MAX: usize = 64;

/// Longest conversation key in bytes. It is opaque and travels in every envelope.
pub const CONVERSATION_BYTES_MAX: usize = 256;

/// Recipients of one envelope. More means larger envelopes and more work before one answer.
pub const RECIPIENTS_MAX: usize = 500;

/// Largest payload in bytes unless the operator says otherwise. More needs more memory per lane.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// Largest payload an operator may configure. Every receiver must be ready to hold one per lane.
pub const PAYLOAD_BYTES_CEILING: usize = 16 * 1024 * 1024;
