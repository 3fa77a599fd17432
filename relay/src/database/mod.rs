//! The audit database: `audit_ingest`, one call a transaction, over connections of which each belongs to one [`Writer`].

mod failure;

pub use failure::Failure;

use crate::config::Common;
use crate::metrics::Metrics;
use crate::stop::Stop;
use anyhow::Context;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long to wait between attempts while the database is away, first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The schema is looked up: the role's search_path need not know it.
const FIND: &str = "SELECT quote_ident(n.nspname) AS schema, e.extversion AS version
  FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'audit_cdc'";

/// What is acknowledged must survive a crash, whatever is usual for the role.
const SETTINGS: &str = "SELECT set_config('statement_timeout', $1, false),
  set_config('default_transaction_isolation', 'read committed', false),
  CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END";

pub struct Database {
    options: PgConnectOptions,
    call_timeout: Duration,
    metrics: Arc<Metrics>,
}

/// What became of the messages of one call, as audit_ingest tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub inserted: u64,
    pub duplicates: u64,
    pub rejected: u64,
}

impl Database {
    pub fn of(common: &Common, metrics: Arc<Metrics>) -> anyhow::Result<Arc<Self>> {
        let options: PgConnectOptions =
            common.database.expose().parse().context("the address of the database is no URL")?;
        Ok(Arc::new(Self {
            options: options.application_name("audit-relay").disable_statement_logging(),
            call_timeout: *common.call_timeout,
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
        let mut connection = connecting.await.map_err(|_| Failure::away("connecting took too long"))??;
        sqlx::query(SETTINGS).bind(self.call_timeout.as_millis().to_string()).execute(&mut connection).await?;
        Ok(connection)
    }

    /// Schema, quoted, and version of the extension.
    pub async fn extension(&self, connection: &mut PgConnection) -> Result<(String, String), Failure> {
        let row = sqlx::query(FIND).fetch_optional(connection).await?;
        let row = row.ok_or_else(|| Failure::away("the extension audit_cdc is not installed in this database"))?;
        Ok((row.try_get("schema")?, row.try_get("version")?))
    }

    /// Connects, and looks whether audit_ingest may be called.
    pub async fn probe(&self) -> Result<(), Failure> {
        let probing = async {
            let mut connection = self.connect().await?;
            let (schema, _) = self.extension(&mut connection).await?;
            let allowed: bool =
                sqlx::query("SELECT has_function_privilege($1::text::regprocedure, 'EXECUTE') AS allowed")
                    .bind(format!("{schema}.audit_ingest(text[])"))
                    .fetch_one(&mut connection)
                    .await?
                    .try_get("allowed")?;
            connection.close().await.ok();
            if allowed {
                Ok(())
            } else {
                Err(Failure::away("the role may not call audit_ingest: GRANT audit_cdc_ingest TO it"))
            }
        };
        timeout(self.call_timeout, probing).await.unwrap_or_else(|_| Err(Failure::away("no answer in time")))
    }

    pub fn writer(self: &Arc<Self>) -> Writer {
        Writer { database: self.clone(), session: None }
    }
}

struct Session {
    connection: PgConnection,
    call: String,
}

/// One connection, made when it is needed and made anew when it was lost.
pub struct Writer {
    database: Arc<Database>,
    session: Option<Session>,
}

impl Writer {
    /// Hands bodies over until they are stored, however long the database is away. Tells of each body whether it was
    /// taken; `None` if it was told to stop before: then nobody knows.
    pub async fn store(&mut self, bodies: &[&str], stop: &Stop) -> Option<Vec<bool>> {
        let mut pause = FIRST_PAUSE;
        loop {
            let results = stop.now.run_until_cancelled(self.ingest(bodies)).await?;
            if results.iter().all(|result| !result.as_ref().is_err_and(|failure| !failure.refused)) {
                return Some(results.into_iter().map(|result| result.is_ok()).collect());
            }
            stop.now.run_until_cancelled(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Hands bodies over once. If the database refuses what is in them, each goes alone, so that one does not hold up others.
    pub async fn ingest(&mut self, bodies: &[&str]) -> Vec<Result<(), Failure>> {
        let whole = self.call(bodies).await;
        let refused = whole.as_ref().is_err_and(|failure| failure.refused);
        if !refused || bodies.len() == 1 {
            return vec![whole; bodies.len()];
        }
        let mut results = Vec::with_capacity(bodies.len());
        for body in bodies {
            results.push(self.call(&[body]).await);
        }
        results
    }

    async fn call(&mut self, bodies: &[&str]) -> Result<(), Failure> {
        let start = Instant::now();
        let mut result = self.try_call(bodies).await;
        if result.as_ref().is_err_and(|failure| failure.connection_lost) {
            // after a restart every connection that was idle fails once
            result = self.try_call(bodies).await;
        }
        self.database.metrics.called(start.elapsed(), &result);
        match result {
            Ok(counts) => {
                tracing::debug!(bodies = bodies.len(), ?counts, "stored");
                if counts.rejected > 0 {
                    tracing::warn!(rejected = counts.rejected, "the database set messages aside: see audit_rejects");
                }
                Ok(())
            }
            Err(failure) => {
                tracing::warn!(bodies = bodies.len(), "not stored: {failure}");
                Err(failure)
            }
        }
    }

    /// The session is put back only after a good end, so that it is closed however else this ends.
    async fn try_call(&mut self, bodies: &[&str]) -> Result<Counts, Failure> {
        // the server's statement_timeout comes first, unless the server cannot be heard
        let patience = self.database.call_timeout + Duration::from_secs(1);
        let calling = async {
            let mut session = match self.session.take() {
                Some(session) => session,
                None => self.connect().await?,
            };
            let row = sqlx::query(&session.call).bind(bodies).fetch_one(&mut session.connection).await;
            match row {
                Ok(row) => {
                    let count = |column| row.try_get::<i64, _>(column).map(|count| count as u64);
                    let counts = Counts {
                        inserted: count("inserted")?,
                        duplicates: count("duplicates")?,
                        rejected: count("rejected")?,
                    };
                    self.session = Some(session);
                    Ok(counts)
                }
                Err(error) => {
                    let failure = Failure::from(error);
                    if failure.refused {
                        self.session = Some(session);
                    }
                    Err(failure)
                }
            }
        };
        timeout(patience, calling).await.unwrap_or_else(|_| Err(Failure::away("no answer in time")))
    }

    async fn connect(&self) -> Result<Session, Failure> {
        let mut connection = self.database.connect().await?;
        let (schema, _) = self.database.extension(&mut connection).await?;
        Ok(Session {
            connection,
            call: format!("SELECT inserted, duplicates, rejected FROM {schema}.audit_ingest($1)"),
        })
    }
}
