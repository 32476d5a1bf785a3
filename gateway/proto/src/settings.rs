//! Settings that administrators change while the gateway runs. They rest in the store and take the place of the
//! configuration file's until they are taken back.

use serde::{Deserialize, Deserializer, Serialize};
use trunkline_common::redact::Detail;

use crate::admin::AdminError;

/// Longest retention in seconds, a year. Longer keeps what nobody will ask for, and its keys.
pub const RETENTION_S_MAX: u64 = 365 * 86_400;

/// Shortest retention in seconds.
pub const RETENTION_S_MIN: u64 = 60;

/// Shortest time without a request after which a console session may be set to end, in seconds.
pub const SESSION_IDLE_S_MIN: u64 = 60;

/// Shortest whole life that a console session may be set to, in seconds.
pub const SESSION_S_MIN: u64 = 300;

/// Longest time that either may be set to, in seconds. A longer one is a key that lies in a browser.
pub const SESSION_S_MAX: u64 = 7 * 86_400;

/// What counts: every setting with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values {
    /// Whether new peers' private, loopback and link-local addresses may be dialled unless the request says.
    pub allow_private_ips: bool,
    /// How long an envelope that is accepted from now on waits at most, in seconds.
    pub retention_s: u64,
    /// How much logs may say about people.
    pub log_detail: Detail,
    /// A console session ends after so many seconds without a request.
    pub session_idle_s: u64,
    /// A console session ends after so many seconds in any case.
    pub session_max_s: u64,
    /// Whether every administrator needs a second factor.
    pub require_totp: bool,
}

/// What the store holds in place of the configuration file's values. Rests as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// See [`Values`].
    pub allow_private_ips: Option<bool>,
    /// See [`Values`].
    pub retention_s: Option<u64>,
    /// See [`Values`].
    pub log_detail: Option<Detail>,
    /// See [`Values`].
    pub session_idle_s: Option<u64>,
    /// See [`Values`].
    pub session_max_s: Option<u64>,
    /// See [`Values`].
    pub require_totp: Option<bool>,
}

/// A change: a setting that is not there stays, `null` takes it back to the configuration file's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsChange {
    /// See [`Values`].
    #[serde(deserialize_with = "given")]
    pub allow_private_ips: Option<Option<bool>>,
    /// See [`Values`].
    #[serde(deserialize_with = "given")]
    pub retention_s: Option<Option<u64>>,
    /// See [`Values`].
    #[serde(deserialize_with = "given")]
    pub log_detail: Option<Option<Detail>>,
    /// See [`Values`].
    #[serde(deserialize_with = "given")]
    pub session_idle_s: Option<Option<u64>>,
    /// See [`Values`].
    #[serde(deserialize_with = "given")]
    pub session_max_s: Option<Option<u64>>,
    /// See [`Values`].
    #[serde(deserialize_with = "given")]
    pub require_totp: Option<Option<bool>>,
}

impl Overrides {
    /// What counts, over the configuration file's values.
    #[must_use]
    pub fn over(&self, configured: Values) -> Values {
        Values {
            allow_private_ips: self.allow_private_ips.unwrap_or(configured.allow_private_ips),
            retention_s: self.retention_s.unwrap_or(configured.retention_s),
            log_detail: self.log_detail.unwrap_or(configured.log_detail),
            session_idle_s: self.session_idle_s.unwrap_or(configured.session_idle_s),
            session_max_s: self.session_max_s.unwrap_or(configured.session_max_s),
            require_totp: self.require_totp.unwrap_or(configured.require_totp),
        }
    }

    /// These with a change.
    ///
    /// # Errors
    /// When a value is out of its bounds. Nothing changes then.
    pub fn changed(&self, change: &SettingsChange) -> Result<Self, AdminError> {
        let seconds = |field: &str, value: Option<Option<u64>>, least: u64, most: u64| match value {
            Some(Some(value)) if !(least..=most).contains(&value) => Err(AdminError::Invalid(format!(
                "`{field}`: expected {least} to {most} seconds, found {value}"
            ))),
            _ => Ok(()),
        };
        seconds("retention_s", change.retention_s, RETENTION_S_MIN, RETENTION_S_MAX)?;
        seconds("session_idle_s", change.session_idle_s, SESSION_IDLE_S_MIN, SESSION_S_MAX)?;
        seconds("session_max_s", change.session_max_s, SESSION_S_MIN, SESSION_S_MAX)?;
        Ok(Self {
            allow_private_ips: change.allow_private_ips.unwrap_or(self.allow_private_ips),
            retention_s: change.retention_s.unwrap_or(self.retention_s),
            log_detail: change.log_detail.unwrap_or(self.log_detail),
            session_idle_s: change.session_idle_s.unwrap_or(self.session_idle_s),
            session_max_s: change.session_max_s.unwrap_or(self.session_max_s),
            require_totp: change.require_totp.unwrap_or(self.require_totp),
        })
    }
}

impl SettingsChange {
    /// What is changed to what, for the audit log: `retention_s=3600, log_detail=configured`.
    #[must_use]
    pub fn describe(&self) -> String {
        fn text<T: Serialize>(value: Option<Option<T>>) -> Option<String> {
            let value = value?;
            let shown = value.map(|value| serde_json::to_value(value).unwrap_or_default().to_string());
            Some(shown.map_or_else(|| "configured".to_owned(), |shown| shown.trim_matches('"').to_owned()))
        }
        let fields = [
            ("allow_private_ips", text(self.allow_private_ips)),
            ("retention_s", text(self.retention_s)),
            ("log_detail", text(self.log_detail)),
            ("session_idle_s", text(self.session_idle_s)),
            ("session_max_s", text(self.session_max_s)),
            ("require_totp", text(self.require_totp)),
        ];
        let changed = fields.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        changed.collect::<Vec<_>>().join(", ")
    }
}

/// Tells `null` from a field that is not there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURED: Values = Values {
        allow_private_ips: false,
        retention_s: 100_000,
        log_detail: Detail::Activity,
        session_idle_s: 1800,
        session_max_s: 43_200,
        require_totp: false,
    };

    fn change(json: &str) -> SettingsChange {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_value_overrides_null_takes_it_back_and_what_is_missing_stays() {
        let first = change(r#"{"retention_s": 3600, "log_detail": "ip"}"#);
        let overrides = Overrides::default().changed(&first).unwrap();
        let values = overrides.over(CONFIGURED);
        assert_eq!((values.retention_s, values.log_detail), (3600, Detail::Ip));
        assert_eq!(values.session_idle_s, 1800);
        let second = change(r#"{"retention_s": null, "require_totp": true}"#);
        let overrides = overrides.changed(&second).unwrap();
        let values = overrides.over(CONFIGURED);
        assert_eq!((values.retention_s, values.log_detail, values.require_totp), (100_000, Detail::Ip, true));
        assert_eq!(second.describe(), "retention_s=configured, require_totp=true");
        assert_eq!(first.describe(), "retention_s=3600, log_detail=ip");
    }

    #[test]
    fn values_out_of_bounds_are_refused_by_name() {
        for json in [
            r#"{"retention_s": 59}"#,
            r#"{"retention_s": 31536001}"#,
            r#"{"session_idle_s": 0}"#,
            r#"{"session_max_s": 604801}"#,
        ] {
            let error = Overrides::default().changed(&change(json)).unwrap_err().to_string();
            let field = json.split('"').nth(1).unwrap();
            assert!(error.contains(field), "{error}");
        }
        assert!(serde_json::from_str::<SettingsChange>(r#"{"retention": 1}"#).is_err());
    }

    #[test]
    fn overrides_survive_json_also_of_a_release_with_fewer() {
        let overrides = Overrides { session_max_s: Some(600), ..Overrides::default() };
        let json = serde_json::to_vec(&overrides).unwrap();
        assert_eq!(serde_json::from_slice::<Overrides>(&json).unwrap(), overrides);
        assert_eq!(serde_json::from_str::<Overrides>("{}").unwrap(), Overrides::default());
    }
}
