//! Durations and sizes as operators write them: `"30d"`, `"64MiB"`, or a plain integer of seconds or bytes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration: an integer of seconds, or a number with `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A size: an integer of bytes, or a number with `B`, `KiB`, `MiB`, `GiB` or `TiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SPAN_EXPECTED: &str =
    "a duration such as \"90s\", \"15m\", \"12h\" or \"30d\", or an integer of seconds";
const SIZE_EXPECTED: &str = "a size such as \"512KiB\", \"64MiB\" or \"10GiB\", or an integer of bytes";

/// Units of durations in milliseconds, largest first.
const SPANS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Units of sizes in bytes, largest first.
const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        number(text, &SPANS)
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(|| format!("expected {SPAN_EXPECTED}, found `{text}`"))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        number(text, &SIZES).map(Self).ok_or_else(|| format!("expected {SIZE_EXPECTED}, found `{text}`"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), &SPANS)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, &SIZES)
    }
}

/// Digits and a unit; `None` when it is something else or too large.
fn number(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

fn write(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let unit = units.iter().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
    let (name, factor) = unit.or(units.last()).copied().unwrap_or(("", 1));
    write!(f, "{}{name}", value / factor)
}

/// Text or an integer, by a visitor so that the error says what was expected.
macro_rules! unit_serde {
    ($name:ident, $expected:ident, $from_integer:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<$name, E> {
                        let value = u64::try_from(value)
                            .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(value), &self))?;
                        self.visit_u64(value)
                    }

                    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<$name, E> {
                        Ok($name($from_integer(value)))
                    }
                }

                deserializer.deserialize_any(Visitor)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

unit_serde!(Span, SPAN_EXPECTED, Duration::from_secs);
unit_serde!(Size, SIZE_EXPECTED, std::convert::identity);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_with_units_and_written_back_in_the_largest_that_fits() {
        for (text, ms) in [("6d", 518_400_000), ("90s", 90_000), ("250ms", 250), ("2h", 7_200_000)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(
                (span.0.as_millis(), span.to_string().as_str()),
                (ms, if text == "90s" { "90s" } else { text })
            );
        }
        for (text, bytes) in [("64MiB", 64 << 20), ("10GiB", 10 << 30), ("1B", 1), ("0B", 0)] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, text));
        }
    }

    #[test]
    fn what_has_no_unit_or_is_too_large_is_refused() {
        for text in ["", "d", "1 week", "-1s", "1.5h", "99999999999999999999d", "18446744073709551615h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for text in ["", "10GB", "64 M", "20000000TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
