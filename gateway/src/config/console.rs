//! The console's settings, and all that administrators may change while the gateway runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use trunkline_gateway_proto::settings::{SESSION_IDLE_S_MIN, SESSION_S_MAX, SESSION_S_MIN, Values};

use super::{Config, Span};

/// The console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleConfig {
    /// A session ends after so long without a request.
    pub session_idle: Span,
    /// A session ends after so long in any case.
    pub session_max: Span,
    /// Whether every administrator needs a second factor.
    pub require_totp: bool,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self {
            session_idle: Span(Duration::from_secs(1800)),
            session_max: Span(Duration::from_secs(12 * 3600)),
            require_totp: false,
        }
    }
}

impl ConsoleConfig {
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        for (span, least, field) in [
            (self.session_idle, SESSION_IDLE_S_MIN, "console.session_idle"),
            (self.session_max, SESSION_S_MIN, "console.session_max"),
        ] {
            if !(least..=SESSION_S_MAX).contains(&span.0.as_secs()) {
                let [least, most] = [least, SESSION_S_MAX].map(|s| Span(Duration::from_secs(s)));
                return Err((field, format!("expected \"{least}\" to \"{most}\", found \"{span}\"")));
            }
        }
        Ok(())
    }
}

impl Config {
    /// What the configuration says of settings that administrators may change while the gateway runs.
    #[must_use]
    pub fn values(&self) -> Values {
        Values {
            allow_private_ips: self.allow_private_ips,
            retention_s: self.limits.retention.0.as_secs(),
            log_detail: self.log.detail,
            session_idle_s: self.console.session_idle.0.as_secs(),
            session_max_s: self.console.session_max.0.as_secs(),
            require_totp: self.console.require_totp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_sessions_have_bounds() {
        let problem = |line: &str| {
            let text = format!("domain = \"alpha.test\"\n[console]\n{line}\n");
            Config::parse("gateway.toml", &text).unwrap_err().to_string()
        };
        let idle = problem("session_idle = \"1s\"");
        assert!(idle.contains("`console.session_idle`: expected \"1m\" to \"7d\""), "{idle}");
        let whole = problem("session_max = \"8d\"");
        assert!(whole.contains("`console.session_max`: expected \"5m\" to \"7d\""), "{whole}");
    }

    #[test]
    fn what_may_be_changed_while_running_starts_as_configured() {
        let text = "domain = \"a.test\"\nallow_private_ips = true\n[console]\nsession_idle = \"10m\"\n";
        let values = Config::parse("gateway.toml", text).unwrap().values();
        assert!(values.allow_private_ips && !values.require_totp);
        assert_eq!((values.session_idle_s, values.session_max_s), (600, 43_200));
        assert_eq!(values.retention_s, 30 * 86_400);
    }
}
