//! What a month's manifest says: the file `_manifest.json`, written last. Without it a month is not archived.

use crate::column::Column;
use crate::month::Month;
use crate::place::Place;
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// Spark and others pass over names that begin so.
const NAME: &str = "_manifest.json";
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

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct File {
    pub name: String,
    pub bytes: u64,
    pub entries: u64,
    pub sha256: String,
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

    /// `None`: the month is not archived.
    pub async fn read(place: &Place, month: Month) -> anyhow::Result<Option<Self>> {
        let name = format!("{}/{NAME}", month.folder());
        let Some(bytes) = place.get(&name).await? else { return Ok(None) };
        let manifest: Self = serde_json::from_slice(&bytes).with_context(|| format!("{name} cannot be read"))?;
        ensure!(manifest.format == FORMAT, "{name} has format {}, this program reads {FORMAT}", manifest.format);
        ensure!(manifest.month == month.to_string(), "{name} is that of {}", manifest.month);
        Ok(Some(manifest))
    }

    pub async fn write(&self, place: &Place, month: Month) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        place.put(&format!("{}/{NAME}", month.folder()), text.into_bytes()).await
    }
}

/// Months that are archived, the oldest first.
pub async fn archived(place: &Place) -> anyhow::Result<Vec<(Month, Manifest)>> {
    let mut found = vec![];
    for name in place.folders().await? {
        let Some(Ok(month)) = name.strip_prefix("month=").map(str::parse::<Month>) else { continue };
        if let Some(manifest) = Manifest::read(place, month).await? {
            found.push((month, manifest));
        }
    }
    found.sort_by_key(|(month, _)| *month);
    Ok(found)
}
