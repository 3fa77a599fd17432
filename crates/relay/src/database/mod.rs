//! The audit database: `audit_ingest`, one call a transaction, over connections of which each belongs to one
//! [`Writer`](writer::Writer).

mod counts;
mod failure;
mod route;
mod writer;

pub use counts::Counts;
pub use failure::Failure;
pub use route::Databases;

use crate::config::{PARAMETERS, Secret};
use crate::metrics::Metrics;
use anyhow::{Context, ensure};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Executor, Row};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use url::Url;

/// The schema is looked up: the role's search_path need not know it.
const FIND: &str = "SELECT quote_ident(n.nspname) AS schema, e.extversion AS version
  FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
  WHERE e.extname = 'audit_cdc'";

/// What is acknowledged must survive a crash, whatever is usual for the role. Each transaction is told anew: a pooler
/// may give the next one another session.
fn begin(call_timeout: Duration) -> String {
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT set_config('statement_timeout', '{}', true),
           CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END",
        call_timeout.as_millis()
    )
}

pub struct Database {
    options: PgConnectOptions,
    call_timeout: Duration,
    begin: String,
    metrics: Arc<Metrics>,
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
    fn at(address: &Secret, call_timeout: Duration, metrics: Arc<Metrics>) -> anyhow::Result<Arc<Self>> {
        let options = options(address.expose())?;
        // poolers refuse a connection that asks for extra_float_digits
        let options = options.application_name("audit-relay").extra_float_digits(None);
        Ok(Arc::new(Self {
            options: options.disable_statement_logging(),
            begin: begin(call_timeout),
            call_timeout,
            metrics,
        }))
    }

    /// No secret is in it.
    pub fn address(&self) -> String {
        let database = self.options.get_database().unwrap_or(self.options.get_username());
        let host = match self.options.get_socket() {
            Some(directory) => directory.display().to_string(),
            None => self.options.get_host().to_owned(),
        };
        format!("\"{database}\" at {host}:{} as \"{}\"", self.options.get_port(), self.options.get_username())
    }

    pub async fn connect(&self) -> Result<PgConnection, Failure> {
        let connecting = timeout(self.call_timeout, self.options.connect());
        Ok(connecting.await.map_err(|_| Failure::away("connecting took too long"))??)
    }

    /// Schema, quoted, and version of the extension.
    pub async fn extension(&self, connection: &mut PgConnection) -> Result<(String, String), Failure> {
        let row = connection.fetch_optional(FIND).await?;
        let row = row.ok_or_else(|| Failure::away("the extension audit_cdc is not installed in this database"))?;
        Ok((row.try_get("schema")?, row.try_get("version")?))
    }
}
