//! A deployment with its gateways: one, or several on one database.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use trunkline_common::config::{quoted, with_setting};
use trunkline_gateway::init::CONFIG_FILE;

use crate::error::LoadError;
use crate::gateway::{Addresses, Gateway};
use crate::messaging::MessagingServer;
use crate::procfs::Usage;
use crate::submit::Api;

/// What replicas have in common, in a gateway's directory. The rest is each one's own.
const SHARED: [&str; 6] =
    ["deployment.key", "identity", "networks", "admin.token", "admin.password", "database.password"];

/// All gateways of a deployment.
#[derive(Debug)]
pub(crate) struct Replicas {
    /// Its federation domain.
    pub domain: String,
    gateways: Vec<Gateway>,
}

impl Replicas {
    /// Of gateways of the same deployment, the first one made by `init`.
    pub(crate) fn of(gateways: Vec<Gateway>) -> Self {
        let domain = gateways.first().map(|gateway| gateway.domain.clone()).unwrap_or_default();
        Self { domain, gateways }
    }

    /// The one that operators ask.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn first(&self) -> Result<&Gateway, LoadError> {
        self.gateways.first().ok_or_else(|| LoadError::Usage(format!("{} has no gateway", self.domain)))
    }

    /// All of them.
    pub(crate) fn all(&mut self) -> &mut [Gateway] {
        &mut self.gateways
    }

    /// Starts all, and waits until all are ready.
    ///
    /// # Errors
    /// When one is not.
    pub(crate) async fn up(&mut self) -> Result<(), LoadError> {
        // One after the other: the first one makes what the others find.
        for gateway in &mut self.gateways {
            gateway.up().await?;
        }
        Ok(())
    }

    /// A messaging server whose connections are spread over all of them.
    ///
    /// # Errors
    /// When `init` left no token.
    pub(crate) fn messaging(&self) -> Result<MessagingServer, LoadError> {
        let token = self.first()?.api()?.token;
        let addresses = self.gateways.iter().map(|gateway| gateway.addresses.api).collect();
        Ok(MessagingServer::of(&self.domain, Api { addresses, token }))
    }

    /// What they used so far: time in all, memory of the largest.
    ///
    /// # Errors
    /// When one does not run.
    pub(crate) fn usage(&self) -> Result<Usage, LoadError> {
        self.gateways.iter().try_fold(Usage::default(), |sum, gateway| {
            let its = gateway.usage()?;
            let rss_peak_bytes = sum.rss_peak_bytes.max(its.rss_peak_bytes);
            Ok(Usage { cpu: sum.cpu + its.cpu, rss_peak_bytes })
        })
    }
}

/// Makes the directory `to` of another replica of the gateway in `from`.
///
/// # Errors
/// When it cannot be copied.
pub(crate) fn copy(from: &Path, to: &Path, addresses: &Addresses) -> Result<(), LoadError> {
    let copied = (|| {
        make_private(to)?;
        // Empty: what `init` left for the first start is there once.
        make_private(&to.join("data"))?;
        SHARED.iter().try_for_each(|name| copy_all(&from.join(name), &to.join(name)))?;
        let text = fs::read_to_string(from.join(CONFIG_FILE))?;
        fs::write(to.join(CONFIG_FILE), listening(&text, addresses))
    })();
    copied.map_err(LoadError::io(format!("making a replica in {}", to.display())))
}

/// Tells the gateway in `dir` where its deployment's other replicas reach it, and peers all of them.
///
/// # Errors
/// When its configuration cannot be written.
pub(crate) fn introduce(
    dir: &Path,
    internal: SocketAddr,
    advertised: &[SocketAddr],
) -> Result<(), LoadError> {
    let file = dir.join(CONFIG_FILE);
    let written =
        fs::read_to_string(&file).and_then(|text| fs::write(&file, introduced(text, internal, advertised)));
    written.map_err(LoadError::io(format!("writing {}", file.display())))
}

fn introduced(mut text: String, internal: SocketAddr, advertised: &[SocketAddr]) -> String {
    let list = advertised.iter().map(quoted).collect::<Vec<_>>().join(", ");
    text = with_setting(&text, "link", "advertise", &format!("[{list}]"));
    if !text.lines().any(|line| line == "[replica]") {
        text.push_str("\n[replica]\nlisten = \"\"\nadvertise = \"\"\n");
    }
    let internal = quoted(internal);
    text = with_setting(&text, "replica", "listen", &internal);
    with_setting(&text, "replica", "advertise", &internal)
}

fn listening(text: &str, addresses: &Addresses) -> String {
    let Addresses { federation, api, admin, .. } = addresses;
    [("link", federation), ("local_api", api), ("admin_api", admin)]
        .iter()
        .fold(text.to_owned(), |text, (section, address)| {
            with_setting(&text, section, "listen", &quoted(address))
        })
}

fn make_private(dir: &Path) -> std::io::Result<()> {
    fs::create_dir(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    make_private(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_all(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn a_replica_listens_elsewhere_and_says_the_same_to_peers() {
        let addresses =
            Addresses { federation: address(1), advertised: address(1), api: address(2), admin: address(3) };
        let text = "[link]\nlisten = \"x\"\nadvertise = []\n[local_api]\nlisten = \"x\"\n[admin_api]\nlisten = \"x\"\n";
        let text = introduced(listening(text, &addresses), address(9), &[address(1), address(7)]);
        assert_eq!(
            text,
            "[link]\nlisten = \"127.0.0.1:1\"\nadvertise = [\"127.0.0.1:1\", \"127.0.0.1:7\"]\n\
             [local_api]\nlisten = \"127.0.0.1:2\"\n[admin_api]\nlisten = \"127.0.0.1:3\"\n\
             \n[replica]\nlisten = \"127.0.0.1:9\"\nadvertise = \"127.0.0.1:9\"\n"
        );
    }

    #[test]
    fn a_section_that_is_there_is_filled_in() {
        let text = "[replica]\n# listen = \"0.0.0.0:8444\"\nadvertise = \"\"\n".to_owned();
        let text = introduced(text, address(9), &[]);
        assert_eq!(text, "[replica]\nlisten = \"127.0.0.1:9\"\nadvertise = \"127.0.0.1:9\"\n");
    }
}
