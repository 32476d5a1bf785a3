//! What a configuration may say, and what is said about one that is wrong.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn problem(text: &str) -> String {
    Config::parse("relay.toml", text).unwrap_err().to_string()
}

/// Every setting's dotted name in the example, whether it is set or commented out.
fn settings_of(text: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        }
        let setting = line.strip_prefix("# ").unwrap_or(line).split_once(" = ");
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let name = setting.map(|(name, _)| name).filter(|name| !name.is_empty() && name.bytes().all(plain));
        names.extend(name.map(|name| format!("{section}{name}")));
    }
    names
}

/// Every setting's dotted name in a configuration.
fn names_of(value: &Value, path: &str, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                names_of(value, &format!("{path}.{name}"), names);
            }
        }
        _ => {
            names.insert(path.trim_start_matches('.').to_owned());
        }
    }
}

#[test]
fn the_example_parses_and_every_value_in_it_is_the_default() {
    let example = Config::parse("config/relay.toml", EXAMPLE).unwrap();
    assert_eq!(example, Config::defaults(example.node));
}

#[test]
fn every_setting_is_in_the_example_and_the_example_has_no_other() {
    let mut names = BTreeSet::new();
    names_of(&serde_json::to_value(Config::defaults(1)).unwrap(), "", &mut names);
    assert_eq!(settings_of(EXAMPLE), names);
}

#[test]
fn what_is_commented_out_in_the_example_is_valid_when_it_is_not() {
    let uncomment = |line: &str| {
        let setting = line.strip_prefix("# ").filter(|rest| rest.contains(" = "));
        setting.unwrap_or(line).to_owned()
    };
    let text: Vec<_> = EXAMPLE.lines().map(uncomment).collect();
    let config = Config::parse("config/relay.toml", &text.join("\n")).unwrap();
    assert!(config.records.directory.is_some() && config.api.tls_key.is_some());
    assert!(config.tokens.issuer.is_some() && config.tokens.audience.is_some());
}

#[test]
fn a_configuration_without_anything_but_a_node_is_the_defaults() {
    assert_eq!(Config::parse("relay.toml", "node = 7\n").unwrap(), Config::defaults(7));
}

#[test]
fn what_is_wrong_is_named_with_line_and_field() {
    for (text, expected) in [
        ("[api]\nlisten = \"127.0.0.1:1\"\n", "relay.toml: `node`: missing field `node`"),
        ("node = 70000\n", "relay.toml:1:8: `node`: invalid value"),
        (
            "node = 1\n[media]\nudp_ports = \"9-1\"\n",
            "relay.toml:3:13: `media.udp_ports`: expected two ports",
        ),
        (
            "node = 1\n[media]\nudp_ports = \"0-1\"\n",
            "relay.toml:3:13: `media.udp_ports`: expected two ports",
        ),
        ("node = 1\n[media]\nlisten = [\"0.0.0.0\"]\n", "relay.toml:3:1: `media.listen`: expected addresses"),
        ("node = 1\n[media]\nlisten = [\"here\"]\n", "relay.toml:3:11: `media.listen"),
        ("node = 1\n[media]\nworkers = 256\n", "relay.toml:3:1: `media.workers`: expected 0"),
        ("node = 1\n[media]\ncodecs = []\n", "relay.toml:3:1: `media.codecs`: expected at least one"),
        (
            "node = 1\n[media]\ncodecs = [\"VP8\", \"VP8\"]\n",
            "relay.toml:3:1: `media.codecs`: expected at least",
        ),
        ("node = 1\n[media]\ncodecs = [\"MP3\"]\n", "relay.toml:3:11: `media.codecs"),
        ("node = 1\n[media]\nudp_port = 1\n", "relay.toml:3:1: `media.udp_port`: unknown field"),
        ("node = 1\n[api]\ntls_key = \"k\"\n", "relay.toml:3:1: `api.tls_key`: expected api.tls_certificate"),
        ("node = 1\n[api]\norigins = [\"a.test\"]\n", "relay.toml:3:11: `api.origins`: expected an origin"),
        ("node = 1\n[tokens]\nissuer = \"\"\n", "relay.toml:3:1: `tokens.issuer`: expected a text"),
        (
            "node = 1\n[ingress]\nlisten = \"10.0.0.3:8446\"\n",
            "relay.toml:2:2: `ingress.from`: expected at least one address",
        ),
        ("node = 1\n[ingress]\nfrom = [\"::\"]\n", "relay.toml:3:1: `ingress.from`: expected addresses"),
        ("node = 1\n[ingress]\nudp_port = 0\n", "relay.toml:3:1: `ingress.udp_port`: expected a port"),
        ("node = 1\n[limits]\ncalls_max = 0\n", "relay.toml:3:1: `limits.calls_max`: expected 1 to 65535"),
        ("node = 1\n[limits]\njoins_per_s = 0\n", "relay.toml:3:15: `limits.joins_per_s`: invalid value"),
        (
            "node = 1\n[limits]\nconference_participants_max = 501\n",
            "relay.toml:3:1: `limits.conference_participants_max`: expected 1 to 500, found 501",
        ),
        (
            "node = 1\n[calls]\nempty_timeout = \"soon\"\n",
            "relay.toml:3:17: `calls.empty_timeout`: expected a",
        ),
        (
            "node = 1\n[calls]\nempty_timeout = \"8d\"\n",
            "relay.toml:3:1: `calls.empty_timeout`: expected \"1s\"",
        ),
        ("node = 1\n[records]\nprefix = \"../x\"\n", "relay.toml:3:1: `records.prefix`: expected 1 to 64"),
        ("node = 1\n[records]\nsize_max = 1\n", "relay.toml:3:1: `records.size_max`: expected \"1KiB\""),
        ("node = 1\n[log]\nfilter = \"a=b=c\"\n", "relay.toml:3:1: `log.filter`: "),
    ] {
        let said = problem(text);
        assert!(said.starts_with(expected), "{text}\n{said}");
    }
}

#[test]
fn who_names_public_keys_alone_needs_no_secret() {
    let text = "node = 1\n[tokens]\neddsa_public_keys = [\"issuer.pem\"]\n";
    assert_eq!(Config::parse("relay.toml", text).unwrap().tokens.hs256_secret_file, None);
}

#[test]
fn relative_paths_count_from_the_files_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("relay.toml");
    std::fs::write(&file, "node = 1\n[records]\ndirectory = \"/var/log/calls\"\n").unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.api.admin_token_file, dir.path().join("admin.token"));
    assert_eq!(config.tokens.hs256_secret_file, Some(dir.path().join("tokens.secret")));
    assert_eq!(config.records.directory.as_deref(), Some(Path::new("/var/log/calls")));
}

#[test]
fn the_manuals_node_behind_an_ingress_is_a_valid_one() {
    let manual = include_str!("../../../docs/OPERATIONS.md");
    let (_, rest) = manual.split_once("```toml\nnode = 2\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let config = Config::parse("relay.toml", &format!("node = 2\n{text}")).unwrap();
    assert_eq!(config.turn_url().as_deref(), Some("turns:relay.alpha.test:443?transport=tcp"));
}
