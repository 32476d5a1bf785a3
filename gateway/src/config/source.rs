//! Finding the line and the field that an error is about.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Line of a byte position, counted from 1.
pub(super) fn line_at(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|byte| *byte == b'\n').count() + 1
}

/// Line where a dotted field is set; when it is not, where the section that lacks it begins.
pub(super) fn line_of(text: &str, field: &str) -> usize {
    let Ok(table) = DeTable::parse(text) else { return 1 };
    let mut table = table.get_ref();
    let mut position = 0;
    for name in field.split('.') {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref().as_ref() == name) else { break };
        position = key.span().start;
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    line_at(text, position)
}

/// The dotted field whose value, or whose key, stands at a byte position.
pub(super) fn field_at(text: &str, position: usize) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let mut path = Vec::new();
    descend(table.get_ref(), position, &mut path);
    (!path.is_empty()).then(|| path.join("."))
}

fn descend(table: &DeTable<'_>, position: usize, path: &mut Vec<String>) {
    let covers = |span: std::ops::Range<usize>| span.contains(&position);
    for (key, value) in table {
        if covers(key.span()) || covers(value.span()) || inside(value, position) {
            path.push(key.get_ref().to_string());
            if let DeValue::Table(inner) = value.get_ref() {
                descend(inner, position, path);
            }
            return;
        }
    }
}

/// A `[section]` spans only its header, so its entries are looked at too.
fn inside(value: &Spanned<DeValue<'_>>, position: usize) -> bool {
    match value.get_ref() {
        DeValue::Table(table) => table.iter().any(|(key, value)| {
            key.span().contains(&position) || value.span().contains(&position) || inside(value, position)
        }),
        _ => false,
    }
}
