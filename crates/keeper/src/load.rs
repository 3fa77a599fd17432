//! An archived month into a table: of a restore for good, otherwise to compare.

use crate::column::Column;
use crate::copy::Joiner;
use crate::database::{Database, names, quoted};
use crate::file;
use crate::manifest::Manifest;
use crate::month::Month;
use crate::place::{Place, Remote};
use anyhow::{Context, ensure};
use bytes::Bytes;
use tokio::sync::mpsc;

/// Parts of a file that wait for the database.
const PARTS_AHEAD: usize = 4;

/// Makes `table`, with the columns that the manifest tells, and fills it. What it then holds is what was archived, or
/// this fails. `kind`: TABLE or TEMP TABLE.
pub async fn load(
    database: &mut Database,
    place: &Place,
    month: Month,
    manifest: &Manifest,
    kind: &str,
    table: &str,
) -> anyhow::Result<()> {
    let columns: Vec<_> =
        manifest.columns.iter().map(|column| format!("{} {}", quoted(&column.name), column.kind.postgres())).collect();
    database.run(&format!("CREATE {kind} {table} ({})", columns.join(", "))).await?;
    let files = opened(place, month, manifest).await?;
    let (sender, mut receiver) = mpsc::channel::<Bytes>(PARTS_AHEAD);
    let columns = manifest.columns.clone();
    let reading = tokio::task::spawn_blocking(move || {
        read(files, &columns, |bytes| sender.blocking_send(bytes).context("the database takes no more"))
    });
    let sql = format!("COPY {table} ({}) FROM STDIN (FORMAT binary)", names(&manifest.columns));
    let mut copy = database.connection.copy_in_raw(&sql).await?;
    while let Some(part) = receiver.recv().await {
        copy.send(part).await?;
    }
    // a file that cannot be read says more than a stream that breaks off
    let found = match reading.await? {
        Ok(read) => read,
        Err(error) => {
            copy.abort("the file cannot be read").await.ok();
            return Err(error);
        }
    };
    copy.finish().await?;
    compared(month, manifest, found)
}

/// Fails if the files of a month do not hold what its manifest tells.
pub async fn check(place: &Place, month: Month, manifest: &Manifest) -> anyhow::Result<()> {
    let (files, columns) = (opened(place, month, manifest).await?, manifest.columns.clone());
    let found = tokio::task::spawn_blocking(move || read(files, &columns, |_| Ok(()))).await??;
    compared(month, manifest, found)
}

async fn opened(place: &Place, month: Month, manifest: &Manifest) -> anyhow::Result<Vec<Remote>> {
    let mut files = vec![];
    for file in &manifest.files {
        files.push(place.open(&month.path(&file.name)).await?);
    }
    Ok(files)
}

/// Gives each part of a stream of COPY, and tells its digest and its entries.
fn read(
    files: Vec<Remote>,
    columns: &[Column],
    mut each: impl FnMut(Bytes) -> anyhow::Result<()>,
) -> anyhow::Result<(String, u64)> {
    let (mut joiner, header) = Joiner::new();
    let mut entries = 0;
    each(header)?;
    for one in files {
        file::read(one, columns, |rows| {
            entries += rows.len() as u64;
            each(joiner.rows(&rows)?)
        })?;
    }
    let (trailer, digest) = joiner.finish();
    each(trailer)?;
    Ok((digest, entries))
}

fn compared(month: Month, manifest: &Manifest, (digest, entries): (String, u64)) -> anyhow::Result<()> {
    ensure!(
        digest == manifest.digest && entries == manifest.entries,
        "the files of {month} do not hold what its manifest tells: {entries} entries instead of {}, digest {digest}",
        manifest.entries
    );
    Ok(())
}
