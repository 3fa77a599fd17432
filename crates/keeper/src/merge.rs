//! A month that is written anew: what the log has of it, and what the archive has besides.

use crate::column::Column;
use crate::database::{Database, names, quoted};
use crate::load::load;
use crate::manifest::{Manifest, Seen};
use crate::month::Month;
use crate::place::Place;

pub enum Merged {
    /// For all entries, in no order.
    Query(String),
    /// So many are in the archive only, and retention did not remove them.
    Lost(u64),
}

/// The log's entries, and those of the archive that the log has no more.
pub async fn merged(
    database: &mut Database,
    place: &Place,
    month: Month,
    found: &Manifest,
    columns: &[Column],
    now: Seen,
) -> anyhow::Result<Merged> {
    database.run("DROP TABLE IF EXISTS pg_temp.archived").await?;
    load(database, place, month, found, "TEMP TABLE", "pg_temp.archived").await?;
    let missing =
        format!("NOT EXISTS (SELECT FROM ({ids}) AS l WHERE l.id = a.id)", ids = database.entries(month, "id"));
    // counts may agree although entries were lost, if others came
    let count = database.number(&format!("SELECT count(*) FROM pg_temp.archived AS a WHERE {missing}")).await?;
    if count > found.gone(now) {
        return Ok(Merged::Lost(count - found.gone(now)));
    }
    // an archive of an older version of the extension has fewer columns
    let there = |column: &Column| found.columns.contains(column);
    let archived: Vec<_> = columns
        .iter()
        .map(|column| match there(column) {
            true => format!("a.{}", quoted(&column.name)),
            false => format!("NULL::{}", column.kind.postgres()),
        })
        .collect();
    Ok(Merged::Query(format!(
        "SELECT {names} FROM ({log} UNION ALL SELECT {archived} FROM pg_temp.archived AS a WHERE {missing}) AS e",
        names = names(columns),
        log = database.entries(month, &names(columns)),
        archived = archived.join(", ")
    )))
}
