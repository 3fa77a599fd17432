//! `audit-keeper restore`: a month that retention has removed comes back, into a table beside the log. Into the log
//! itself nothing comes that is older than its horizon.

use crate::database::{Database, literal};
use crate::load::load;
use crate::manifest::Manifest;
use crate::month::Month;
use crate::place::Place;
use anyhow::{Context, ensure};

const SCHEMA: &str = "audit_archive";

pub async fn restore(database: &mut Database, place: &Place, month: Month) -> anyhow::Result<()> {
    let manifest = Manifest::read(place, month).await?;
    let manifest = manifest.with_context(|| format!("the archive has no month {month}"))?;
    let table = format!("{SCHEMA}.{}", month.table());
    database.run("BEGIN").await?;
    if database.text(&format!("SELECT coalesce(to_regnamespace('{SCHEMA}')::text, '')")).await?.is_empty() {
        database.run(&format!("CREATE SCHEMA {SCHEMA}")).await?;
        database.run(&format!("GRANT USAGE ON SCHEMA {SCHEMA} TO audit_cdc_reader")).await?;
    }
    let there = database.text(&format!("SELECT coalesce(to_regclass('{table}')::text, '')")).await?;
    ensure!(there.is_empty(), "{table} is there already: DROP TABLE {table} if it is to be restored anew");
    load(database, place, month, &manifest, "TABLE", &table).await?;
    database.run(&format!("CREATE INDEX ON {table} (table_name, record_key, commit_timestamp)")).await?;
    let comment = format!(
        "{month} of the audit log, restored from an archive of {}; digest {}",
        manifest.read_at, manifest.digest
    );
    database.run(&format!("COMMENT ON TABLE {table} IS {}", literal(&comment))).await?;
    database.run(&format!("GRANT SELECT ON {table} TO audit_cdc_reader")).await?;
    database.run("COMMIT").await?;
    database.run(&format!("ANALYZE {table}")).await?;
    eprintln!("{month}: {} entries in {table}", manifest.entries);
    Ok(())
}
