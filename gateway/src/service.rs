//! The service unit of one gateway: the shipped one, with this gateway's own paths and user.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The unit's name in a gateway's directory.
pub const SERVICE_FILE: &str = "trunkline-gateway.service";

/// The shipped unit, for a gateway in `/var/lib/trunkline` that was installed as the manual says.
const SHIPPED: &str = include_str!("../../config/trunkline-gateway.service");

/// What it says of the user, and of itself.
const SHIPPED_USER: &str = "User=trunkline\nGroup=trunkline\n";
const SHIPPED_HEADING: &str =
    "# systemd unit of a Trunkline gateway in /var/lib/trunkline, as docs/OPERATIONS.md sets it up.\n";

/// What the hardening of the unit hides from a service: what lies below must be let in by name.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// The unit of the gateway in `dir`, whose files belong to whoever runs this.
///
/// # Errors
/// When the directory or this program cannot be looked at.
pub fn of_directory(dir: &Path) -> io::Result<String> {
    let program = std::env::current_exe()?;
    let user = user_name(dir.metadata()?.uid());
    Ok(unit(&program, &dir.canonicalize()?, &user))
}

fn unit(program: &Path, dir: &Path, user: &str) -> String {
    let file = dir.join(crate::init::CONFIG_FILE);
    let command = |end: &str| format!("{} run --config {}{end}", word(program, true), word(&file, true));
    let mut lines = Vec::new();
    for line in SHIPPED.replace(SHIPPED_HEADING, "").replace(SHIPPED_USER, &account(user)).lines() {
        lines.push(match line.split_once('=') {
            Some(("ExecStartPre", _)) => format!("ExecStartPre={}", command(" --check")),
            Some(("ExecStart", _)) => format!("ExecStart={}", command("")),
            Some(("ReadWritePaths", _)) => format!("ReadWritePaths={}", word(dir, false)),
            Some(("ProtectHome", _)) if below(dir, &HIDDEN[..3]) || below(program, &HIDDEN[..3]) => {
                // `yes` cannot be pierced; this hides as much, but for what is bound below.
                "ProtectHome=tmpfs".to_owned()
            }
            Some(("RestrictAddressFamilies", _)) => format!("{}{line}", bound(program, dir)),
            _ => line.to_owned(),
        });
    }
    format!(
        "# systemd unit of the Trunkline gateway in this directory, written by `init`.\n{}\n",
        lines.join("\n")
    )
}

/// Lines that let in what the hardening would hide.
fn bound(program: &Path, dir: &Path) -> String {
    let mut lines = String::new();
    if below(dir, &HIDDEN) {
        lines.push_str(&format!("BindPaths={}\n", word(dir, false)));
    }
    if below(program, &HIDDEN) {
        lines.push_str(&format!("BindReadOnlyPaths={}\n", word(program, false)));
    }
    lines
}

fn below(path: &Path, roots: &[&str]) -> bool {
    roots.iter().any(|root| path.starts_with(root))
}

/// A group of its own is what the manual makes; elsewhere the user's own group is right without being named.
fn account(user: &str) -> String {
    if user == "trunkline" { SHIPPED_USER.to_owned() } else { format!("User={user}\n") }
}

/// A path as systemd reads it back (systemd.syntax(7), systemd.service(5) for command lines): quoted where it must
/// be, specifiers and variables disarmed.
fn word(path: &Path, command: bool) -> String {
    let text = path.to_string_lossy();
    let mut quoted = String::with_capacity(text.len() + 2);
    let mut plain = true;
    for c in text.chars() {
        match c {
            '%' => quoted.push_str("%%"),
            '$' if command => quoted.push_str("$$"),
            '"' | '\\' => {
                plain = false;
                quoted.extend(['\\', c]);
            }
            c if c.is_control() => {
                plain = false;
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => {
                plain &= !c.is_whitespace() && c != '\'' && c != ';';
                quoted.push(c);
            }
        }
    }
    if plain { quoted } else { format!("\"{quoted}\"") }
}

/// The name of a user, or the number where it has none.
fn user_name(uid: u32) -> String {
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the shipped unit expects program and gateway.
    const SHIPPED_PROGRAM: &str = "/usr/local/bin/trunkline-gateway";
    const SHIPPED_DIR: &str = "/var/lib/trunkline";

    #[test]
    fn where_the_manual_installs_it_the_unit_is_the_shipped_one() {
        let made = unit(Path::new(SHIPPED_PROGRAM), Path::new(SHIPPED_DIR), "trunkline");
        let body = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(body(&made), body(SHIPPED));
    }

    #[test]
    fn elsewhere_paths_and_user_are_this_gateways_and_the_hardening_stays() {
        let made = unit(Path::new("/opt/t/trunkline-gateway"), Path::new("/srv/alpha"), "ann");
        for line in [
            "ExecStart=/opt/t/trunkline-gateway run --config /srv/alpha/gateway.toml",
            "ExecStartPre=/opt/t/trunkline-gateway run --config /srv/alpha/gateway.toml --check",
            "ReadWritePaths=/srv/alpha",
            "User=ann",
        ] {
            assert!(made.lines().any(|made| made == line), "{line} is not in {made}");
        }
        assert!(!made.contains(SHIPPED_DIR) && !made.contains("Group=") && !made.contains("Bind"), "{made}");
        let hardening = SHIPPED.lines().filter(|line| {
            ["No", "Private", "Protect", "Restrict", "System", "Limit"].iter().any(|p| line.starts_with(p))
        });
        for line in hardening {
            assert!(made.lines().any(|made| made == line), "{line} is not in {made}");
        }
    }

    #[test]
    fn what_the_hardening_hides_is_let_in_by_name() {
        let made =
            unit(Path::new("/home/ann/bin/trunkline-gateway"), Path::new("/home/ann/alpha.test"), "ann");
        for line in [
            "ProtectHome=tmpfs",
            "BindPaths=/home/ann/alpha.test",
            "BindReadOnlyPaths=/home/ann/bin/trunkline-gateway",
        ] {
            assert!(made.lines().any(|made| made == line), "{line} is not in {made}");
        }
    }

    #[test]
    fn no_path_changes_what_the_unit_says() {
        let word = |path: &str| word(Path::new(path), true);
        assert_eq!(word("/srv/a b"), "\"/srv/a b\"");
        assert_eq!(word("/srv/100%"), "/srv/100%%");
        assert_eq!(word("/srv/$HOME"), "/srv/$$HOME");
        assert_eq!(word("/srv/a\nUser=root"), "\"/srv/a\\u000aUser=root\"");
        assert_eq!(word("/srv/\"q\""), "\"/srv/\\\"q\\\"\"");
    }
}
