//! One connection that hands bodies to `audit_ingest`.

use super::{Counts, Database, Failure};
use crate::stop::Stop;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Encode, Executor, Postgres, Row, Type};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long to wait between attempts while the database is away, first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Whatever stands between may have forgotten a connection that was idle for longer.
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// One connection, made when it is needed and made anew when it was lost.
pub struct Writer {
    database: Arc<Database>,
    session: Option<Session>,
}

struct Session {
    connection: PgConnection,
    used: Instant,
    schema: String,
}

const PROBE: &str =
    "SELECT count(*) = 1 AS there, coalesce(bool_and(has_function_privilege(p.oid, 'EXECUTE')), false) AS allowed,
    current_setting('transaction_read_only')::boolean AS read_only
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_extension e ON e.extnamespace = p.pronamespace
  WHERE e.extname = 'audit_cdc' AND p.proname = $1 AND p.pronargs = 1 AND p.proargtypes[0] = 'text[]'::regtype";

impl Database {
    pub fn writer(self: &Arc<Self>) -> Writer {
        Writer { database: self.clone(), session: None }
    }

    /// A transaction of its own, so that a pooler gives all of it one session. The statement has no name, which the
    /// next session would not know.
    async fn in_transaction<A>(&self, connection: &mut PgConnection, sql: &str, argument: A) -> Result<PgRow, Failure>
    where
        A: Send + for<'q> Encode<'q, Postgres> + Type<Postgres>,
    {
        connection.execute(self.begin.as_str()).await?;
        let asked = sqlx::query(sql).persistent(false).bind(argument).fetch_one(&mut *connection).await;
        let answer = asked.map_err(Failure::from);
        if answer.as_ref().err().is_none_or(|failure| failure.refused) {
            connection.execute(if answer.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        }
        answer
    }
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

    /// Hands bodies over once. If the database refuses what is in them, each goes alone, so that one does not hold
    /// up others.
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

    /// Looks whether audit_ingest may be called, and could store anything.
    pub async fn probe(&mut self) -> Result<(), Failure> {
        let row = self.ask(|_| PROBE.to_owned(), "audit_ingest").await?;
        if !row.try_get::<bool, _>("there")? {
            return Err(Failure::away(
                "the extension audit_cdc is older than this relay: ALTER EXTENSION audit_cdc UPDATE",
            ));
        }
        if !row.try_get::<bool, _>("allowed")? {
            return Err(Failure::away("the role may not call audit_ingest: GRANT audit_cdc_ingest TO it"));
        }
        if row.try_get::<bool, _>("read_only")? {
            return Err(Failure::away("the database is read-only: is it a standby?"));
        }
        Ok(())
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

    async fn try_call(&mut self, bodies: &[&str]) -> Result<Counts, Failure> {
        let call = |schema: &str| format!("SELECT inserted, duplicates, rejected FROM {schema}.audit_ingest($1)");
        let row = self.ask(call, bodies).await?;
        let count = |column| row.try_get::<i64, _>(column).map(|count| count as u64);
        Ok(Counts { inserted: count("inserted")?, duplicates: count("duplicates")?, rejected: count("rejected")? })
    }

    /// The session is put back only after an answer, so that it is closed however else this ends.
    async fn ask<A>(&mut self, sql: fn(&str) -> String, argument: A) -> Result<PgRow, Failure>
    where
        A: Send + for<'q> Encode<'q, Postgres> + Type<Postgres>,
    {
        // the server's statement_timeout comes first, unless the server cannot be heard
        let patience = self.database.call_timeout + Duration::from_secs(1);
        let asking = async {
            let mut session = match self.session.take().filter(|session| session.used.elapsed() < LONGEST_IDLE) {
                Some(session) => session,
                None => self.connect().await?,
            };
            let sql = sql(&session.schema);
            let answer = self.database.in_transaction(&mut session.connection, &sql, argument).await;
            if answer.as_ref().err().is_none_or(|failure| failure.refused) {
                session.used = Instant::now();
                self.session = Some(session);
            }
            answer
        };
        timeout(patience, asking).await.unwrap_or_else(|_| Err(Failure::away("no answer in time")))
    }

    async fn connect(&self) -> Result<Session, Failure> {
        let mut connection = self.database.connect().await?;
        let (schema, _) = self.database.extension(&mut connection).await?;
        Ok(Session { connection, used: Instant::now(), schema })
    }
}
