//! `store migrate`: from one engine to the other, and back. `store take-back`: when there is no way back.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::json;
use trunkline_http::cli::progress::Progress;
use trunkline_postgres::Address;

use super::super::{CliError, Console};
use crate::clock::now;
use crate::config::Config;
use crate::config::engine;
use crate::store::migrate::{self, End, Moved, Step};
use crate::store::postgres::{PostgresStore, look};
use crate::store::redb::RedbStore;
use crate::store::{STORE_FILE, Store, StoreError};

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    /// Where the store is: `redb`, the files in `data_dir`; `postgres`, the database that `store` in the configuration
    /// names; or another database's postgres:// address
    #[arg(long, value_name = "STORE")]
    from: Place,
    /// Where it goes, likewise. Empty, or what an earlier run of this left, or where the store came from
    #[arg(long, value_name = "STORE")]
    to: Place,
    /// The configuration [default: gateway.toml in the directory]
    #[arg(long, value_name = "FILE")]
    pub(in super::super) config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(in super::super) struct TakeBack {
    /// Which: as for `migrate`
    #[arg(value_name = "STORE")]
    store: Place,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// The configuration [default: gateway.toml in the directory]
    #[arg(long, value_name = "FILE")]
    pub(in super::super) config: Option<PathBuf>,
}

/// A store, as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Redb,
    /// That of the configuration, or one of its own.
    Postgres(Option<String>),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "redb" => Ok(Self::Redb),
            "postgres" => Ok(Self::Postgres(None)),
            url if Address::is_meant(url) => {
                url.parse::<Address>().map(|_| Self::Postgres(Some(url.to_owned())))
            }
            _ => Err("expected redb, postgres or a postgres:// address".to_owned()),
        }
    }
}

/// A store that is open.
struct Opened {
    store: Arc<dyn Store>,
    name: String,
    engine: &'static str,
    /// What `store` in the configuration is to say for a gateway to use it.
    setting: String,
}

impl Opened {
    fn end(&self) -> End<'_> {
        End { store: &*self.store, name: &self.name, engine: self.engine }
    }
}

impl Place {
    /// `None` for the files.
    fn address(&self, config: &Config) -> Result<Option<String>, CliError> {
        match self {
            Self::Redb => Ok(None),
            Self::Postgres(Some(address)) => Ok(Some(address.clone())),
            Self::Postgres(None) if Address::is_meant(&config.store) => Ok(Some(config.store.clone())),
            Self::Postgres(None) => Err(CliError::Usage(
                "which database? Name it in place of `postgres`, as postgres://user@host/database, or set `store` in \
                 the configuration to it"
                    .into(),
            )),
        }
    }
}

fn open(address: Option<&str>, config: &Config, is_source: bool) -> Result<Opened, CliError> {
    let Some(address) = address else {
        let options = engine::embedded(config).map_err(CliError::failed)?;
        let file = config.data_dir.join(STORE_FILE);
        if is_source && !file.exists() {
            // Opening would make one.
            let file = file.display();
            return Err(CliError::Failed(format!("there is no {file}: is this the right configuration?")));
        }
        let store = RedbStore::open(&options).map_err(CliError::failed)?;
        let name = format!("store in {}", config.data_dir.display());
        return Ok(Opened { store, name, engine: "redb", setting: "redb".to_owned() });
    };
    let options = engine::database(config, address).map_err(CliError::failed)?;
    if is_source {
        // Opening would make one here, too.
        match look::look(&options) {
            Ok(facts) if facts.tables.is_none() => {
                let name = options.name();
                return Err(CliError::Failed(format!(
                    "there is no store in the {name}: is this the right configuration?"
                )));
            }
            Ok(_) | Err(StoreError::Moved(_)) => {}
            Err(error) => return Err(CliError::failed(error)),
        }
    }
    let store = PostgresStore::open(&options).map_err(CliError::failed)?;
    let name = options.name().to_owned();
    Ok(Opened { store, name, engine: "postgres", setting: address.to_owned() })
}

pub(super) fn call(args: &Args, config: &Config, out: &mut Console<'_>) -> Result<(), CliError> {
    let (from, to) = (args.from.address(config)?, args.to.address(config)?);
    if from == to {
        return Err(CliError::Usage("--from and --to are the same store: nothing is to be moved".into()));
    }
    let progress = Progress::waiting("opening both stores");
    let source = open(from.as_deref(), config, true)?;
    let target = open(to.as_deref(), config, false)?;
    drop(progress);
    let progress = Progress::new("copying", 0);
    let mut last = Step::Copying;
    let moved = migrate::migrate(source.end(), target.end(), &now, &mut |step, done, total| {
        if std::mem::replace(&mut last, step) != step {
            progress.say("comparing");
        }
        progress.of(total);
        progress.at(done);
    });
    drop(progress);
    let moved = moved.map_err(CliError::failed)?;
    let value = json!({
        "from": source.name, "to": target.name, "records": moved.records, "copied": moved.copied,
        "bytes": moved.bytes, "streams": moved.streams, "state": moved.state, "before": moved.before,
        "store": target.setting, "configured": config.store == target.setting,
    });
    out.show(&value, || text(&source, &target, moved, config));
    Ok(())
}

pub(super) fn take_back(args: &TakeBack, config: &Config, out: &mut Console<'_>) -> Result<(), CliError> {
    let opened = open(args.store.address(config)?.as_deref(), config, true)?;
    let to = migrate::left_for(opened.end()).map_err(CliError::failed)?.name;
    let question = format!(
        "The {} holds what it held when it was moved to the {to}: what came since is not in it, and peers notice. \
         `store migrate` brings all of it back. Go on with the old one all the same?",
        opened.name
    );
    out.confirm(args.yes, &question)?;
    migrate::take_back(opened.end(), now()).map_err(CliError::failed)?;
    let value = json!({ "store": opened.setting, "was_moved_to": to });
    out.show(&value, || {
        format!(
            "a gateway starts on the {} again, with `store = \"{}\"`; let none start on the {to} any more\n",
            opened.name, opened.setting
        )
    });
    Ok(())
}

fn text(source: &Opened, target: &Opened, moved: Moved, config: &Config) -> String {
    let mut text = if moved.before {
        format!("the {} was moved to the {} before: there is nothing left to do\n", source.name, target.name)
    } else {
        format!(
            "moved {} records in {} streams ({} bytes) and {} state entries from the {} to the {}, and compared them\n",
            moved.records, moved.streams, moved.bytes, moved.state, source.name, target.name
        )
    };
    if config.store == target.setting {
        text.push_str("start the gateway: its configuration names the new store already\n");
    } else {
        text.push_str(&format!(
            "set `store = \"{}\"` in the configuration, then start the gateway\n",
            target.setting
        ));
    }
    text
}
