//! `audit`: what operators did, and whether the log was changed.

use clap::Subcommand;
use serde::Deserialize;
use trunkline_gateway_proto::audit::Entry;
use trunkline_http::cli::client::{segment, view};

use super::{Api, CliError, Console, console};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Entries, newest first
    List(List),
    /// Check that no entry was changed or removed
    Verify,
}

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Oldest first
    #[arg(long)]
    oldest: bool,
    /// Entries after this sequence number
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Entries before this sequence number
    #[arg(long, value_name = "SEQ")]
    before: Option<u64>,
    /// Entries with this in actor, action, target or outcome
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// At most so many
    #[arg(long, default_value = "100")]
    max: u32,
}

impl List {
    fn path(&self) -> String {
        let mut path = format!("/admin/v1/audit?max={}", self.max);
        path.push_str(if self.oldest { "&order=oldest" } else { "&order=newest" });
        for (name, value) in [("after", self.after), ("before", self.before)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={value}"));
            }
        }
        if let Some(text) = &self.search {
            path.push_str(&format!("&q={}", segment(text)));
        }
        path
    }
}

#[derive(Deserialize)]
struct Audit {
    entries: Vec<Numbered>,
    next: Option<u64>,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Deserialize)]
struct Verified {
    ok: bool,
    entries: u64,
    from_genesis: bool,
    broken_at: Option<u64>,
    head: Option<String>,
}

pub(super) async fn call(verb: Verb, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    match verb {
        Verb::List(list) => {
            let answer = api.get(&list.path()).await?;
            let Audit { entries, next } = view(&answer)?;
            out.show(&answer, || {
                let row = |Numbered { seq, entry }: &Numbered| {
                    let Entry { at, actor, action, target, outcome, .. } = entry.clone();
                    [seq.to_string(), console::moment(at), actor, action, target, outcome]
                };
                let header = ["SEQ", "AT", "ACTOR", "ACTION", "TARGET", "OUTCOME"];
                console::table(header, &entries.iter().map(row).collect::<Vec<_>>())
            });
            // To people, beside the table: it is no entry.
            if let Some(next) = next {
                let on = if list.oldest { "--after" } else { "--before" };
                out.hint(&format!("(there may be more: go on with {on} {next})"));
            }
            Ok(())
        }
        Verb::Verify => {
            let answer = api.get("/admin/v1/audit/verify").await?;
            let Verified { ok, entries, from_genesis, broken_at, head } = view(&answer)?;
            if !ok {
                if out.json {
                    out.value(&answer);
                }
                let at = broken_at.map_or_else(|| "?".to_owned(), |seq| seq.to_string());
                return Err(CliError::Failed(format!(
                    "the audit log was changed: entry {at} does not fit the one before it; keep a copy of the \
                     data directory and compare with a backup"
                )));
            }
            out.show(&answer, || {
                let start = if from_genesis { "from the first one on" } else { "of what is kept" };
                let head = console::or_dash(head);
                format!("{entries} entries {start}: the chain holds\nhead {head} (note it elsewhere: a rewritten log will not have it)")
            });
            Ok(())
        }
    }
}
