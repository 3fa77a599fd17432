//! `audit-keeper archive`: months of the log that are over become files.

use crate::column::Column;
use crate::copy::{Row, Splitter};
use crate::database::{Database, ORDER, names};
use crate::file::Writer;
use crate::files::{File, altered, resized};
use crate::manifest::{Manifest, Seen, Table, archived, months};
use crate::merge::{Merged, merged};
use crate::month::Month;
use crate::place::{Place, Upload};
use crate::plan::{Plan, plan};
use crate::progress::Progress;
use crate::record::{note, recorded};
use crate::verify::differences;
use anyhow::{Context, bail, ensure};
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
    for month in months(place).await? {
        // why it fails is told below
        Manifest::settle(place, month).await.ok();
    }
    let mut found = archived(place).await?;
    accept(database, place, &mut found, options).await?;
    let mut closed = database.closed_months().await?;
    closed.retain(|month| options.until.is_none_or(|until| *month <= until));
    let recorded = recorded(database, place).await?;
    let mut troubles = Troubles::default();
    for (month, manifest) in &found {
        if let Err(error) = manifest {
            eprintln!("{month}: {error:#}");
            troubles.unreadable.push(*month);
        }
    }
    closed.retain(|month| !troubles.unreadable.contains(month));
    for month in closed {
        let manifest = found.iter().find(|(archived, _)| *archived == month);
        let manifest = manifest.and_then(|(_, manifest)| manifest.as_ref().ok());
        let has_failed = recorded.contains(&(month, true));
        let outcome = match one(database, place, month, manifest, options.compare, has_failed).await {
            Ok(outcome) => outcome,
            Err(error) if database.run("ROLLBACK").await.is_ok() => {
                eprintln!("{month}: {error:#}");
                troubles.failed.push(month);
                continue;
            }
            Err(error) => return Err(error),
        };
        database.run("COMMIT").await?;
        match outcome {
            Outcome::Nothing => {}
            Outcome::Lost => troubles.lost.push(month),
            Outcome::Damaged => troubles.damaged.push(month),
            Outcome::Nameless => troubles.nameless.push(month),
            Outcome::Archived(manifest) => note(database, place, month, &manifest).await?,
        }
    }
    troubles.told()
}

/// Refuses an archive of another server, or makes it one of this server.
async fn accept(
    database: &Database,
    place: &Place,
    found: &mut [(Month, anyhow::Result<Manifest>)],
    options: &Options,
) -> anyhow::Result<()> {
    for (month, manifest) in found {
        let Ok(manifest) = manifest else { continue };
        if manifest.server.is_same(&database.server) {
            continue;
        }
        ensure!(
            options.accept_server,
            "the archive holds {month} of database \"{}\" of the server {}, and this is \"{}\" of {}: archive into \
             another place, or say --accept-server if the database was restored or upgraded",
            manifest.server.database,
            manifest.server.system_identifier,
            database.server.database,
            database.server.system_identifier
        );
        manifest.server = database.server.clone();
        manifest.write(place, *month).await?;
    }
    Ok(())
}

/// Months that are not archived as they should be.
#[derive(Default)]
struct Troubles {
    lost: Vec<Month>,
    damaged: Vec<Month>,
    nameless: Vec<Month>,
    unreadable: Vec<Month>,
    failed: Vec<Month>,
}

impl Troubles {
    fn told(&self) -> anyhow::Result<()> {
        let all = [
            (&self.lost, "the log has lost entries that retention did not remove; the archive keeps them"),
            (&self.damaged, "files are damaged, and the log has not all that was in them: bring them back from a copy"),
            (&self.nameless, "a file has no manifest, and retention has removed entries: bring back its manifest"),
            (&self.unreadable, "manifests cannot be read: bring them back from a copy"),
            (&self.failed, "these could not be archived"),
        ];
        let told = all.iter().filter(|(months, _)| !months.is_empty()).map(|(months, what)| {
            let names: Vec<_> = months.iter().map(Month::to_string).collect();
            format!("{what}: {}", names.join(", "))
        });
        let told: Vec<_> = told.collect();
        if told.is_empty() { Ok(()) } else { bail!("{}", told.join("; ")) }
    }
}

enum Outcome {
    Nothing,
    /// The log has lost entries.
    Lost,
    /// Its files are not what they were, and the log has not all that was in them.
    Damaged,
    /// There is a file without a manifest, and the log has not all that may be in it.
    Nameless,
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
    let Some(found) = found else { return first(database, place, month, now).await };
    let mut todo = plan(now, Some(found.seen));
    let lines = if has_failed {
        altered(place, month, &found.files).await?
    } else {
        resized(place, month, &found.files).await?
    };
    // a log that differs does not replace a whole file: the file may be what is right
    if !lines.is_empty() && !matches!(todo, Plan::Lost(_)) {
        if now.removed > 0 || now.entries < found.entries {
            eprintln!("{month}: files are damaged, and the log has not all that was in them: {}", lines.join(", "));
            return Ok(Outcome::Damaged);
        }
        todo = Plan::Write;
    }
    if todo == Plan::Keep && compares && now.entries > 0 {
        let differs = !differences(database, place, month, found, now).await?.is_empty();
        todo = if differs { Plan::Merge } else { Plan::Keep };
    }
    match todo {
        Plan::Nothing => Ok(Outcome::Nothing),
        Plan::Keep if has_failed => {
            eprintln!("{month}: archived already, but verify has failed: it tells why, and --compare writes it anew");
            Ok(Outcome::Nothing)
        }
        Plan::Keep => {
            eprintln!("{month}: archived already");
            Ok(Outcome::Archived(Box::new(found.clone())))
        }
        Plan::Lost(count) => Ok(lost(month, count)),
        Plan::Write => write(database, place, month, None, now).await,
        Plan::Merge => write(database, place, month, Some(found), now).await,
    }
}

/// A month without a manifest.
async fn first(database: &mut Database, place: &Place, month: Month, now: Seen) -> anyhow::Result<Outcome> {
    if now.removed > 0 && place.size(&month.path(FILE)).await?.is_some() {
        eprintln!("{month}: {FILE} has no manifest, and retention has removed entries: it is not overwritten");
        return Ok(Outcome::Nameless);
    }
    match plan(now, None) {
        Plan::Nothing => Ok(Outcome::Nothing),
        _ => write(database, place, month, None, now).await,
    }
}

fn lost(month: Month, count: u64) -> Outcome {
    eprintln!("{month}: the log has lost {count} entries that retention did not remove; nothing is written");
    Outcome::Lost
}

/// `found`: what the archive has besides stays in it.
async fn write(
    database: &mut Database,
    place: &Place,
    month: Month,
    found: Option<&Manifest>,
    seen: Seen,
) -> anyhow::Result<Outcome> {
    let columns = database.columns().await?;
    let query = match found {
        None => database.entries(month, &names(&columns)),
        Some(found) => match merged(database, place, month, found, &columns, seen).await? {
            Merged::Query(query) => query,
            Merged::Lost(count) => return Ok(lost(month, count)),
        },
    };
    let query = format!("COPY ({query} ORDER BY {ORDER}) TO STDOUT (FORMAT binary)");
    let manifest = upload(database, place, month, &columns, &query, seen).await;
    let manifest = manifest.with_context(|| format!("{month} is not archived"))?;
    Ok(Outcome::Archived(Box::new(manifest)))
}

async fn upload(
    database: &mut Database,
    place: &Place,
    month: Month,
    columns: &[Column],
    query: &str,
    seen: Seen,
) -> anyhow::Result<Manifest> {
    let read_at = database.read_at().await?;
    let server = database.server.clone();
    let mut upload = place.begin(&month.path(FILE)).await?;
    let mut progress = Progress::of(month, seen.entries);
    let (digest, tables) = match entries(database, columns, query, &mut upload, &mut progress).await {
        Ok(written) => written,
        Err(error) => {
            upload.abort().await;
            return Err(error);
        }
    };
    let (bytes, sha256) = upload.sum();
    let entries = tables.iter().map(|table| table.entries).sum();
    let manifest = Manifest {
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
    };
    // killed anywhere from here on, the archive has one month or the other, and its manifest
    manifest.announce(place, month).await?;
    upload.finish(place).await?;
    manifest.conclude(place, month).await?;
    progress.finish(entries, bytes);
    Ok(manifest)
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
