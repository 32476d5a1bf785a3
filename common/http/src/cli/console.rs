//! What the command line shows, asks and writes.

use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::CliError;

/// The user's end of the command line.
pub struct Console<'a> {
    /// Where answers to questions come from.
    pub input: &'a mut dyn BufRead,
    /// Whether somebody is there to answer.
    pub interactive: bool,
    /// For results.
    pub out: &'a mut dyn Write,
    /// Whether results go to a terminal, which can be written over.
    pub screen: bool,
    /// For questions, hints and errors.
    pub err: &'a mut dyn Write,
    /// Whether results are shown as JSON.
    pub json: bool,
}

impl std::fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("interactive", &self.interactive).field("json", &self.json).finish()
    }
}

impl Console<'_> {
    /// Shows a result. A reader that went away (`| head`) is no error.
    pub fn text(&mut self, text: &str) {
        let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        let _ = write!(self.out, "{text}{end}").and_then(|()| self.out.flush());
    }

    /// Shows a result as JSON.
    pub fn value(&mut self, value: &Value) {
        self.text(&format!("{value:#}"));
    }

    /// Shows `value` when JSON was asked for, else the text.
    pub fn show(&mut self, value: &Value, text: impl FnOnce() -> String) {
        if self.json { self.value(value) } else { self.text(&text()) }
    }

    /// Says something that is no result.
    pub fn hint(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }

    /// Says what went wrong, on one line.
    pub fn error(&mut self, text: &str) {
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(self.err, "error: {line}");
    }

    /// Asks for a value until the answer is one; an empty answer takes the default. Only where `interactive`.
    ///
    /// # Errors
    /// When nobody answers any more.
    pub fn ask<T>(
        &mut self,
        question: &str,
        explanation: &str,
        default: Option<&str>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, CliError> {
        let _ = writeln!(self.err, "{explanation}");
        let offered = default.map_or_else(String::new, |default| format!(" [{default}]"));
        loop {
            let _ = write!(self.err, "{question}{offered}: ").and_then(|()| self.err.flush());
            let mut answer = String::new();
            let read = self.input.read_line(&mut answer);
            if read.map_err(|error| CliError::failed(format!("stdin: {error}")))? == 0 {
                let _ = writeln!(self.err);
                return Err(CliError::Failed("the answers ended early: nothing was changed".into()));
            }
            let answer = match (answer.trim(), default) {
                ("", Some(default)) => default,
                ("", None) => {
                    let _ = writeln!(self.err, "  this one has no default");
                    continue;
                }
                (answer, _) => answer,
            };
            match parse(answer) {
                Ok(value) => return Ok(value),
                Err(reason) => {
                    let _ = writeln!(self.err, "  {reason}");
                }
            }
        }
    }

    /// Asks before something that cannot be undone.
    pub fn confirm(&mut self, yes: bool, question: &str) -> Result<(), CliError> {
        if yes {
            return Ok(());
        }
        if !self.interactive {
            return Err(CliError::Usage(format!("{question} Nobody is at a terminal to confirm: add --yes")));
        }
        let _ = write!(self.err, "{question} [y/N] ").and_then(|()| self.err.flush());
        let mut answer = String::new();
        self.input.read_line(&mut answer).map_err(|error| CliError::failed(format!("stdin: {error}")))?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(CliError::Failed("not confirmed: nothing was changed".into())),
        }
    }
}

/// Checks that a secret can be written to a file before it is made: one that cannot be kept is lost.
pub fn vacant(path: &Path) -> Result<(), CliError> {
    if path.exists() {
        return Err(CliError::Failed(format!(
            "{} exists: choose another name or remove it first",
            path.display()
        )));
    }
    // Only making it tells whether it can be made.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.and_then(|_| std::fs::remove_file(path))
        .map_err(|error| CliError::Failed(format!("cannot write {}: {error}", path.display())))
}

/// Writes a file that only its owner reads. One that is there is not overwritten.
pub fn write_secret(path: &Path, content: &str) -> Result<(), CliError> {
    let fails = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            CliError::Failed(format!("{} exists: choose another name or remove it first", path.display()))
        }
        _ => CliError::Failed(format!("cannot write {}: {error}", path.display())),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fails)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(fails)
}

/// Hands over a secret that is answered once: into a file, or on stdout alone so that a pipe can take it.
pub fn deliver_secret(
    console: &mut Console<'_>,
    file: Option<&Path>,
    mut answer: Value,
    field: &str,
) -> Result<(), CliError> {
    let secret = answer.get(field).and_then(Value::as_str).map(str::to_owned).unwrap_or_default();
    let Some(file) = file else {
        if !console.json {
            console.hint("keep it: it is not shown again");
        }
        console.show(&answer, || secret);
        return Ok(());
    };
    write_secret(file, &format!("{secret}\n"))?;
    if let Value::Object(map) = &mut answer {
        map.remove(field);
        map.insert("written".to_owned(), file.display().to_string().into());
    }
    console.show(&answer, || format!("written to {}", file.display()));
    Ok(())
}

/// Columns, aligned; nothing but the header says there is nothing.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(header.get(column).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(header)];
    lines.extend(rows.iter().map(|row| line(row.each_ref().map(String::as_str))));
    lines.join("\n")
}

/// `name: value` lines, aligned.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let line = |(name, value): &(&str, String)| format!("{:width$} {value}", format!("{name}:"));
    fields.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A duration in the largest unit that fits.
pub fn span(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Bytes in the largest unit that fits.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, size)| bytes >= *size);
    unit.map_or_else(
        || format!("{bytes}B"),
        |(unit, size)| format!("{}.{}{unit}", bytes / size, bytes % size * 10 / size),
    )
}

/// `-` for what is not there.
pub fn or_dash(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_carry_no_blanks_at_their_end() {
        let rows = [["a".to_owned(), "1".to_owned()], ["longer".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "N"], &rows), "NAME    N\na       1\nlonger");
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit() {
        assert_eq!([bytes(12), bytes(1536), bytes(3 << 30)], ["12B", "1.5KiB", "3.0GiB"]);
    }
}
