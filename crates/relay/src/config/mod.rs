//! Flags, then environment, then the configuration file, then what is usual: each option is declared once, in
//! `common` or beside its source.

pub mod common;
mod file;
mod route;
mod secret;

pub use common::{Common, LogFormat};
pub use route::Route;
pub use secret::{PARAMETERS, Secret};

use crate::relay::Relay;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

/// Hands change messages from Sequin's sinks to audit_ingest in PostgreSQL, and acknowledges them once they are
/// committed.
///
/// Every option can be given as a flag, in the environment, or in a TOML file (--config). There its name is the flag's
/// with _ for -. Options of all sources stand at the top, those of one in a section of its name. A flag goes before the
/// environment, that before the file.
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

            fn common_mut(&mut self) -> &mut Common {
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

/// Ends the program, with a message, if the configuration is not right.
pub fn read() -> Command {
    read_from(std::env::args_os().collect()).unwrap_or_else(|error| error.exit())
}

fn read_from(arguments: Vec<std::ffi::OsString>) -> Result<Command, clap::Error> {
    let (mut command, mut routes) = (Cli::command(), Vec::new());
    if let Some(path) = file::path(&arguments) {
        (command, routes) = file::apply(command, &path, SECTIONS)?;
    }
    let matches = command.clone().try_get_matches_from(arguments)?;
    refuse_visible_secrets(&mut command, &matches)?;
    refuse_two_ways(&mut command, &matches, &routes)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    let routed = |mut source: Source| {
        source.common_mut().routes = routes;
        source
    };
    Ok(match cli.command {
        CliCommand::Run(source) => Command::Run(routed(source)),
        CliCommand::Check { source } => Command::Check { source: routed(source) },
    })
}

/// Who names one database, and several in the file, may mean either.
fn refuse_two_ways(command: &mut clap::Command, matches: &ArgMatches, routes: &[Route]) -> Result<(), clap::Error> {
    if let Some((_, deeper)) = matches.subcommand() {
        return refuse_two_ways(command, deeper, routes);
    }
    let is_named = matches.value_source("database").is_some_and(|source| source != ValueSource::DefaultValue);
    if routes.is_empty() || !is_named {
        return Ok(());
    }
    let message = "a database is given, and the configuration file has sections [database.NAME]: give one or the other";
    Err(command.error(clap::error::ErrorKind::ArgumentConflict, message))
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
