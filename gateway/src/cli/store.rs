//! `store`: what can still be read of a store, when a disk or a backup is in doubt, and where it is.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use trunkline_gateway_proto::store::Stream;
use trunkline_http::cli::progress::Progress;

mod export;
mod migrate;

use super::target::Target;
use super::{CliError, Console};
use crate::config::Config;
use crate::config::engine::{self, Engine};
use crate::store::STORE_FILE;
use crate::store::inspect::Found;
use crate::store::note::Note;
use crate::store::postgres::look;
use crate::store::redb::RedbStore;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Read and decrypt everything in the store, and list what cannot be read; also whether a move into it is not
    /// finished. Files only while their gateway does not run; in a database nothing is changed, and a gateway may go on
    Check {
        /// The configuration [default: gateway.toml in the directory]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Write down what is in the store, a line of JSON for each thing: domains, ids, numbers, sizes and times, and with
    /// --payloads all of it. While the gateway does not run, or beside it, as for `check`
    Export(export::Args),
    /// Move everything from one engine to the other, or back, while the gateway does not run; compared in the end.
    /// What was interrupted goes on when it is run again
    Migrate(migrate::Args),
    /// Let a gateway start again on a store that was moved away, as it was then: only when the other one is lost
    TakeBack(migrate::TakeBack),
}

pub(super) fn call(verb: Verb, target: &Target, out: &mut Console<'_>) -> Result<(), CliError> {
    let (Verb::Check { config: file }
    | Verb::Export(export::Args { config: file, .. })
    | Verb::Migrate(migrate::Args { config: file, .. })
    | Verb::TakeBack(migrate::TakeBack { config: file, .. })) = &verb;
    let config = Config::load(&super::run::configuration(target, file.clone())?).map_err(CliError::failed)?;
    match verb {
        Verb::Check { .. } => check(&config, out),
        Verb::Export(args) => export::call(&args, &config, out),
        Verb::Migrate(args) => migrate::call(&args, &config, out),
        Verb::TakeBack(args) => migrate::take_back(&args, &config, out),
    }
}

/// Goes through everything in the store that the configuration names.
fn walk(config: &Config, visit: &mut dyn FnMut(Found)) -> Result<(), CliError> {
    let walked = match engine::read(config).map_err(CliError::failed)? {
        Engine::Redb(options) => {
            let file = config.data_dir.join(STORE_FILE);
            if !file.exists() {
                // Opening would make one.
                let file = file.display();
                return Err(CliError::Failed(format!(
                    "there is no {file}: is this the right configuration?"
                )));
            }
            RedbStore::open(&options).and_then(|store| store.walk(visit))
        }
        Engine::Postgres(options) => look::walk(&options, visit),
    };
    walked.map_err(CliError::failed)
}

fn check(config: &Config, out: &mut Console<'_>) -> Result<(), CliError> {
    let progress = Progress::waiting("reading the store");
    let (mut readable, mut damaged, mut note) = (0_u64, Vec::new(), None);
    walk(config, &mut |found| {
        note = note.take().or_else(|| Note::of(&found));
        let mut damage = |stream, first_seq| damaged.push((name(stream), first_seq));
        readable = readable.saturating_add(found.readable(&mut damage));
    })?;
    drop(progress);
    let note = note.transpose().map_err(CliError::failed)?;
    // One that was left is as good as it was.
    let unfinished = matches!(note, Some(Note::Arriving { .. }));
    let moved = note.map(|note| note.refusal().to_string());
    let rows: Vec<_> =
        damaged.iter().map(|(stream, seq)| json!({ "stream": stream, "first_seq": seq })).collect();
    let ok = damaged.is_empty() && !unfinished;
    let value = json!({ "ok": ok, "readable": readable, "damaged": rows, "moved": moved });
    out.show(&value, || {
        let mut text = format!("{readable} records can be read\n");
        for (stream, seq) in &damaged {
            text.push_str(&format!("{stream}: the block that begins at {seq} cannot be read\n"));
        }
        if let Some(moved) = moved.as_ref().filter(|_| !unfinished) {
            text.push_str(&format!("{moved}\n"));
        }
        text
    });
    let from = match config.store.as_str() {
        "redb" => format!("{} from one backup, both files together", config.data_dir.display()),
        _ => "the database from a backup".to_owned(),
    };
    match (damaged.len(), moved) {
        (0, Some(moved)) if unfinished => Err(CliError::Failed(moved)),
        (0, _) => Ok(()),
        (count, _) => Err(CliError::Failed(format!("{count} blocks cannot be read: restore {from}"))),
    }
}

/// Deployments are known by number here: the directory may be part of what cannot be read.
fn name(stream: Stream) -> String {
    match stream {
        Stream::Outbox { peer, lane } => format!("outbox of peer {}, lane {}", peer.0, lane.0),
        Stream::Inbox { network } => format!("inbox of network {}", network.0),
        Stream::Receipts { network } => format!("receipts of network {}", network.0),
        Stream::Audit => "audit log".to_owned(),
    }
}
