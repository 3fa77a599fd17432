//! Options of all sources.

use super::route::Route;
use super::secret::Secret;
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use humantime::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;
use tracing::level_filters::LevelFilter;

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of all sources")]
pub struct Common {
    /// Configuration file, TOML
    #[arg(long, env = "AUDIT_RELAY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The audit database, e.g. postgres://relay@db.example/audit?sslmode=verify-full. What it does not say comes
    /// from PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD, PGPASSFILE, PGSSLMODE and PGSSLROOTCERT, as with psql.
    /// With a password in it: only from environment or file
    #[arg(
        long, env = "AUDIT_RELAY_DATABASE", value_name = "URL", hide_env_values = true,
        hide_default_value = true, default_value = "postgres:", value_parser = Secret::url
    )]
    pub database: Secret,
    /// Of a file with sections [database.NAME]: instead of `database`
    #[arg(skip)]
    pub routes: Vec<Route>,
    /// Connections to each database, each with one call of audit_ingest at a time
    #[arg(
        long, env = "AUDIT_RELAY_CONNECTIONS", value_name = "N", default_value_t = 2,
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    pub connections: u16,
    /// Messages (of the webhook and files: bodies) that one call takes at most
    #[arg(
        long, env = "AUDIT_RELAY_BATCH_MESSAGES", value_name = "N", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    pub batch_messages: u32,
    /// Bytes after which a call takes no more
    #[arg(long, env = "AUDIT_RELAY_BATCH_BYTES", value_name = "SIZE", default_value = "8MiB")]
    pub batch_bytes: ByteSize,
    /// How long a call waits for more messages, once it has one. While calls run, messages gather anyway
    #[arg(long, env = "AUDIT_RELAY_BATCH_WAIT", value_name = "TIME", default_value = "0s")]
    pub batch_wait: Duration,
    /// How long a call may take, connecting included, before it is cancelled and counts as failed
    #[arg(long, env = "AUDIT_RELAY_CALL_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = positive)]
    pub call_timeout: Duration,
    /// After SIGTERM or SIGINT: how long to finish what is held before it is returned to the source
    #[arg(long, env = "AUDIT_RELAY_STOP_TIMEOUT", value_name = "TIME", default_value = "20s")]
    pub stop_timeout: Duration,
    /// Address of /healthz, /readyz and /metrics (the webhook serves them at its own address)
    #[arg(long, env = "AUDIT_RELAY_METRICS", value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
    /// off, error, warn, info, debug or trace
    #[arg(long, env = "AUDIT_RELAY_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LevelFilter,
    /// Form of the log, on standard error
    #[arg(long, env = "AUDIT_RELAY_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

pub fn positive(text: &str) -> Result<Duration, String> {
    let duration: Duration = text.parse().map_err(|error| format!("{error}"))?;
    if duration.is_zero() { Err("must be longer than 0".into()) } else { Ok(duration) }
}
