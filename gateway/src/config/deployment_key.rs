//! The deployment key: 32 random bytes that wrap every key of the store, from a file or from a command.

use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use trunkline_common::secret::{self, SecretError};
use trunkline_common::token;
use zeroize::Zeroizing;

use super::Config;

/// Why the deployment key cannot be had: the operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeploymentKeyError {
    /// The file cannot be read.
    #[error(
        "deployment_key_file: cannot read {file} ({reason}): restore it, the store cannot be read without it"
    )]
    File {
        /// Which.
        file: String,
        /// Why.
        reason: String,
    },
    /// Others than its owner may read the file.
    #[error("deployment_key_file: others may read {file}: run `chmod 600 {file}`")]
    Mode {
        /// Which.
        file: String,
    },
    /// The command could not be run, or failed.
    #[error("deployment_key_command: `{program}` {reason}")]
    Command {
        /// What was run.
        program: String,
        /// What happened.
        reason: String,
    },
    /// It is something else.
    #[error("{source_name}: expected the base64 of 32 bytes, as `init` made it")]
    Content {
        /// The setting it came from.
        source_name: &'static str,
    },
}

/// A new key, as the text that rests in a file.
#[must_use]
pub fn generate() -> Zeroizing<String> {
    let key = Zeroizing::new(token::random::<32>());
    Zeroizing::new(STANDARD.encode(&key[..]))
}

/// Reads the key from where the configuration says it is. Blocks while a command runs.
///
/// # Errors
/// When it cannot be had.
pub fn read(config: &Config) -> Result<Zeroizing<[u8; 32]>, DeploymentKeyError> {
    let (text, source_name) = match (&config.deployment_key_command, &config.deployment_key_file) {
        (Some(command), _) => (from_command(command)?, "deployment_key_command"),
        (None, Some(file)) => (from_file(file)?, "deployment_key_file"),
        (None, None) => return Err(DeploymentKeyError::Content { source_name: "deployment_key_file" }),
    };
    let decoded = STANDARD.decode(text.trim()).map(Zeroizing::new);
    let decoded = decoded.map_err(|_| DeploymentKeyError::Content { source_name })?;
    let key = <[u8; 32]>::try_from(decoded.as_slice());
    key.map(Zeroizing::new).map_err(|_| DeploymentKeyError::Content { source_name })
}

fn from_file(file: &std::path::Path) -> Result<Zeroizing<String>, DeploymentKeyError> {
    let name = file.display().to_string();
    secret::read(file).map_err(|error| match error {
        SecretError::Read { source, .. } => {
            DeploymentKeyError::File { file: name, reason: source.to_string() }
        }
        SecretError::Mode { .. } => DeploymentKeyError::Mode { file: name },
    })
}

fn from_command(command: &[String]) -> Result<Zeroizing<String>, DeploymentKeyError> {
    let program = command.first().cloned().unwrap_or_default();
    let fails = |reason: String| DeploymentKeyError::Command { program: program.clone(), reason };
    let output = Command::new(&program)
        .args(command.iter().skip(1))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| fails(format!("cannot be run: {error}")))?;
    let text = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(fails(format!("failed ({}): its own message stands above", output.status)));
    }
    String::from_utf8(text.to_vec())
        .map(Zeroizing::new)
        .map_err(|_| DeploymentKeyError::Content { source_name: "deployment_key_command" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(key: &str) -> Config {
        Config::parse("test", &format!("domain = \"a.test\"\n{key}\n")).unwrap()
    }

    #[test]
    fn the_key_is_read_from_what_a_command_prints() {
        let text = generate();
        let config = config(&format!("deployment_key_command = [\"echo\", \"{}\"]", text.as_str()));
        assert_eq!(STANDARD.encode(read(&config).unwrap().as_slice()), *text);
    }

    #[test]
    fn a_command_that_fails_is_named() {
        let error = read(&config("deployment_key_command = [\"false\"]")).unwrap_err().to_string();
        assert!(error.starts_with("deployment_key_command: `false` failed"), "{error}");
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deployment.key");
        std::fs::write(&file, generate().as_bytes()).unwrap();
        let config = config(&format!("deployment_key_file = \"{}\"", file.display()));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read(&config), Err(DeploymentKeyError::Mode { .. })));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read(&config).is_ok());
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        let error = read(&config("deployment_key_command = [\"echo\", \"c2hvcnQ=\"]")).unwrap_err();
        assert_eq!(error, DeploymentKeyError::Content { source_name: "deployment_key_command" });
    }
}
