//! Flags, then environment, then the configuration file, then what is usual: each option is declared once, here or
//! beside its source.

mod file;
mod secret;

pub use secret::{PARAMETERS, Secret};

use crate::source::Relay;
use bytesize::ByteSize;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use humantime::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing::level_filters::LevelFilter;

/// Hands change messages from Sequin's sinks to audit_ingest in PostgreSQL, and acknowledges them once they are
/// committed.
///
/// Every option can be given as a flag, in the environment, or in a TOML file (--config), where its name is the
/// flag's with _ for -; options of all sources stand at the top, those of one in a section of its name. A flag goes
/// before the environment, that before the file.
#[derive(Debug, Parser)]
#[command(name = "audit-relay", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    #[command(flatten)]
    Run(Source),
    /// Prove a configuration: database, extension, rights and source are there. Takes no message.
    Check {
        #[command(subcommand)]
        source: Source,
    },
}

pub enum Command {
    Run(Source),
    Check { source: Source },
}

macro_rules! sources {
    ($($feature:literal $name:ident $module:ident $about:literal),*) => {
        /// Where messages come from.
        #[derive(Debug, Subcommand)]
        pub enum Source {
            $(
                #[cfg(feature = $feature)]
                #[command(about = $about)]
                $name {
                    #[command(flatten)]
                    options: crate::source::$module::Options,
                    #[command(flatten)]
                    common: Common,
                },
            )*
        }

        impl Source {
            pub fn common(&self) -> &Common {
                match self {
                    $(#[cfg(feature = $feature)] Source::$name { common, .. } => common,)*
                }
            }

            /// Runs until it is stopped, or the source has come to its end.
            pub async fn run(&self, relay: Relay) -> anyhow::Result<ExitCode> {
                match self {
                    $(#[cfg(feature = $feature)] Source::$name { options, .. } => options.run(relay).await,)*
                }
            }

            /// Reaches the source, takes nothing from it, and says what it found.
            pub async fn check(&self) -> anyhow::Result<String> {
                match self {
                    $(#[cfg(feature = $feature)] Source::$name { options, .. } => options.check().await,)*
                }
            }
        }

        /// Sections that a configuration file may have, also those of sources that were not compiled in.
        const SECTIONS: &[&str] = &[$($feature),*];
    };
}

sources! {
    "webhook" Webhook webhook "Receive the POSTs of Sequin's webhook sink",
    "stream" Stream stream "Pull from Sequin Stream, Sequin's own HTTP API",
    "sqs" Sqs sqs "Pull from an Amazon SQS queue, standard or FIFO",
    "kafka" Kafka kafka "Consume a Kafka topic as a member of a group",
    "file" File file "Read JSON lines from files, for replays and recovery; each line is a body"
}

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
    /// Connections to the database, each with one call of audit_ingest at a time
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

/// Ends the program, with a message, if the configuration is not right.
pub fn read() -> Command {
    read_from(std::env::args_os().collect()).unwrap_or_else(|error| error.exit())
}

fn read_from(arguments: Vec<std::ffi::OsString>) -> Result<Command, clap::Error> {
    let mut command = Cli::command();
    if let Some(path) = file::path(&arguments) {
        command = file::apply(command, &path)?;
    }
    let matches = command.clone().try_get_matches_from(arguments)?;
    refuse_visible_secrets(&mut command, &matches)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok(match cli.command {
        CliCommand::Run(source) => Command::Run(source),
        CliCommand::Check { source } => Command::Check { source },
    })
}

/// An argument is seen by everybody on the machine, in ps.
fn refuse_visible_secrets(command: &mut clap::Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    if let Some((_, deeper)) = matches.subcommand() {
        return refuse_visible_secrets(command, deeper);
    }
    for id in matches.ids().map(clap::Id::as_str) {
        let visible = matches.value_source(id) == Some(ValueSource::CommandLine)
            && matches
                .try_get_many::<Secret>(id)
                .is_ok_and(|found| found.into_iter().flatten().any(|secret| !secret.is_public()));
        if visible {
            let flag = id.replace('_', "-");
            return Err(command.error(
                clap::error::ErrorKind::ArgumentConflict,
                format!(
                    "a secret in --{flag} would be seen by everybody in ps: put it into the environment or the \
                     configuration file"
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
