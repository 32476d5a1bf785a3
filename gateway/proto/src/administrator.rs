//! Administrators of the console: who may log in with a password, and how each of them changes.
//!
//! The core keeps and changes the records. Passwords are hashed and verified by the shell: that takes memory and
//! time on purpose, which a core has no business with.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::admin::AdminError;
use crate::directory::{Directory, Role};
use crate::time::Time;

/// Administrators of one deployment. Each may have one session in memory, about 300 bytes.
pub const ADMINISTRATORS_MAX: usize = 1000;

/// Longest name in bytes: it stands in every audit entry.
pub const NAME_BYTES_MAX: usize = 64;

/// Bytes of a TOTP secret: what RFC 4226, section 4, recommends.
pub const TOTP_SECRET_BYTES: usize = 20;

/// An administrator. Rests as JSON, sealed like all state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Administrator {
    /// Unique: lower-case letters, digits, `-`, `_`, `.` and `@`.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// What its password is stored as.
    pub password: PasswordHash,
    /// Whether somebody else knows the password, so that the next log-in must replace it.
    pub must_change_password: bool,
    /// The second factor, when there is one.
    #[serde(default)]
    pub totp: Option<Totp>,
    /// When it was made.
    pub created: Time,
}

/// What a password is stored as: Argon2id (RFC 9106) with its costs, so that these may change later.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    #[serde(serialize_with = "encode", deserialize_with = "decode")]
    /// Random, one per password.
    pub salt: [u8; 16],
    #[serde(serialize_with = "encode", deserialize_with = "decode")]
    /// The hash.
    pub hash: [u8; 32],
}

/// A second factor: RFC 6238.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totp {
    /// Shared with the administrator's device.
    pub secret: TotpSecret,
    /// The time step whose code was used last. A code is good once.
    pub used: u64,
}

/// What codes are made with.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct TotpSecret(pub [u8; TOTP_SECRET_BYTES]);

/// One change of the administrators.
#[derive(Clone, Debug)]
pub enum AdministratorOp {
    /// Add one.
    Add {
        /// Unique.
        name: String,
        /// What it may do.
        role: Role,
        /// Of the first password, which must be changed at the first log-in.
        password: PasswordHash,
    },
    /// Change what one may do. The last one of role `admin` keeps it.
    Role {
        /// Who.
        name: String,
        /// From now on.
        role: Role,
    },
    /// Remove one. The last one of role `admin` stays.
    Remove(String),
    /// Replace a password.
    Password {
        /// Whose.
        name: String,
        /// Of the new one.
        password: PasswordHash,
        /// The one its owner proved to know, who changes it; `None` when somebody else resets it.
        proven: Option<PasswordHash>,
    },
    /// Switch the second factor on.
    TotpOn {
        /// Whose.
        name: String,
        /// Proven by a code.
        totp: Totp,
        /// The password of the session in which that was done.
        proven: PasswordHash,
    },
    /// Switch the second factor off.
    TotpOff {
        /// Whose.
        name: String,
        /// The password its owner proved to know; `None` when somebody else does it.
        proven: Option<PasswordHash>,
    },
    /// One logged in, or proved a second factor again.
    LogIn {
        /// Who.
        name: String,
        /// The time step of the code that was used, when one was needed. Refused when it was used before.
        step: Option<u64>,
    },
}

/// What a change comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdministratorChange {
    /// This record replaces the one of its name.
    Put(Administrator),
    /// The record of this name goes.
    Remove(String),
    /// Nothing changes: only the audit log hears of it.
    Nothing,
}

/// Whether an administrator may be called so: a letter or digit first. `gateway` is who the audit log names for what the gateway did itself.
#[must_use]
pub fn valid_name(name: &str) -> bool {
    let byte_ok =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b'@');
    // Names stand in paths, where `.` and `..` mean something else.
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    begins && name.len() <= NAME_BYTES_MAX && name.bytes().all(byte_ok) && name != "gateway"
}

impl AdministratorOp {
    /// Verb and target, for the audit log.
    #[must_use]
    pub fn describe(&self) -> (&'static str, &str) {
        match self {
            Self::Add { name, .. } => ("administrator.add", name),
            Self::Role { name, .. } => ("administrator.role", name),
            Self::Remove(name) => ("administrator.remove", name),
            Self::Password { name, proven: None, .. } => ("administrator.reset-password", name),
            Self::Password { name, .. } => ("administrator.password", name),
            Self::TotpOn { name, .. } => ("administrator.totp-on", name),
            Self::TotpOff { name, .. } => ("administrator.totp-off", name),
            Self::LogIn { name, .. } => ("login", name),
        }
    }

    /// What it comes to in this directory, which stays as it is.
    ///
    /// # Errors
    /// When there is no such administrator, or too many, or it would leave none of role `admin`.
    pub fn change(self, directory: &Directory, now: Time) -> Result<AdministratorChange, AdminError> {
        let known = |name: &str| {
            let record = directory.administrator(name).cloned();
            record.ok_or_else(|| AdminError::NotFound { what: "administrator", name: name.to_owned() })
        };
        let last = |record: &Administrator| {
            let admins = directory.administrators().filter(|other| other.role == Role::Admin).count();
            record.role == Role::Admin && admins == 1
        };
        let record = match self {
            Self::Add { name, role, password } => {
                if !valid_name(&name) {
                    return Err(AdminError::Invalid(format!(
                        "`name`: expected 1 to {NAME_BYTES_MAX} lower-case letters, digits, `-`, `_`, `.` or `@`, a \
                         letter or digit first, and not `gateway`"
                    )));
                }
                if directory.administrator(&name).is_some() {
                    return Err(AdminError::Conflict(format!(
                        "there is an administrator `{name}` already: remove it first, or choose another name"
                    )));
                }
                if directory.administrators().count() >= ADMINISTRATORS_MAX {
                    return Err(AdminError::Conflict(format!(
                        "there are {ADMINISTRATORS_MAX} administrators already: remove one first"
                    )));
                }
                Administrator { name, role, password, must_change_password: true, totp: None, created: now }
            }
            Self::Role { name, role } => {
                let record = known(&name)?;
                if last(&record) && role != Role::Admin {
                    return Err(last_one());
                }
                Administrator { role, ..record }
            }
            Self::Remove(name) => {
                if last(&known(&name)?) {
                    return Err(last_one());
                }
                return Ok(AdministratorChange::Remove(name));
            }
            Self::Password { name, password, proven } => {
                let must_change_password = proven.is_none();
                Administrator { password, must_change_password, ..unchanged(known(&name)?, proven.as_ref())? }
            }
            Self::TotpOn { name, totp, proven } => {
                let record = unchanged(known(&name)?, Some(&proven))?;
                if record.totp.is_some() {
                    return Err(AdminError::Conflict(
                        "two-factor is on already: switch it off before it is set up anew".to_owned(),
                    ));
                }
                Administrator { totp: Some(totp), ..record }
            }
            Self::TotpOff { name, proven } => {
                Administrator { totp: None, ..unchanged(known(&name)?, proven.as_ref())? }
            }
            Self::LogIn { name, step } => {
                let mut record = known(&name)?;
                match (&mut record.totp, step) {
                    (Some(totp), Some(step)) if step > totp.used => totp.used = step,
                    (None, None) => return Ok(AdministratorChange::Nothing),
                    _ => {
                        return Err(AdminError::Conflict(
                            "this code was used before, or two-factor changed meanwhile: wait for the next code"
                                .to_owned(),
                        ));
                    }
                }
                record
            }
        };
        Ok(AdministratorChange::Put(record))
    }
}

/// A record whose password is still the one that was proven. Proving takes time, in which somebody may have reset it: what
/// was begun before then has no effect any more.
fn unchanged(record: Administrator, proven: Option<&PasswordHash>) -> Result<Administrator, AdminError> {
    match proven {
        Some(proven) if *proven != record.password => {
            Err(AdminError::Conflict("the password was changed meanwhile: log in again".to_owned()))
        }
        _ => Ok(record),
    }
}

fn last_one() -> AdminError {
    AdminError::Conflict("this is the last administrator of role admin: add another one first".to_owned())
}

fn encode<S: Serializer, const N: usize>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD_NO_PAD.encode(bytes))
}

fn decode<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    let bytes = STANDARD_NO_PAD.decode(text.as_bytes()).map_err(de::Error::custom)?;
    bytes.try_into().map_err(|_| de::Error::custom(format!("expected {N} bytes")))
}

impl Serialize for TotpSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        encode(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for TotpSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        decode(deserializer).map(Self)
    }
}

impl fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotpSecret(..)")
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(byte: u8) -> PasswordHash {
        PasswordHash { memory_kib: 8, passes: 1, lanes: 1, salt: [byte; 16], hash: [byte; 32] }
    }

    fn add(name: &str, role: Role) -> AdministratorOp {
        AdministratorOp::Add { name: name.into(), role, password: hash(7) }
    }

    fn apply(directory: &mut Directory, op: AdministratorOp) -> Result<(), AdminError> {
        match op.change(directory, Time::from_unix_ms(5))? {
            AdministratorChange::Put(record) => directory.put_administrator(record),
            AdministratorChange::Remove(name) => drop(directory.remove_administrator(&name)),
            AdministratorChange::Nothing => {}
        }
        Ok(())
    }

    fn directory(records: &[(&str, Role)]) -> Directory {
        let mut directory = Directory::default();
        for (name, role) in records {
            apply(&mut directory, add(name, *role)).unwrap();
        }
        directory
    }

    #[test]
    fn a_record_survives_json_and_prints_no_secret() {
        let secret = TotpSecret([9; TOTP_SECRET_BYTES]);
        let record = Administrator {
            name: "ann".into(),
            role: Role::Viewer,
            password: hash(3),
            must_change_password: false,
            totp: Some(Totp { secret, used: 77 }),
            created: Time::from_unix_ms(1),
        };
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Administrator>(&json).unwrap(), record);
        let short = json.replace("CQkJCQkJCQkJCQkJCQkJCQkJCQk", "CQkJ");
        assert!(short != json && serde_json::from_str::<Administrator>(&short).is_err());
        let printed = format!("{record:?}");
        assert!(!printed.contains("[9") && !printed.contains("[3"), "{printed}");
    }

    #[test]
    fn the_last_administrator_of_role_admin_stays_one() {
        let mut directory = directory(&[("ann", Role::Admin), ("bob", Role::Viewer)]);
        let lower = |name: &str| AdministratorOp::Role { name: name.into(), role: Role::Operator };
        assert!(matches!(apply(&mut directory, lower("ann")), Err(AdminError::Conflict(_))));
        let remove = |name: &str| AdministratorOp::Remove(name.into());
        assert!(matches!(apply(&mut directory, remove("ann")), Err(AdminError::Conflict(_))));
        apply(&mut directory, AdministratorOp::Role { name: "bob".into(), role: Role::Admin }).unwrap();
        apply(&mut directory, remove("ann")).unwrap();
        assert!(matches!(apply(&mut directory, remove("ann")), Err(AdminError::NotFound { .. })));
        assert!(matches!(apply(&mut directory, remove("bob")), Err(AdminError::Conflict(_))));
    }

    #[test]
    fn names_are_unique_and_plain() {
        let mut directory = directory(&[("ann", Role::Admin)]);
        assert!(matches!(apply(&mut directory, add("ann", Role::Viewer)), Err(AdminError::Conflict(_))));
        for name in ["", "Ann", "a b", "a:b", "gateway", "ä", &"a".repeat(65)] {
            let refused = apply(&mut directory, add(name, Role::Viewer));
            assert!(matches!(refused, Err(AdminError::Invalid(_))), "{name}");
        }
    }

    #[test]
    fn a_password_that_was_reset_must_be_changed_and_one_that_was_changed_need_not() {
        let mut directory = directory(&[("ann", Role::Admin)]);
        let must = |directory: &Directory| directory.administrator("ann").unwrap().must_change_password;
        assert!(must(&directory), "the first one is somebody else's");
        let set = |proven| AdministratorOp::Password { name: "ann".into(), password: hash(8), proven };
        apply(&mut directory, set(Some(hash(7)))).unwrap();
        assert!(!must(&directory));
        apply(&mut directory, set(None)).unwrap();
        assert!(must(&directory));
    }

    #[test]
    fn what_was_begun_with_a_password_that_was_reset_meanwhile_has_no_effect() {
        let mut directory = directory(&[("ann", Role::Admin)]);
        let proven = hash(7);
        let reset = AdministratorOp::Password { name: "ann".into(), password: hash(8), proven: None };
        apply(&mut directory, reset).unwrap();
        let totp = Totp { secret: TotpSecret([1; TOTP_SECRET_BYTES]), used: 100 };
        let before = directory.administrator("ann").cloned();
        for late in [
            AdministratorOp::Password { name: "ann".into(), password: hash(9), proven: Some(proven.clone()) },
            AdministratorOp::TotpOn { name: "ann".into(), totp, proven: proven.clone() },
            AdministratorOp::TotpOff { name: "ann".into(), proven: Some(proven) },
        ] {
            assert!(matches!(apply(&mut directory, late), Err(AdminError::Conflict(_))));
        }
        assert_eq!(directory.administrator("ann").cloned(), before);
    }

    #[test]
    fn a_code_opens_the_door_once_and_older_ones_no_more() {
        let mut directory = directory(&[("ann", Role::Admin)]);
        let log_in = |step| AdministratorOp::LogIn { name: "ann".into(), step };
        apply(&mut directory, log_in(None)).unwrap();
        let totp = Totp { secret: TotpSecret([1; TOTP_SECRET_BYTES]), used: 100 };
        apply(
            &mut directory,
            AdministratorOp::TotpOn { name: "ann".into(), totp: totp.clone(), proven: hash(7) },
        )
        .unwrap();
        let again = AdministratorOp::TotpOn { name: "ann".into(), totp, proven: hash(7) };
        assert!(matches!(apply(&mut directory, again), Err(AdminError::Conflict(_))));
        for step in [None, Some(99), Some(100)] {
            assert!(matches!(apply(&mut directory, log_in(step)), Err(AdminError::Conflict(_))), "{step:?}");
        }
        apply(&mut directory, log_in(Some(101))).unwrap();
        assert!(matches!(apply(&mut directory, log_in(Some(101))), Err(AdminError::Conflict(_))));
        apply(&mut directory, AdministratorOp::TotpOff { name: "ann".into(), proven: None }).unwrap();
        assert!(matches!(apply(&mut directory, log_in(Some(102))), Err(AdminError::Conflict(_))));
        apply(&mut directory, log_in(None)).unwrap();
    }
}
