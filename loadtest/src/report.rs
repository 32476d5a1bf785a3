//! What a scenario prints: one JSON line, or a table of the same fields.

use std::io::Write;

use serde::Serialize;
use serde_json::Value;

use crate::error::LoadError;

/// Prints a report on standard output.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn print(report: &impl Serialize, json: bool) -> Result<(), LoadError> {
    let text = if json {
        // Fields in the order they are declared in, which a `Value` does not keep.
        serde_json::to_string(report).unwrap_or_default() + "\n"
    } else {
        table(&serde_json::to_value(report).unwrap_or_default())
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(LoadError::io("printing the result"))
}

/// One line a field, nested ones with their path.
fn table(value: &Value) -> String {
    let mut rows = Vec::new();
    flatten("", value, &mut rows);
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

fn flatten(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, rows);
            }
        }
        Value::String(text) => rows.push((path.to_owned(), text.clone())),
        Value::Null => rows.push((path.to_owned(), "-".to_owned())),
        other => rows.push((path.to_owned(), other.to_string())),
    }
}

/// Keeps a figure readable: three decimals.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Bytes as mebibytes.
pub(crate) fn mb(bytes: u64) -> f64 {
    round(bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_names_nested_fields_by_their_path() {
        let report = json!({ "lost": 0, "latency_ms": { "p50": 1.5, "p99": null } });
        assert_eq!(table(&report), "latency_ms.p50  1.5\nlatency_ms.p99  -\nlost            0\n");
    }
}
