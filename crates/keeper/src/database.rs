//! The audit database: what is asked of it, in one snapshot at a time.

use crate::column::{Column, Kind};
use crate::manifest::{Seen, Server};
use crate::month::Month;
use anyhow::{Context, ensure};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Executor, Row};
use url::Url;

/// Of a database's URL.
pub const PARAMETERS: &[&str] =
    &["host", "hostaddr", "port", "user", "password", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey"];

/// The schema is looked up: the role's search_path need not know it.
const SERVER: &str = "SELECT quote_ident(n.nspname) AS schema, e.extversion AS version,
    current_database() AS database, (SELECT s.system_identifier::text FROM pg_control_system() AS s) AS identifier
  FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
  WHERE e.extname = 'audit_cdc'";
/// Each month of the log is a partition, or its days are.
const MONTHS: &str = "SELECT DISTINCT m.month
  FROM pg_catalog.pg_inherits AS i
  JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
  CROSS JOIN LATERAL (SELECT replace(substr(c.relname, 5, 7), '_', '-') AS month) AS m
  WHERE i.inhparent = 'audit_cdc_internal.log'::regclass
    AND m.month ~ '^[0-9]{4}-[0-9]{2}$'
    AND (to_date(m.month, 'YYYY-MM') + interval '1 month') AT TIME ZONE 'UTC' <= now()
  ORDER BY 1";
/// The order of an archive: by table and record, and of a record in the order of its commits. Texts go by their bytes,
/// so that another server sorts the same.
pub const ORDER: &str = "database_id COLLATE \"C\", table_schema COLLATE \"C\", table_name COLLATE \"C\",
  record_key COLLATE \"C\", commit_timestamp, commit_lsn, commit_idx, id";

pub struct Database {
    pub connection: PgConnection,
    /// Quoted.
    pub schema: String,
    pub server: Server,
}

/// What would be passed over in silence is refused. The messages name no value: it may be a password.
fn options(address: &str) -> anyhow::Result<PgConnectOptions> {
    let url = Url::parse(address).ok().filter(|url| ["postgres", "postgresql"].contains(&url.scheme()));
    let url = url.context("the address of the database is no URL that begins with postgres://")?;
    for (key, _) in url.query_pairs() {
        ensure!(PARAMETERS.contains(&key.as_ref()), "the address of the database has an unknown parameter \"{key}\"");
    }
    if let Ok(mode) = std::env::var("PGSSLMODE") {
        ensure!(mode.parse::<PgSslMode>().is_ok(), "PGSSLMODE is \"{mode}\", which is no sslmode");
    }
    PgConnectOptions::from_url(&url).context("the address of the database cannot be used")
}

impl Database {
    /// What is text in an entry is written under the session's settings.
    pub async fn connect(address: &str) -> anyhow::Result<Self> {
        let options = options(address)?.application_name("audit-keeper").disable_statement_logging();
        let mut connection = options.connect().await.context("the database cannot be reached")?;
        let settings = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET statement_timeout = 0;
          SET idle_in_transaction_session_timeout = 0; SET search_path = pg_catalog;
          SET standard_conforming_strings = on";
        connection.execute(settings).await?;
        let row = connection.fetch_optional(SERVER).await?;
        let row = row.context("the extension audit_cdc is not installed in this database")?;
        let server = Server {
            system_identifier: row.try_get("identifier")?,
            database: row.try_get("database")?,
            extension_version: row.try_get("version")?,
        };
        let schema = row.try_get("schema")?;
        Ok(Self { connection, schema, server })
    }

    /// From now on all is read as it is at this moment.
    pub async fn begin(&mut self) -> anyhow::Result<()> {
        self.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await
    }

    pub async fn run(&mut self, sql: &str) -> anyhow::Result<()> {
        self.connection.execute(sql).await?;
        Ok(())
    }

    pub async fn text(&mut self, sql: &str) -> anyhow::Result<String> {
        Ok(self.connection.fetch_one(sql).await?.try_get(0)?)
    }

    pub async fn number(&mut self, sql: &str) -> anyhow::Result<u64> {
        let number: i64 = self.connection.fetch_one(sql).await?.try_get(0)?;
        Ok(u64::try_from(number)?)
    }

    pub async fn read_at(&mut self) -> anyhow::Result<String> {
        self.text("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')").await
    }

    /// Months of the log that are over, the oldest first.
    pub async fn closed_months(&mut self) -> anyhow::Result<Vec<Month>> {
        let rows = self.connection.fetch_all(MONTHS).await?;
        let months = rows.iter().map(|row| {
            let text: String = row.try_get("month")?;
            text.parse::<Month>().map_err(anyhow::Error::msg)
        });
        months.collect()
    }

    /// Whether a month is over, by the server's clock.
    pub async fn is_closed(&mut self, month: Month) -> anyhow::Result<bool> {
        let sql = format!("SELECT (timestamptz '{}' <= now())::integer::bigint", month.next().begins());
        Ok(self.number(&sql).await? == 1)
    }

    /// Columns of the log as people read it.
    pub async fn columns(&mut self) -> anyhow::Result<Vec<Column>> {
        let sql = format!(
            "SELECT a.attname::text AS name, format_type(a.atttypid, NULL) AS type FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = {}::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            literal(&format!("{}.audit_logs", self.schema))
        );
        let rows = self.connection.fetch_all(sql.as_str()).await?;
        let columns = rows.iter().map(|row| {
            let kind: String = row.try_get("type")?;
            Ok(Column { name: row.try_get("name")?, kind: Kind::of(&kind)? })
        });
        columns.collect()
    }

    pub async fn seen(&mut self, month: Month) -> anyhow::Result<Seen> {
        let schema = self.schema.clone();
        let entries = format!("SELECT count(*) FROM {schema}.audit_logs WHERE {}", month.contains("commit_timestamp"));
        let removed = format!(
            "SELECT coalesce(sum(entries), 0)::bigint FROM {schema}.audit_removed WHERE month = '{}'",
            month.first_day()
        );
        let erasures = format!(
            "SELECT count(*) FROM {schema}.audit_erasures
             WHERE newest >= timestamptz '{}' AND oldest < timestamptz '{}'",
            month.begins(),
            month.next().begins()
        );
        Ok(Seen {
            entries: self.number(&entries).await?,
            removed: self.number(&removed).await?,
            erasures: self.number(&erasures).await?,
        })
    }

    /// A query for the entries of a month, in no order.
    pub fn entries(&self, month: Month, columns: &str) -> String {
        format!("SELECT {columns} FROM {}.audit_logs WHERE {}", self.schema, month.contains("commit_timestamp"))
    }
}

/// A name for a query. Names of a manifest are whatever somebody has written there.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text for a query, under standard_conforming_strings.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Names of columns, for a query.
pub fn names(columns: &[Column]) -> String {
    let quoted: Vec<_> = columns.iter().map(|column| quoted(&column.name)).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::{literal, options, quoted};

    #[test]
    fn a_name_or_text_ends_where_it_should() {
        assert_eq!(quoted(r#"id" bigint); DROP TABLE t; --"#), r#""id"" bigint); DROP TABLE t; --""#);
        assert_eq!(literal("it's; --"), "'it''s; --'");
    }

    #[test]
    fn what_an_address_cannot_say_is_refused() {
        assert!(options("postgres://keeper@db/audit?sslmode=verify-full").is_ok());
        for address in ["", "host=db", "mysql://db", "postgres://db?sslmoed=require"] {
            assert!(options(address).is_err(), "{address}");
        }
    }
}
