//! `settings`: what is changed while the gateway runs.

use clap::Subcommand;
use serde_json::{Map, Value};

use super::{Api, CliError, Console, console};

/// Where they are.
const PATH: &str = "/admin/v1/settings";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// All settings, with what the configuration file says
    Show,
    /// Change one: it takes effect at once and outlives a restart
    Set {
        /// Its name, as `settings show` lists it
        name: String,
        /// true or false, seconds, or a log detail
        value: String,
    },
    /// Take one back to what the configuration file says
    Unset {
        /// Its name
        name: String,
    },
}

pub(super) async fn call(verb: Verb, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    let answer = match verb {
        Verb::Show => api.get(PATH).await?,
        Verb::Set { name, value } => api.put(PATH, &change(name, parse(&value))).await?,
        Verb::Unset { name } => api.put(PATH, &change(name, Value::Null)).await?,
    };
    out.show(&answer, || {
        let rows: Vec<_> = answer.as_object().into_iter().flatten().map(row).collect();
        console::table(["SETTING", "VALUE", "CONFIGURED", "CHANGED"], &rows)
    });
    Ok(())
}

fn change(name: String, value: Value) -> Value {
    Value::Object(Map::from_iter([(name, value)]))
}

/// Truth and numbers as such, anything else as text: the gateway says what it expected.
fn parse(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from),
    }
}

fn row((name, setting): (&String, &Value)) -> [String; 4] {
    let text = |field: &str| match setting.get(field) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let changed = setting.get("overridden").and_then(Value::as_bool).unwrap_or(false);
    [name.clone(), text("value"), text("configured"), if changed { "yes" } else { "no" }.to_owned()]
}
