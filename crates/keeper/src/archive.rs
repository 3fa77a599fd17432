//! `audit-keeper archive`: months of the log that are over become files.

use crate::column::Column;
use crate::copy::{Row, Splitter};
use crate::database::{Database, ORDER, names, quoted};
use crate::file::Writer;
use crate::load::load;
use crate::manifest::{File, Manifest, Seen, Table};
use crate::month::Month;
use crate::place::{Place, Upload};
use crate::plan::{Plan, plan};
use crate::progress::Progress;
use crate::record::{note, recorded};
use crate::verify::{differences, files};
use anyhow::{Context, ensure};
use futures_util::TryStreamExt;

const FILE: &str = "log.parquet";

pub struct Options {
    pub until: Option<Month>,
    /// The archive may be of a server that was restored or upgraded into this one.
    pub accept_server: bool,
    /// Also what nothing tells of: digests are compared.
    pub compare: bool,
}

pub async fn archive(database: &mut Database, place: &Place, options: &Options) -> anyhow::Result<()> {
    if let Some(until) = options.until {
        ensure!(database.is_closed(until).await?, "{until} is not over yet: entries would be missing from its file");
    }
    let mut months = database.closed_months().await?;
    months.retain(|month| options.until.is_none_or(|until| *month <= until));
    let recorded = recorded(database, place).await?;
    let (mut lost, mut damaged) = (vec![], vec![]);
    for month in months {
        let found = Manifest::read(place, month).await?;
        if let Some(found) = &found {
            ensure!(
                options.accept_server || found.server.is_same(&database.server),
                "the archive holds {month} of database \"{}\" of the server {}, and this is \"{}\" of {}: archive into \
                 another place, or say --accept-server if the database was restored or upgraded",
                found.server.database,
                found.server.system_identifier,
                database.server.database,
                database.server.system_identifier
            );
        }
        let has_failed = recorded.contains(&(month, true));
        let outcome = one(database, place, month, found.as_ref(), options.compare, has_failed).await?;
        database.run("COMMIT").await?;
        match outcome {
            Outcome::Nothing => {}
            Outcome::Lost => lost.push(month.to_string()),
            Outcome::Damaged => damaged.push(month.to_string()),
            Outcome::Archived(manifest) => note(database, place, month, &manifest).await?,
        }
    }
    ensure!(
        lost.is_empty(),
        "the log has lost entries that retention did not remove; the archive keeps them: {}",
        lost.join(", ")
    );
    ensure!(
        damaged.is_empty(),
        "files are damaged of which retention has removed entries: bring them back from a copy, then verify: {}",
        damaged.join(", ")
    );
    Ok(())
}

enum Outcome {
    Nothing,
    /// The log has lost entries.
    Lost,
    /// Its files are not what they were, and the log has not all that was in them.
    Damaged,
    /// And this is its manifest.
    Archived(Box<Manifest>),
}

async fn one(
    database: &mut Database,
    place: &Place,
    month: Month,
    found: Option<&Manifest>,
    compares: bool,
    has_failed: bool,
) -> anyhow::Result<Outcome> {
    database.begin().await?;
    let now = database.seen(month).await?;
    let mut todo = plan(now, found.map(|found| found.seen));
    // a log that differs does not replace a whole file: the file may be what is right
    if has_failed
        && let Some(found) = found
        && !matches!(todo, Plan::Lost(_))
        && !files(place, month, found).await?.is_empty()
    {
        if now.entries == 0 || now.removed > 0 {
            eprintln!("{month}: files are damaged, and the log has not all that was in them");
            return Ok(Outcome::Damaged);
        }
        todo = Plan::Write;
    }
    if todo == Plan::Keep
        && compares
        && let Some(found) = found.filter(|_| now.entries > 0)
    {
        let differs = !differences(database, place, month, found, now).await?.is_empty();
        todo = match (differs, now.removed) {
            (false, _) => Plan::Keep,
            (true, 0) => Plan::Write,
            (true, _) => Plan::Merge,
        };
    }
    let manifest = match todo {
        Plan::Nothing => return Ok(Outcome::Nothing),
        Plan::Keep if has_failed => {
            eprintln!("{month}: archived already, but verify has failed: it tells why, and --compare writes it anew");
            return Ok(Outcome::Nothing);
        }
        Plan::Keep => {
            eprintln!("{month}: archived already");
            return Ok(found.map_or(Outcome::Nothing, |found| Outcome::Archived(Box::new(found.clone()))));
        }
        Plan::Lost(count) => {
            eprintln!("{month}: the log has lost {count} entries that retention did not remove; nothing is written");
            return Ok(Outcome::Lost);
        }
        Plan::Write | Plan::Merge => {
            let columns = database.columns().await?;
            let query = match found.filter(|_| todo == Plan::Merge) {
                Some(found) => merged(database, place, month, found, &columns).await?,
                None => database.entries(month, &names(&columns)),
            };
            let query = format!("COPY ({query} ORDER BY {ORDER}) TO STDOUT (FORMAT binary)");
            write(database, place, month, &columns, &query, now).await?
        }
    };
    manifest.write(place, month).await?;
    Ok(Outcome::Archived(Box::new(manifest)))
}

/// The log's entries, and those of the archive that the log has no more.
async fn merged(
    database: &mut Database,
    place: &Place,
    month: Month,
    found: &Manifest,
    columns: &[Column],
) -> anyhow::Result<String> {
    database.run("DROP TABLE IF EXISTS pg_temp.archived").await?;
    load(database, place, month, found, "TEMP TABLE", "pg_temp.archived").await?;
    // an archive of an older version of the extension has fewer columns
    let there = |column: &Column| found.columns.contains(column);
    let archived: Vec<_> = columns
        .iter()
        .map(|column| match there(column) {
            true => format!("a.{}", quoted(&column.name)),
            false => format!("NULL::{}", column.kind.postgres()),
        })
        .collect();
    Ok(format!(
        "SELECT {names} FROM ({log} UNION ALL SELECT {archived} FROM pg_temp.archived AS a
           WHERE NOT EXISTS (SELECT FROM ({ids}) AS l WHERE l.id = a.id)) AS e",
        names = names(columns),
        log = database.entries(month, &names(columns)),
        archived = archived.join(", "),
        ids = database.entries(month, "id")
    ))
}

async fn write(
    database: &mut Database,
    place: &Place,
    month: Month,
    columns: &[Column],
    query: &str,
    seen: Seen,
) -> anyhow::Result<Manifest> {
    let read_at = database.read_at().await?;
    let server = database.server.clone();
    let mut upload = place.begin(&format!("{}/{FILE}", month.folder())).await?;
    let mut progress = Progress::of(month, seen.entries);
    let written = entries(database, columns, query, &mut upload, &mut progress).await;
    let (digest, tables) = match written {
        Ok(written) => written,
        Err(error) => {
            upload.abort().await;
            return Err(error.context(format!("{month} is not archived")));
        }
    };
    let (bytes, sha256) = upload.finish(place).await.with_context(|| format!("{month} is not archived"))?;
    let entries = tables.iter().map(|table| table.entries).sum();
    progress.finish(entries, bytes);
    Ok(Manifest {
        format: Manifest::FORMAT,
        month: month.to_string(),
        entries,
        digest,
        files: vec![File { name: FILE.to_owned(), bytes, entries, sha256 }],
        tables,
        columns: columns.to_vec(),
        seen,
        server,
        read_at,
        keeper_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Digest of the entries, and how many there are of each table.
async fn entries(
    database: &mut Database,
    columns: &[Column],
    query: &str,
    upload: &mut Upload,
    progress: &mut Progress,
) -> anyhow::Result<(String, Vec<Table>)> {
    let mut counts = Counts::of(columns)?;
    let (mut splitter, mut writer) = (Splitter::new(), Writer::new(columns)?);
    let mut stream = database.connection.copy_out_raw(query).await?;
    while let Some(part) = stream.try_next().await? {
        splitter.push(&part);
        while let Some((row, bytes)) = splitter.next_row()? {
            counts.add(&row)?;
            writer.push(row, bytes)?;
            progress.add();
        }
        let ready = writer.take();
        if !ready.is_empty() {
            upload.write(ready).await?;
        }
    }
    let digest = splitter.finish()?;
    upload.write(writer.finish()?).await?;
    Ok((digest, counts.tables))
}

/// How many entries each table has. They come table by table.
struct Counts {
    places: [usize; 3],
    tables: Vec<Table>,
}

impl Counts {
    fn of(columns: &[Column]) -> anyhow::Result<Self> {
        let place = |name: &str| {
            let found = columns.iter().position(|column| column.name == name);
            found.with_context(|| format!("the log has no column {name}"))
        };
        Ok(Self { places: [place("database_id")?, place("table_schema")?, place("table_name")?], tables: vec![] })
    }

    fn add(&mut self, row: &Row) -> anyhow::Result<()> {
        let [database_id, table_schema, table_name] =
            self.places.map(|place| row.get(place).and_then(Option::as_deref).unwrap_or_default());
        if let Some(last) = self.tables.last_mut() {
            let names = (last.database_id.as_bytes(), last.table_schema.as_bytes(), last.table_name.as_bytes());
            if names == (database_id, table_schema, table_name) {
                last.entries += 1;
                return Ok(());
            }
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
        self.tables.push(Table {
            database_id: text(database_id)?,
            table_schema: text(table_schema)?,
            table_name: text(table_name)?,
            entries: 1,
        });
        Ok(())
    }
}
