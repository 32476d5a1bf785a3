//! Replays the committed fuzz seeds, so that what a fuzzer once found stays found without a fuzzer.

use std::fs;
use std::path::Path;

#[path = "../../../../fuzz/src/parsers.rs"]
#[expect(unreachable_pub, reason = "the fuzz crate exports it")]
mod parsers;
