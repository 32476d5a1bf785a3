//! The database that the store is in, when it is one.

use super::Check;
use crate::config::Config;
use crate::config::engine::{self, Engine};
use crate::store::StoreError;
use crate::store::postgres::Options;
use crate::store::postgres::look::{self, Facts, VERSION_MIN};

const CHECK: &str = "database";

/// Nothing to say where the store is in files, or where what opens it cannot be had: others say that.
pub(super) fn examine(config: &Config) -> Vec<Check> {
    match engine::read(config) {
        Ok(Engine::Postgres(options)) => look_at(&options).0,
        Ok(Engine::Redb(_)) | Err(_) => Vec::new(),
    }
}

/// Looks at it, and tells whether a gateway uses it.
pub(crate) fn look_at(options: &Options) -> (Vec<Check>, bool) {
    match look::look(options) {
        Ok(facts) => (judge(options.name(), facts), facts.in_use),
        Err(error) => (vec![unusable(options.name(), &error)], false),
    }
}

fn unusable(name: &str, error: &StoreError) -> Check {
    let (finding, advice) = match error {
        StoreError::Unavailable(why) => (
            format!("It cannot be used: {why}."),
            "Look whether the server runs and takes writes, whether `store` names the right hosts, user and database, \
             and store_password_file and store_ca_file the right files; pg_hba.conf on the server must let this \
             machine in.",
        ),
        StoreError::WrongKey { .. } => (
            "The deployment key is not the one that its data keys are wrapped with.".to_owned(),
            "Configure the key that this store was made with, or another database.",
        ),
        StoreError::Moved(why) => return Check::failed(CHECK, name, capital(why), "Do one of these."),
        error => (capital(&error.to_string()), "Mend it before the gateway is started."),
    };
    Check::failed(CHECK, name, finding, advice)
}

/// As a sentence.
fn capital(text: &str) -> String {
    let mut rest = text.trim_end_matches('.').chars();
    let text: String =
        rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default();
    format!("{text}.")
}

fn judge(name: &str, facts: Facts) -> Vec<Check> {
    let Facts { version, tables, tables_known, may_create, careful, standby, in_use } = facts;
    let mut checks = Vec::new();
    if version < VERSION_MIN {
        checks.push(Check::failed(
            CHECK,
            name,
            format!("The server is PostgreSQL {}.", version / 10_000),
            format!("Upgrade it: {} or newer is needed.", VERSION_MIN / 10_000),
        ));
    }
    if !may_create {
        checks.push(Check::failed(
            CHECK,
            name,
            "The gateway's user may not make tables there, and each hour of envelopes has one.",
            "`GRANT CREATE ON DATABASE` to it, or make it the owner of the schema `trunkline` where that is there.",
        ));
    }
    if tables.is_some_and(|tables| tables > tables_known) {
        checks.push(Check::warning(
            CHECK,
            name,
            "Its tables are those of a newer release.",
            "That works with the release before that one, while replicas are upgraded one by one; upgrade this \
             gateway, too.",
        ));
    }
    if !careful {
        checks.push(Check::warning(
            CHECK,
            name,
            "It has fsync or full_page_writes off: a power cut may lose what was acknowledged.",
            "Set both to on, and restart the server.",
        ));
    }
    if !standby {
        checks.push(Check::warning(
            CHECK,
            name,
            "It has no synchronous standby: what it acknowledged is on one machine's disk, and a failover may lose the \
             last moments.",
            "Set synchronous_standby_names to a standby, or know that a disk can take the queue with it.",
        ));
    }
    if checks.is_empty() {
        let state = match (tables, in_use) {
            (None, _) => "the first start makes the tables",
            (Some(tables), _) if tables < tables_known => "the next start brings its tables up to date",
            (Some(_), true) => "a gateway uses it now, and the deployment key is its own",
            (Some(_), false) => "no gateway uses it now, and the deployment key is its own",
        };
        let finding = format!("It answers, takes writes and has a synchronous standby; {state}.");
        checks.push(Check::ok(CHECK, name, finding));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    const FINE: Facts = Facts {
        version: 150_004,
        tables: Some(1),
        tables_known: 1,
        may_create: true,
        careful: true,
        standby: true,
        in_use: false,
    };

    fn only(facts: Facts) -> Check {
        let [check] = judge("database t on db.test", facts).try_into().unwrap();
        check
    }

    #[test]
    fn a_database_as_it_should_be_is_in_order_before_the_first_start_too() {
        assert_eq!(only(FINE).outcome, Outcome::Ok);
        let check = only(Facts { tables: None, ..FINE });
        assert!(check.outcome == Outcome::Ok && check.finding.contains("first start makes"), "{check:?}");
    }

    #[test]
    fn what_keeps_a_gateway_from_working_is_a_failure() {
        for facts in [Facts { version: 140_011, ..FINE }, Facts { may_create: false, ..FINE }] {
            assert_eq!(only(facts).outcome, Outcome::Failed);
        }
    }

    #[test]
    fn what_may_lose_envelopes_is_a_warning_and_so_are_tables_of_a_newer_release() {
        for facts in [
            Facts { standby: false, ..FINE },
            Facts { careful: false, ..FINE },
            Facts { tables: Some(2), ..FINE },
        ] {
            assert_eq!(only(facts).outcome, Outcome::Warning);
        }
    }

    #[test]
    fn a_store_that_was_moved_says_where_to() {
        let check = unusable("database t", &StoreError::Moved("this store was moved to the x".into()));
        assert_eq!(
            (check.outcome, check.finding.as_str()),
            (Outcome::Failed, "This store was moved to the x.")
        );
    }
}
