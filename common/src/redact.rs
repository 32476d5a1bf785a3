//! How much a log line may say about people.
//!
//! The operator raises the detail for the whole process; types that identify somebody ask [`shows`]
//! before they print. Content is never printable: there is no level for it.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

/// How much a log line may say, least first. Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Detail {
    /// What happened, and between which deployments.
    #[default]
    Activity = 0,
    /// Also network addresses of machines.
    Ip = 1,
    /// Also envelope ids and conversation keys.
    Messaging = 2,
    /// Also addresses of people.
    Username = 3,
}

static DETAIL: AtomicU8 = AtomicU8::new(Detail::Activity as u8);

/// Sets the log detail of this process.
pub fn set_detail(detail: Detail) {
    DETAIL.store(detail as u8, Ordering::Relaxed);
}

/// Whether the operator allowed what `detail` covers to be printed.
#[must_use]
pub fn shows(detail: Detail) -> bool {
    DETAIL.load(Ordering::Relaxed) >= detail as u8
}

/// Wraps a value that only prints at a level of [`Detail`]; below it prints `‹kind›`.
pub struct Redacted<'a, T> {
    value: &'a T,
    level: Detail,
    kind: &'static str,
}

impl<'a, T> Redacted<'a, T> {
    /// `kind` is what stands in the log instead, for example `ip`.
    pub fn new(value: &'a T, level: Detail, kind: &'static str) -> Self {
        Self { value, level, kind }
    }
}

/// A network address, printed from [`Detail::Ip`] on.
pub fn ip<T: fmt::Display>(value: &T) -> Redacted<'_, T> {
    Redacted::new(value, Detail::Ip, "ip")
}

impl<T: fmt::Display> fmt::Display for Redacted<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if shows(self.level) { self.value.fmt(f) } else { write!(f, "‹{}›", self.kind) }
    }
}

impl<T: fmt::Display> fmt::Debug for Redacted<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Detail {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "activity" => Ok(Self::Activity),
            "ip" => Ok(Self::Ip),
            "messaging" => Ok(Self::Messaging),
            "username" => Ok(Self::Username),
            _ => Err(format!("`{text}` is no log detail: expected activity, ip, messaging or username")),
        }
    }
}
