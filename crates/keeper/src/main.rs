//! `audit-keeper`: keeps closed months of the audit log as Parquet files, in a folder or in S3. It compares them with
//! the log, and brings back what retention has removed.
//!
//! An entry travels: `database` → `copy` → `column` → `file` → `place`, and back through `load`.

mod archive;
mod column;
mod config;
mod copy;
mod database;
mod file;
mod files;
mod load;
mod manifest;
mod merge;
mod month;
mod place;
mod plan;
mod progress;
mod record;
mod restore;
mod verify;

use archive::{Options, archive};
use config::Command;
use database::Database;
use place::Place;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = config::read();
    let done = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(keeper(&command)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("audit-keeper: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// False: archive and log differ.
async fn keeper(command: &Command) -> anyhow::Result<bool> {
    let common = command.common();
    let is_archive = matches!(command, Command::Archive { .. });
    let place = Place::new(&common.to, is_archive)?;
    let mut database = Database::connect(common.database.expose()).await?;
    match command {
        Command::Archive { until, compare, accept_server, .. } => {
            let options = Options { until: *until, accept_server: *accept_server, compare: *compare };
            archive(&mut database, &place, &options).await?;
            Ok(true)
        }
        Command::Verify { .. } => verify::verify(&mut database, &place).await,
        Command::Restore { month, .. } => {
            restore::restore(&mut database, &place, *month).await?;
            Ok(true)
        }
    }
}
