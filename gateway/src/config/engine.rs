//! Which storage engine the configuration asks for, and what opens it.

use thiserror::Error;
use trunkline_postgres::Address;
use trunkline_postgres::settings::{Names, Settings, SettingsError};
use zeroize::Zeroizing;

use super::Config;
use super::deployment_key::{self, DeploymentKeyError};
use crate::store::postgres::Options as PostgresOptions;
use crate::store::redb::Options as RedbOptions;

/// An engine, with all that opens it.
pub enum Engine {
    /// The embedded one, in the data directory.
    Redb(RedbOptions),
    /// A PostgreSQL server.
    Postgres(PostgresOptions),
}

/// Why it cannot be had: the operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    /// The deployment key.
    #[error(transparent)]
    DeploymentKey(#[from] DeploymentKeyError),
    /// The database's address, password or authorities.
    #[error(transparent)]
    Database(#[from] SettingsError),
}

/// Reads what the configuration names. Blocks while a command prints the deployment key.
///
/// # Errors
/// When something of it cannot be had.
pub fn read(config: &Config) -> Result<Engine, EngineError> {
    let key = deployment_key::read(config)?;
    if !Address::is_meant(&config.store) {
        return Ok(Engine::Redb(RedbOptions::new(&config.data_dir, key)));
    }
    Ok(Engine::Postgres(postgres(config, &config.store, key)?))
}

/// What opens the embedded store of a configuration, whichever engine it asks for.
///
/// # Errors
/// When the deployment key cannot be had.
pub fn embedded(config: &Config) -> Result<RedbOptions, EngineError> {
    Ok(RedbOptions::new(&config.data_dir, deployment_key::read(config)?))
}

/// What opens the store in a database, with the configuration's password and authorities, whichever engine it asks
/// for.
///
/// # Errors
/// When something of it cannot be had.
pub fn database(config: &Config, address: &str) -> Result<PostgresOptions, EngineError> {
    postgres(config, address, deployment_key::read(config)?)
}

fn postgres(
    config: &Config,
    address: &str,
    key: Zeroizing<[u8; 32]>,
) -> Result<PostgresOptions, EngineError> {
    let access = settings(config, address).access("trunkline-gateway")?;
    Ok(PostgresOptions::new(access, key).with_password_file(config.store_password_file.clone()))
}

/// A database, with the configuration's password and authorities.
pub(super) fn settings<'a>(config: &'a Config, address: &'a str) -> Settings<'a> {
    let names = Names { address: "store", password_file: "store_password_file", ca_file: "store_ca_file" };
    let (password_file, ca_file) = (config.store_password_file.as_deref(), config.store_ca_file.as_deref());
    Settings { names, address, password_file, ca_file }
}
