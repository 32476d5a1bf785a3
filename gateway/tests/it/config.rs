//! The example configuration is complete, and says what the program does without it.

use std::collections::BTreeSet;

use serde_json::Value;
use trunkline_gateway::config::{Config, EXAMPLE, RelayConfig};

/// Every setting's dotted name in the example, whether it is set or commented out.
fn settings_of(text: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        }
        // A list that is empty unless there is something to list: its blocks are commented out as a whole.
        if let Some(name) = line.strip_prefix("# [[").and_then(|rest| rest.strip_suffix("]]")) {
            section = format!("{name}[0].");
        }
        let setting = line.strip_prefix("# ").unwrap_or(line).split_once(" = ");
        let name = setting
            .map(|(name, _)| name)
            .filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
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
        Value::Array(items) if items.first().is_some_and(Value::is_object) => {
            names_of(&items[0], &format!("{path}[0]"), names);
        }
        _ => {
            names.insert(path.trim_start_matches('.').to_owned());
        }
    }
}

#[test]
fn the_example_parses_and_every_value_in_it_is_the_default() {
    let example = Config::parse("config/gateway.toml", EXAMPLE).unwrap();
    assert_eq!(example, Config::defaults(example.domain.clone()));
}

#[test]
fn every_setting_is_in_the_example_and_the_example_has_no_other() {
    let mut defaults = Config::defaults("alpha.test".parse().unwrap());
    defaults.relays.push(RelayConfig {
        name: "relay-1".into(),
        url: "http://127.0.0.1:8444".into(),
        admin_token_file: "relay-1.token".into(),
        ca_file: None,
    });
    let mut names = BTreeSet::new();
    names_of(&serde_json::to_value(&defaults).unwrap(), "", &mut names);
    assert_eq!(settings_of(EXAMPLE), names);
}

#[test]
fn what_is_commented_out_in_the_example_is_valid_when_it_is_not() {
    let own_key = |line: &str| line.starts_with("deployment_key_file");
    let uncomment = |line: &str| {
        let is_setting = |rest: &&str| rest.contains(" = ") || rest.starts_with("[[");
        let setting = line.strip_prefix("# ").filter(is_setting);
        setting.unwrap_or(line).to_owned()
    };
    let text: Vec<_> = EXAMPLE.lines().filter(|line| !own_key(line)).map(uncomment).collect();
    let config = Config::parse("config/gateway.toml", &text.join("\n")).unwrap();
    assert!(config.deployment_key_command.is_some() && config.admin_api.tls_key.is_some());
    assert_eq!((config.relays[0].name.as_str(), config.relays.len()), ("relay-1", 1));
}

#[test]
fn a_configuration_without_anything_but_a_domain_is_the_defaults() {
    let config = Config::parse("gateway.toml", "domain = \"alpha.test\"\n").unwrap();
    assert_eq!(config, Config::defaults(config.domain.clone()));
}
