//! Of a month's files: those that are not as its manifest tells.

use crate::month::Month;
use crate::place::Place;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct File {
    pub name: String,
    pub bytes: u64,
    pub entries: u64,
    pub sha256: String,
}

/// By their bytes: each is read whole.
pub async fn altered(place: &Place, month: Month, files: &[File]) -> anyhow::Result<Vec<String>> {
    let mut lines = resized(place, month, files).await?;
    if !lines.is_empty() {
        return Ok(lines);
    }
    for file in files {
        let name = &file.name;
        match place.sum(&month.path(name)).await? {
            None => lines.push(format!("{name} is missing")),
            Some((bytes, sha256)) if bytes == file.bytes && sha256 == file.sha256 => {}
            Some(_) => lines.push(format!("{name} was altered")),
        }
    }
    Ok(lines)
}

/// By their sizes, which costs nothing.
pub async fn resized(place: &Place, month: Month, files: &[File]) -> anyhow::Result<Vec<String>> {
    let mut lines = vec![];
    for file in files {
        let name = &file.name;
        match place.size(&month.path(name)).await? {
            None => lines.push(format!("{name} is missing")),
            Some(bytes) if bytes != file.bytes => {
                lines.push(format!("{name} has {bytes} bytes instead of {}", file.bytes));
            }
            Some(_) => {}
        }
    }
    Ok(lines)
}
