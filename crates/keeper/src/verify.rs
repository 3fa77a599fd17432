//! `audit-keeper verify`: is the archive what its manifests tell, and what the log tells?

use crate::column::Column;
use crate::copy::Splitter;
use crate::database::{Database, ORDER, literal, names, quoted};
use crate::files::altered;
use crate::load::{check, load};
use crate::manifest::{Manifest, Seen, archived};
use crate::month::Month;
use crate::place::Place;
use crate::record::{note, note_failed, recorded};
use futures_util::TryStreamExt;
use sqlx::{Executor, Row};

/// So many entries of a month are named.
const NAMED: usize = 20;

/// Tells on standard output what differs, month by month; false: something does. The database notes it of each month.
pub async fn verify(database: &mut Database, place: &Place) -> anyhow::Result<bool> {
    let found = archived(place).await?;
    let mut all_well = true;
    for month in database.closed_months().await? {
        if !found.iter().any(|(archived, _)| *archived == month) {
            database.begin().await?;
            let entries = database.seen(month).await?.entries;
            database.run("COMMIT").await?;
            if entries > 0 {
                println!("{month}: not archived, the log has {entries} entries");
                all_well = false;
            }
        }
    }
    for (month, has_failed) in recorded(database, place).await? {
        // once: somebody may have deleted it on purpose
        if !has_failed && !found.iter().any(|(archived, _)| *archived == month) {
            let line = "on record as archived, but not in the archive";
            println!("{month}: {line}");
            note_failed(database, place, month, line).await?;
            all_well = false;
        }
    }
    for (month, manifest) in &found {
        if !database.is_closed(*month).await? {
            println!("{month}: it is not over yet, so no keeper has archived it");
            all_well = false;
            continue;
        }
        all_well &= match manifest {
            Ok(manifest) => one(database, place, *month, manifest).await?,
            Err(error) => {
                println!("{month}: {error:#}");
                note_failed(database, place, *month, "the manifest cannot be read").await?;
                false
            }
        };
    }
    Ok(all_well)
}

/// False: the month is not as it should be, or that cannot be told.
async fn one(database: &mut Database, place: &Place, month: Month, manifest: &Manifest) -> anyhow::Result<bool> {
    let (now, lines) = match compared(database, place, month, manifest).await {
        Ok(found) => found,
        Err(error) if database.run("ROLLBACK").await.is_ok() => {
            println!("{month}: it cannot be compared: {error:#}");
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    if lines.is_empty() {
        let gone = if now.entries == 0 { ", which retention has removed from the log" } else { "" };
        println!("{month}: well, {} entries{gone}", manifest.entries);
    }
    for line in &lines {
        println!("{month}: {line}");
    }
    match lines.first() {
        None => note(database, place, month, manifest).await?,
        Some(line) => note_failed(database, place, month, line).await?,
    }
    Ok(lines.is_empty())
}

/// What the log has of a month, and in which ways its archive is not as it should be.
async fn compared(
    database: &mut Database,
    place: &Place,
    month: Month,
    manifest: &Manifest,
) -> anyhow::Result<(Seen, Vec<String>)> {
    let mut lines = altered(place, month, &manifest.files).await?;
    // who alters both a file and its SHA-256 does not reach the digest of the entries
    if lines.is_empty()
        && let Err(error) = check(place, month, manifest).await
    {
        lines.push(format!("{error:#}"));
    }
    let are_whole = lines.is_empty();
    if !manifest.server.is_same(&database.server) {
        lines.push(format!(
            "of another server or database: {}, \"{}\"",
            manifest.server.system_identifier, manifest.server.database
        ));
    }
    database.begin().await?;
    let now = database.seen(month).await?;
    // what is in a damaged file cannot be compared
    if are_whole || now.entries == 0 {
        lines.extend(differences(database, place, month, manifest, now).await?);
    }
    database.run("COMMIT").await?;
    Ok((now, lines))
}

/// Of entries: what differs between the log and the archive. It is asked within a transaction.
pub async fn differences(
    database: &mut Database,
    place: &Place,
    month: Month,
    manifest: &Manifest,
    now: Seen,
) -> anyhow::Result<Vec<String>> {
    let mut lines = vec![];
    let removed = manifest.gone(now);
    if now.entries + removed != manifest.entries {
        lines.push(format!(
            "the archive has {} entries, the log {} and retention has removed {removed}",
            manifest.entries, now.entries
        ));
    }
    // of a month that is in the archive only, an erasure reaches nothing
    if now.entries > 0 && now.erasures != manifest.seen.erasures {
        lines.push("entries were erased since: archive it again".to_owned());
    }
    if now.entries == 0 || removed == 0 && digest(database, month, &manifest.columns).await? == manifest.digest {
        return Ok(lines);
    }
    database.run("DROP TABLE IF EXISTS pg_temp.archived").await?;
    load(database, place, month, manifest, "TEMP TABLE", "pg_temp.archived").await?;
    lines.extend(entries(database, month, &manifest.columns, removed).await?);
    database.run("DROP TABLE pg_temp.archived").await?;
    Ok(lines)
}

/// That of the month's entries in the log, as it would be archived.
async fn digest(database: &mut Database, month: Month, columns: &[Column]) -> anyhow::Result<String> {
    let query = database.entries(month, &names(columns));
    let query = format!("COPY ({query} ORDER BY {ORDER}) TO STDOUT (FORMAT binary)");
    let mut splitter = Splitter::new();
    let mut stream = database.connection.copy_out_raw(&query).await?;
    while let Some(part) = stream.try_next().await? {
        splitter.push(&part);
        while splitter.next_row()?.is_some() {}
    }
    splitter.finish()
}

/// Which entries differ, and in which columns.
async fn entries(
    database: &mut Database,
    month: Month,
    columns: &[Column],
    removed: u64,
) -> anyhow::Result<Vec<String>> {
    let log = database.entries(month, &names(columns));
    let only = "count(*) FILTER (WHERE l.id IS NULL), count(*) FILTER (WHERE a.id IS NULL)";
    let both = format!("FROM ({log}) AS l FULL JOIN pg_temp.archived AS a ON a.id = l.id");
    let mut lines = vec![];
    let row = database.connection.fetch_one(format!("SELECT {only} {both}").as_str()).await?;
    let (in_archive, in_log): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if u64::try_from(in_archive)? > removed {
        lines.push(format!("{in_archive} entries are in the archive only, and retention has removed {removed}"));
    }
    if in_log > 0 {
        lines.push(format!("{in_log} entries are in the log only"));
    }
    let differing: Vec<_> = columns
        .iter()
        .map(|column| {
            let (name, told) = (quoted(&column.name), literal(&column.name));
            format!("CASE WHEN a.{name} IS DISTINCT FROM l.{name} THEN {told} END")
        })
        .collect();
    let query = format!(
        "SELECT d.id, d.differing, count(*) OVER () FROM (
           SELECT l.id, concat_ws(', ', {}) AS differing FROM ({log}) AS l JOIN pg_temp.archived AS a ON a.id = l.id
         ) AS d WHERE d.differing <> '' ORDER BY d.id LIMIT {NAMED}",
        differing.join(", ")
    );
    let rows = database.connection.fetch_all(query.as_str()).await?;
    for row in &rows {
        let (id, differing): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
        lines.push(format!("entry {id} differs in {differing}"));
    }
    if let Some(row) = rows.first() {
        let count: i64 = row.try_get(2)?;
        if count > NAMED as i64 {
            lines.push(format!("{count} entries differ, of which {NAMED} are named"));
        }
    }
    Ok(lines)
}
