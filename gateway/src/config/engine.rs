//! Which storage engine the configuration asks for, and what opens it.

use std::path::Path;

use thiserror::Error;
use trunkline_common::secret;
use trunkline_postgres::{Access, Address};
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
    /// The database's password.
    #[error("store_password_file: {0}")]
    Password(String),
    /// The database's authorities.
    #[error("store_ca_file: {0}")]
    Authorities(String),
    /// The database's address.
    #[error("store: {0}")]
    Address(String),
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
    let address: Address = address.parse().map_err(EngineError::Address)?;
    let password = config.store_password_file.as_deref().map(password).transpose()?;
    let authorities = config.store_ca_file.as_ref().map(std::fs::read).transpose();
    let authorities = authorities.map_err(|error| EngineError::Authorities(error.to_string()))?;
    let access = Access::new(address, "trunkline-gateway", password, authorities.as_deref());
    let options = PostgresOptions::new(access.map_err(EngineError::Authorities)?, key);
    Ok(options.with_password_file(config.store_password_file.clone()))
}

fn password(file: &Path) -> Result<Zeroizing<String>, EngineError> {
    let text = secret::read(file).map_err(|error| EngineError::Password(error.to_string()))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}
