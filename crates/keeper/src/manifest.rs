//! What a month's manifest says: the file `_manifest.json`, written last. Without it a month is not archived.

use crate::column::Column;
use crate::files::{File, altered};
use crate::month::Month;
use crate::place::Place;
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// Spark and others pass over names that begin so.
const NAME: &str = "_manifest.json";
/// What is to replace it, while the files are replaced.
const NEXT: &str = "_manifest.next.json";
/// Changes where an older keeper would misread what is written.
const FORMAT: u32 = 1;

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Manifest {
    pub format: u32,
    pub month: String,
    /// In the files.
    pub entries: u64,
    /// SHA-256 of COPY of all entries, in binary and in their order.
    pub digest: String,
    pub files: Vec<File>,
    pub tables: Vec<Table>,
    pub columns: Vec<Column>,
    pub seen: Seen,
    pub server: Server,
    /// Of the snapshot that was read.
    pub read_at: String,
    pub keeper_version: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Table {
    pub database_id: String,
    pub table_schema: String,
    pub table_name: String,
    pub entries: u64,
}

/// What the database had of the month. By it the next run sees whether anything has changed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Seen {
    /// In the log.
    pub entries: u64,
    /// That retention had removed.
    pub removed: u64,
    /// Erasures that had reached the month.
    pub erasures: u64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Server {
    pub system_identifier: String,
    pub database: String,
    pub extension_version: String,
}

impl Server {
    /// The version may change.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.system_identifier, &self.database) == (&other.system_identifier, &other.database)
    }
}

impl Manifest {
    pub const FORMAT: u32 = FORMAT;

    /// `None`: the month is not archived. A run that was killed may have replaced the files, and not this manifest.
    pub async fn read(place: &Place, month: Month) -> anyhow::Result<Option<Self>> {
        match Self::parse(place, month, NEXT).await? {
            Some(next) if altered(place, month, &next.files).await?.is_empty() => Ok(Some(next)),
            _ => Self::parse(place, month, NAME).await,
        }
    }

    async fn parse(place: &Place, month: Month, name: &str) -> anyhow::Result<Option<Self>> {
        let Some(bytes) = place.get(&month.path(name)).await? else { return Ok(None) };
        let manifest: Self = serde_json::from_slice(&bytes).with_context(|| format!("{name} cannot be read"))?;
        ensure!(manifest.format == FORMAT, "{name} has format {}, this program reads {FORMAT}", manifest.format);
        ensure!(manifest.month == month.to_string(), "{name} is that of {}", manifest.month);
        Ok(Some(manifest))
    }

    /// Before the files: it tells a later run whether they are those of this manifest.
    pub async fn announce(&self, place: &Place, month: Month) -> anyhow::Result<()> {
        place.put(&month.path(NEXT), self.text()?).await
    }

    /// After the files: it is what is announced no more.
    pub async fn conclude(&self, place: &Place, month: Month) -> anyhow::Result<()> {
        self.write(place, month).await?;
        place.delete(&month.path(NEXT)).await
    }

    pub async fn write(&self, place: &Place, month: Month) -> anyhow::Result<()> {
        place.put(&month.path(NAME), self.text()?).await
    }

    /// Ends what a run that was killed has begun.
    pub async fn settle(place: &Place, month: Month) -> anyhow::Result<()> {
        let Some(next) = Self::parse(place, month, NEXT).await? else { return Ok(()) };
        if altered(place, month, &next.files).await?.is_empty() {
            next.write(place, month).await?;
        }
        place.delete(&month.path(NEXT)).await
    }

    fn text(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text.into_bytes())
    }

    /// So many entries the archive may have that the log has not: retention has removed them.
    pub fn gone(&self, now: Seen) -> u64 {
        now.removed.saturating_sub(self.seen.removed) + self.entries.saturating_sub(self.seen.entries)
    }
}

/// Months that have a manifest, the oldest first, and what it says or why it cannot be read.
pub async fn archived(place: &Place) -> anyhow::Result<Vec<(Month, anyhow::Result<Manifest>)>> {
    let mut found = vec![];
    for month in months(place).await? {
        if let Some(manifest) = Manifest::read(place, month).await.transpose() {
            found.push((month, manifest));
        }
    }
    Ok(found)
}

/// Months that have a folder, the oldest first.
pub async fn months(place: &Place) -> anyhow::Result<Vec<Month>> {
    let names = place.folders().await?;
    let mut found: Vec<_> = names.iter().filter_map(|name| name.strip_prefix("month=")?.parse().ok()).collect();
    found.sort();
    Ok(found)
}
