//! A network of a test's own: a namespace that has nothing but loopback, in which packets can be dropped as a firewall
//! would. A test starts itself again in there; everything it starts (gateways, relays, browsers) is in there with it.

use std::env;
use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// Says to a test that it has started itself again.
const INSIDE: &str = "TRUNKLINE_TEST_SECLUDED";

/// Runs `body` in a namespace of its own. `test` is the test's whole name, as the test runner knows it.
///
/// # Panics
/// When the test fails in there, or `unshare` or `ip` are missing.
pub fn run<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F) {
    if env::var_os(INSIDE).is_none() {
        // Who is not root becomes it in a namespace of users as well.
        let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        let flags: &[&str] = if root { &["--net"] } else { &["--user", "--map-root-user", "--net"] };
        let status = Command::new("unshare")
            .args(flags)
            .arg(env::current_exe().expect("this program"))
            .args([test, "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .expect("unshare, of util-linux");
        assert!(status.success(), "{test} failed in its own network: {status}");
        return;
    }
    shell("ip", "link set lo up");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(body());
}

/// A firewall in front of everything in the namespace.
#[derive(Debug)]
pub struct Firewall;

impl Firewall {
    /// One that lets everything through.
    ///
    /// # Panics
    /// When `nft` is missing.
    #[must_use]
    pub fn open() -> Self {
        shell("nft", "add table inet test");
        shell("nft", "add chain inet test input { type filter hook input priority 0; }");
        Self
    }

    /// Drops what matches, from now on, such as `udp dport 16384-19999`.
    ///
    /// # Panics
    /// When that is no rule.
    pub fn drop(&self, what: &str) {
        shell("nft", &format!("add rule inet test input {what} counter drop"));
    }

    /// Drops connectivity checks that are sent over TCP in clear, as networks that only let TLS through do: the magic
    /// cookie of STUN behind the length and the header's first four bytes. A TCP header with timestamps has 32 bytes.
    ///
    /// # Panics
    /// When `nft` is missing.
    pub fn drop_clear_checks_over_tcp(&self, port: u16) {
        self.drop(&format!("tcp dport {port} @th,304,32 0x2112a442"));
    }

    /// Lets everything through again.
    ///
    /// # Panics
    /// When `nft` is missing.
    pub fn lift(&self) {
        shell("nft", "flush chain inet test input");
    }

    /// Packets dropped so far.
    ///
    /// # Panics
    /// When `nft` is missing.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let rules = shell("nft", "list chain inet test input");
        let counts = rules.split("counter packets ").skip(1);
        counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum()
    }
}

/// Runs a command, its arguments parted by spaces, and gives what it said.
fn shell(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.expect("iproute2 and nftables are installed");
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
