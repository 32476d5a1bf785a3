//! Structured logs on standard error.
//!
//! What our own code logs, it has redacted ([`crate::redact`]). Libraries print network addresses as they please:
//! from them only errors are let through, unless the operator raised the detail to [`Detail::Ip`].

use std::env;
use std::io::{self, IsTerminal};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::subscriber::SetGlobalDefaultError;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, dynamic_filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, reload};

use crate::redact::{self, Detail};

/// The environment variable that takes the place of [`Settings::filter`].
pub const FILTER_VARIABLE: &str = "TRUNKLINE_LOG";

/// How our own crates' names begin.
const OWN_TARGETS: &str = "trunkline";

/// The `[log]` table of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is logged: a level for our own code (`info`), or a list of `target=level`.
    pub filter: String,
    /// How a line looks.
    pub format: Format,
    /// How much a line may say about people.
    pub detail: Detail,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people. In colour on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging cannot be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error(
        "`{filter}` in {origin} is no log filter: expected a level (error, warn, info, debug, trace) or a list of target=level: {reason}"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// Where: `log.filter`, or the environment variable.
        origin: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The process logs already.
    #[error("logging is set up already: set it up once per process")]
    Twice(#[from] SetGlobalDefaultError),
}

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: Format::default(), detail: Detail::default() }
    }
}

/// Logs to standard error from here on. [`FILTER_VARIABLE`] takes the place of the filter in `settings`.
///
/// # Errors
/// When the filter is none, or the process logs already.
pub fn init(settings: &Settings) -> Result<Telemetry, TelemetryError> {
    let from_environment = env::var(FILTER_VARIABLE).ok();
    let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (subscriber, telemetry) = build(settings, from_environment.as_deref(), io::stderr, colours)?;
    tracing::subscriber::set_global_default(subscriber)?;
    redact::set_detail(settings.detail);
    Ok(telemetry)
}

/// Checks a filter without setting anything up, for `--check`.
///
/// # Errors
/// [`TelemetryError::Filter`] when it is none.
pub fn check(settings: &Settings) -> Result<(), TelemetryError> {
    filter(settings, None).map(drop)
}

impl Telemetry {
    /// Takes over filter and detail from settings that were read again. The format stays: it is the whole process's
    /// from its start.
    ///
    /// # Errors
    /// When the filter is none; everything stays as it was then.
    pub fn apply(&self, settings: &Settings) -> Result<(), TelemetryError> {
        self.replace(settings, env::var(FILTER_VARIABLE).ok().as_deref())
    }

    fn replace(&self, settings: &Settings, from_environment: Option<&str>) -> Result<(), TelemetryError> {
        let filter = filter(settings, from_environment)?;
        redact::set_detail(settings.detail);
        // It only fails when the subscriber is gone, and with it all that could be filtered.
        let _ = self.filter.reload(filter);
        Ok(())
    }
}

fn build<W>(
    settings: &Settings,
    from_environment: Option<&str>,
    writer: W,
    colours: bool,
) -> Result<(impl Subscriber + Send + Sync + use<W>, Telemetry), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(settings, from_environment)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = match settings.format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).with_ansi(false).boxed(),
    };
    // The detail can change while the process runs, so this is asked for every event.
    let discreet = dynamic_filter_fn(|metadata, _| is_discreet(metadata));
    let subscriber = Registry::default().with(lines.with_filter(filter.and(discreet)));
    Ok((subscriber, Telemetry { filter: handle }))
}

fn is_discreet(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with(OWN_TARGETS)
        || *metadata.level() == Level::ERROR
        || redact::shows(Detail::Ip)
}

fn filter(settings: &Settings, from_environment: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let (text, origin) = match from_environment {
        Some(text) => (text, FILTER_VARIABLE),
        None => (settings.filter.as_str(), "`log.filter`"),
    };
    let text = text.trim();
    // A level alone is about us; libraries at debug would drown what the operator looks for.
    let directives = match text.parse::<Level>() {
        Ok(level) => format!("warn,{OWN_TARGETS}={level}"),
        Err(_) => text.to_owned(),
    };
    EnvFilter::builder().parse(directives).map_err(|error| TelemetryError::Filter {
        filter: text.to_owned(),
        origin,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;
    use tracing::{debug, error, info, warn};

    use super::*;

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(settings: &Settings, from_environment: Option<&str>, work: impl FnOnce(&Telemetry)) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, telemetry) =
            build(settings, from_environment, move || writer.clone(), false).unwrap();
        with_default(subscriber, || work(&telemetry));
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn settings(filter: &str) -> Settings {
        Settings { filter: filter.to_owned(), ..Settings::default() }
    }

    #[test]
    fn a_level_alone_is_about_our_own_code() {
        let text = logged(&settings("debug"), None, |_| {
            debug!(target: "trunkline_gateway::hub", "ours");
            info!(target: "quinn::connection", "theirs");
        });
        assert!(text.contains("ours") && !text.contains("theirs"), "{text}");
    }

    #[test]
    fn libraries_say_nothing_below_an_error_unless_addresses_may_be_logged() {
        let text = logged(&settings("trace"), None, |_| {
            warn!(target: "quinn_udp", "cannot send to 192.0.2.1");
            error!(target: "quinn_udp", "out of sockets");
        });
        assert!(text.contains("out of sockets") && !text.contains("192.0.2.1"), "{text}");
    }

    #[test]
    fn the_environment_takes_the_place_of_the_filter() {
        let text = logged(&settings("trace"), Some("trunkline_gateway::hub=info,off"), |_| {
            info!(target: "trunkline_gateway::hub", "hub");
            error!(target: "trunkline_gateway::link", "link");
        });
        assert!(text.contains("hub") && !text.contains("link"), "{text}");
    }

    #[test]
    fn json_is_one_object_per_line_with_the_fields_in_it() {
        let json = Settings { format: Format::Json, ..Settings::default() };
        let text = logged(&json, None, |_| {
            info!(target: "trunkline_gateway", peer = "beta.test", "link up\nand on");
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with('{') && text.trim_end().ends_with('}'), "{text}");
        assert!(text.contains(r#""peer":"beta.test""#), "{text}");
    }

    #[test]
    fn text_without_a_terminal_has_no_colours() {
        let text = logged(&Settings::default(), None, |_| info!(target: "trunkline", "plain"));
        assert!(!text.contains('\u{1b}') && text.contains("plain"), "{text:?}");
    }

    #[test]
    fn a_filter_can_be_changed_while_running_and_a_bad_one_changes_nothing() {
        let text = logged(&settings("warn"), None, |telemetry| {
            info!(target: "trunkline", "one");
            telemetry.replace(&settings("info"), None).unwrap();
            info!(target: "trunkline", "two");
            telemetry.replace(&settings("a=b=c"), None).unwrap_err();
            info!(target: "trunkline", "three");
        });
        assert!(!text.contains("one") && text.contains("two") && text.contains("three"), "{text}");
    }

    #[test]
    fn a_bad_filter_is_named_with_where_it_stands() {
        let error = check(&settings("trunkline=loud")).unwrap_err().to_string();
        assert!(error.starts_with("`trunkline=loud` in `log.filter` is no log filter: expected"), "{error}");
        let error = filter(&settings("info"), Some("=")).unwrap_err().to_string();
        assert!(error.contains(FILTER_VARIABLE), "{error}");
    }

    #[test]
    fn settings_have_defaults_that_say_least() {
        let settings: Settings = toml::from_str("").unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.detail, Detail::Activity);
        assert!(toml::from_str::<Settings>("color = true").is_err());
        let settings: Settings = toml::from_str("format = \"json\"\ndetail = \"ip\"").unwrap();
        assert_eq!((settings.format, settings.detail), (Format::Json, Detail::Ip));
    }
}
