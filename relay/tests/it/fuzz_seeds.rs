//! Replays the committed fuzz seeds, so that what a fuzzer once found stays found without a fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../../../fuzz/src/node.rs"]
#[allow(unreachable_pub, missing_docs, reason = "the fuzz crate exports it")]
mod parsers;

fn seeds() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/node")
}

#[test]
fn every_committed_seed_is_read_or_refused_without_a_panic() {
    for (target, parse) in parsers::TARGETS {
        let folder = fs::read_dir(seeds().join(target)).expect("every target has committed seeds");
        let mut replayed = 0;
        for seed in folder {
            parse(&fs::read(seed.expect("a readable folder").path()).expect("a readable seed"));
            replayed += 1;
        }
        assert!(replayed > 0, "{target} has no seeds");
    }
}

#[test]
fn every_folder_of_seeds_belongs_to_a_target() {
    for folder in fs::read_dir(seeds()).expect("the committed seeds") {
        let folder = folder.expect("a readable folder").file_name();
        assert!(parsers::TARGETS.iter().any(|(target, _)| folder == **target), "{}", folder.display());
    }
}
