//! What the database has on record of an archive, in `audit_archives`. By it retention sees what may go.

use crate::database::Database;
use crate::manifest::Manifest;
use crate::month::Month;
use crate::place::Place;
use anyhow::Context;
use sqlx::Row;

/// A month is archived, as its manifest tells. What is on record already is not noted twice.
pub async fn note(database: &mut Database, place: &Place, month: Month, manifest: &Manifest) -> anyhow::Result<()> {
    let sql = format!("SELECT {}.audit_archived($1::text::date, $2, $3, $4, $5, $6, $7)", database.schema);
    let seen = manifest.seen;
    sqlx::query(&sql)
        .bind(month.first_day())
        .bind(&place.name)
        .bind(i64::try_from(manifest.entries)?)
        .bind(&manifest.digest)
        .bind(i64::try_from(seen.entries)?)
        .bind(i64::try_from(seen.removed)?)
        .bind(i64::try_from(seen.erasures)?)
        .fetch_one(&mut database.connection)
        .await
        .with_context(|| format!("{month} is archived, but that is not on record"))?;
    Ok(())
}

/// A month is not as it should be. Nothing happens if it is not on record.
pub async fn note_failed(database: &mut Database, place: &Place, month: Month, reason: &str) -> anyhow::Result<()> {
    let sql = format!("SELECT {}.audit_archive_failed($1::text::date, $2, $3)", database.schema);
    let reason: String = reason.chars().take(300).collect();
    let asked = sqlx::query(&sql).bind(month.first_day()).bind(&place.name).bind(reason);
    asked.fetch_one(&mut database.connection).await?;
    Ok(())
}

/// Months that are on record in this place, and whether each has failed.
pub async fn recorded(database: &mut Database, place: &Place) -> anyhow::Result<Vec<(Month, bool)>> {
    let sql = format!(
        "SELECT to_char(month, 'YYYY-MM') AS month, failed_at IS NOT NULL AS has_failed FROM {}.audit_archives
         WHERE place = $1 ORDER BY month",
        database.schema
    );
    let rows = sqlx::query(&sql).bind(&place.name).fetch_all(&mut database.connection).await?;
    let months = rows.iter().map(|row| {
        let text: String = row.try_get("month")?;
        Ok((text.parse::<Month>().map_err(anyhow::Error::msg)?, row.try_get("has_failed")?))
    });
    months.collect()
}
