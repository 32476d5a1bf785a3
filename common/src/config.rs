//! Loading a configuration file, with errors that name file, line, field and what was expected.
//!
//! [`load`] gives the settings together with their [`Source`], which finds the line of a field again when a check
//! after parsing finds it wrong: `gateway.toml:12:10: `link.listen`: expected …`.

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Largest file that is read, in bytes. A configuration is a page or two: more is some other file.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Why a configuration cannot be used: always for the operator to mend.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the configuration: {error}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// Its text is not TOML, or not what the settings are made of.
    #[error("{place}{}{problem}", Named(field))]
    Invalid {
        /// Where.
        place: Place,
        /// The field's path, as in `link.listen`; empty where the text is not TOML.
        field: String,
        /// What was expected, or what is wrong.
        problem: String,
    },
}

/// A place in a file; prints as `file:line:column: `, as compilers do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which file, as it was given.
    pub file: PathBuf,
    /// Line and column, counted from 1; the column in characters. `None` for what stands nowhere in the file.
    pub at: Option<(usize, usize)>,
}

/// The text that settings came from.
#[derive(Clone, Debug)]
pub struct Source {
    file: PathBuf,
    text: String,
}

/// Reads settings from a TOML file.
///
/// # Errors
/// [`ConfigError`] when the file cannot be read, is no TOML, or has fields that `T` does not take.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<(T, Source), ConfigError> {
    let unreadable = |error| ConfigError::Unreadable { path: path.to_owned(), error };
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > CONFIG_BYTES_MAX {
        let error = format!("it has {bytes} bytes: expected a TOML file of at most {CONFIG_BYTES_MAX}");
        return Err(unreadable(io::Error::other(error)));
    }
    parse(path, fs::read_to_string(path).map_err(unreadable)?)
}

/// Reads settings from TOML text that came from `file`.
///
/// # Errors
/// [`ConfigError::Invalid`] when the text is no TOML, or has fields that `T` does not take.
pub fn parse<T: DeserializeOwned>(file: &Path, text: String) -> Result<(T, Source), ConfigError> {
    let source = Source { file: file.to_owned(), text };
    match toml::from_str(&source.text) {
        Ok(settings) => Ok((settings, source)),
        Err(error) => Err(source.explain(&error)),
    }
}

/// A TOML basic string. What an operator typed may hold a quote, which a check of the whole then sees.
#[must_use]
pub fn quoted(text: impl fmt::Display) -> String {
    format!("\"{}\"", text.to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

/// A configuration with one setting's line replaced; comments and everything else stay. `section` is empty for what
/// stands before the first; `value` is TOML. A setting that is commented out is set.
#[must_use]
pub fn with_setting(text: &str, section: &str, key: &str, value: &str) -> String {
    let mut here = "";
    let mut lines = String::with_capacity(text.len());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            here = name;
        }
        let found = here == section
            && line.trim_start_matches("# ").split_once('=').is_some_and(|(name, _)| name.trim_end() == key);
        if found {
            lines.push_str(&format!("{key} = {value}"));
        } else {
            lines.push_str(line);
        }
        lines.push('\n');
    }
    lines
}

impl Source {
    /// Which file it is, as it was given.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where a field such as `link.listen` or `networks[1].id` stands; when it is not there, the table that it is
    /// missing from.
    #[must_use]
    pub fn place(&self, field: &str) -> Place {
        let offset = self.root().and_then(|root| find(root.get_ref(), field)).map(|span| span.start);
        self.place_at(offset)
    }

    /// Says that a field, found wrong after parsing, is not what was expected: `problem` goes on from
    /// `` `field`: ``, for example with "expected a port above 0".
    #[must_use]
    pub fn error(&self, field: &str, problem: impl fmt::Display) -> ConfigError {
        ConfigError::Invalid {
            place: self.place(field),
            field: field.to_owned(),
            problem: one_line(&problem.to_string()),
        }
    }

    /// Puts the parser's error into our words.
    fn explain(&self, error: &toml::de::Error) -> ConfigError {
        let span = error.span();
        let mut field = String::new();
        let mut offset = span.as_ref().map(|span| span.start);
        if let (Some(root), Some(span)) = (self.root(), &span) {
            // The whole file has a span like any table's, which may lie within that of its first table.
            if root.span() != *span {
                field = deepest(root.get_ref(), span);
            }
            if let Some(missing) = missing_field(error.message()) {
                // The whole file is no place to look at.
                offset = offset.filter(|_| !field.is_empty());
                field = join(&field, missing);
            }
        }
        ConfigError::Invalid { place: self.place_at(offset), field, problem: one_line(error.message()) }
    }

    /// The file's tables and where they stand; `None` when it is no TOML.
    fn root(&self) -> Option<Spanned<DeTable<'_>>> {
        DeTable::parse(&self.text).ok()
    }

    fn place_at(&self, offset: Option<usize>) -> Place {
        let before = offset.and_then(|offset| self.text.get(..offset));
        let at = before.map(|before| {
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
            (before.matches('\n').count() + 1, column)
        });
        Place { file: self.file.clone(), at }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.at {
            write!(f, "{line}:{column}:")?;
        }
        f.write_str(" ")
    }
}

/// Prints a field's path and a colon, when there is one.
struct Named<'a>(&'a str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "`{}`: ", self.0) }
    }
}

/// The span of the key that `field` names, or of the last table on the way to it.
fn find(root: &DeTable<'_>, field: &str) -> Option<Range<usize>> {
    let mut found = None;
    let mut table = root;
    for part in field.split('.') {
        let (name, index) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((name, index)) => (name, index.parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == name) else { break };
        found = Some(key.span());
        let mut value = value;
        if let (Some(index), DeValue::Array(items)) = (index, value.get_ref()) {
            let Some(item) = items.get(index) else { break };
            found = Some(item.span());
            value = item;
        }
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    found
}

/// The path of the innermost field that an error at `span` is about; empty for the whole file.
fn deepest(root: &DeTable<'_>, span: &Range<usize>) -> String {
    let mut best = String::new();
    let mut open = vec![(String::new(), root)];
    while let Some((path, table)) = open.pop() {
        for (key, value) in table {
            let path = join(&path, key.get_ref());
            let mut items = vec![(path.clone(), value)];
            if let DeValue::Array(array) = value.get_ref() {
                let item = |(index, item)| (format!("{path}[{index}]"), item);
                items.extend(array.iter().enumerate().map(item));
            }
            let at_key = covers(&key.span(), span);
            for (path, value) in items {
                let deeper = path.len() > best.len();
                if deeper && (at_key && !path.ends_with(']') || covers(&value.span(), span)) {
                    best.clone_from(&path);
                }
                if let DeValue::Table(inner) = value.get_ref() {
                    open.push((path, inner));
                }
            }
        }
    }
    best
}

fn covers(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// An error is one line, whatever a library puts into it.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        domain: String,
        #[serde(default)]
        link: Link,
        #[serde(default)]
        networks: Vec<Network>,
        #[serde(default)]
        extra: BTreeMap<String, u8>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Link {
        listen: Option<SocketAddr>,
        credit: u32,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Network {
        id: String,
    }

    const GOOD: &str = "# a comment\ndomain = \"alpha.test\"\n\n[link]\nlisten = \"127.0.0.1:0\"\n\n[[networks]]\nid = \"staff\"\n\n[[networks]]\nid = \"guests\"\n";

    fn settings(text: &str) -> Result<(Settings, Source), ConfigError> {
        parse(Path::new("gateway.toml"), text.to_owned())
    }

    fn message(text: &str) -> String {
        settings(text).unwrap_err().to_string()
    }

    #[test]
    fn good_settings_are_read() {
        let (settings, source) = settings(GOOD).unwrap();
        assert_eq!(settings.domain, "alpha.test");
        assert_eq!(settings.link.listen.unwrap().port(), 0);
        assert_eq!(settings.link.credit, 0);
        assert_eq!(settings.networks[1].id, "guests");
        assert!(settings.extra.is_empty());
        assert_eq!(source.file(), Path::new("gateway.toml"));
    }

    #[test]
    fn a_wrong_type_names_line_column_field_and_what_was_expected() {
        assert_eq!(
            message("domain = \"a.test\"\n[link]\ncredit = \"many\"\n"),
            "gateway.toml:3:10: `link.credit`: invalid type: string \"many\", expected u32"
        );
        assert_eq!(
            message("domain = \"a.test\"\nlink = { credit = -1 }\n"),
            "gateway.toml:2:19: `link.credit`: invalid value: integer `-1`, expected u32"
        );
    }

    #[test]
    fn a_value_that_does_not_parse_names_its_field() {
        let message = message("domain = \"a.test\"\nlink.listen = \"here\"\n");
        assert!(message.starts_with("gateway.toml:2:15: `link.listen`: invalid socket address"), "{message}");
    }

    #[test]
    fn an_unknown_field_is_named_with_those_there_are() {
        assert_eq!(
            message("domain = \"a.test\"\n[link]\nlisten = \"127.0.0.1:0\"\nlisten_on = 1\n"),
            "gateway.toml:4:1: `link.listen_on`: unknown field `listen_on`, expected `listen` or `credit`"
        );
        assert_eq!(
            message("domain = \"a.test\"\n[lnk]\ncredit = 1\n"),
            "gateway.toml:2:2: `lnk`: unknown field `lnk`, expected one of `domain`, `link`, `networks`, `extra`"
        );
    }

    #[test]
    fn a_missing_field_is_named_with_its_table() {
        assert_eq!(message("[link]\ncredit = 1\n"), "gateway.toml: `domain`: missing field `domain`");
        assert_eq!(
            message("domain = \"a.test\"\n[[networks]]\nid = \"a\"\n[[networks]]\n"),
            "gateway.toml:4:1: `networks[1].id`: missing field `id`"
        );
    }

    #[test]
    fn text_that_is_no_toml_names_the_line_in_one_line() {
        let message = message("domain = \"a.test\"\nlink = [\n");
        assert!(message.starts_with("gateway.toml:"), "{message}");
        assert!(!message.contains('\n'), "{message}");
        let message = self::message("domain = a.test\n");
        assert!(message.starts_with("gateway.toml:1:10: "), "{message}");
    }

    #[test]
    fn a_field_given_twice_is_an_error_at_the_second() {
        let message = message("domain = \"a.test\"\ndomain = \"b.test\"\n");
        assert!(message.starts_with("gateway.toml:2:1: "), "{message}");
    }

    #[test]
    fn a_check_after_parsing_finds_the_line_of_its_field() {
        let (_, source) = settings(GOOD).unwrap();
        assert_eq!(
            source.error("link.listen", "expected a port above 0").to_string(),
            "gateway.toml:5:1: `link.listen`: expected a port above 0"
        );
        assert_eq!(source.place("networks[1].id").at, Some((11, 1)));
        assert_eq!(source.place("networks[1]").at, Some((10, 1)));
    }

    #[test]
    fn a_field_left_at_its_default_is_found_at_its_table_or_nowhere() {
        let (_, source) = settings(GOOD).unwrap();
        assert_eq!(source.place("link.credit").at, Some((4, 2)));
        assert_eq!(
            source.error("store.path", "expected a directory").to_string(),
            "gateway.toml: `store.path`: expected a directory"
        );
    }

    #[test]
    fn columns_count_characters() {
        let message = message("domain = \"ä\"\nlink = { \"ö\" = 1 }\n");
        assert!(message.starts_with("gateway.toml:2:10: `link.ö`: unknown field"), "{message}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = load::<Settings>(Path::new("no/such/gateway.toml")).unwrap_err();
        assert!(error.to_string().starts_with("no/such/gateway.toml: cannot read the configuration: "));
        let error = load::<Settings>(Path::new("/")).unwrap_err();
        assert!(matches!(error, ConfigError::Unreadable { .. }));
    }
}
