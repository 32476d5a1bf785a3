//! Encryption of what rests.
