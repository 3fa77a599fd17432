//! `audit-relay`: takes change messages from one of Sequin's sinks, hands them to `audit_ingest`, and acknowledges them
//! once they are committed. What a message means, and whether it was there before, the database decides.
//!
//! A message travels: `source` → `batch` → `database` → back to its `source`, which acknowledges.

// a relay with fewer sources leaves some of what they share unused
#![cfg_attr(
    not(all(feature = "webhook", feature = "stream", feature = "sqs", feature = "kafka", feature = "file")),
    allow(dead_code)
)]

mod batch;
mod body;
mod check;
mod config;
mod database;
mod metrics;
mod relay;
mod run;
mod service;
mod source;
mod stop;

use config::{Command, Common};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let command = config::read();
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let code = runtime.block_on(relay(command));
            // a read of standard input may still be waiting: nobody waits for it
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("audit-relay: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn relay(command: Command) -> ExitCode {
    let (common, checking) = match &command {
        Command::Check { source } => (source.common(), true),
        Command::Run(source) => (source.common(), false),
    };
    log(common);
    let done = match &command {
        Command::Check { source } => check::check(source).await,
        Command::Run(source) => run::run(source).await,
    };
    match done {
        Ok(code) => code,
        Err(error) if checking => {
            eprintln!("audit-relay: {error:#}");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Others speak only of trouble: what they say in detail may hold messages and secrets.
fn filter(level: LevelFilter) -> EnvFilter {
    EnvFilter::new(format!("{},audit_relay={level},sqlx=error", level.min(LevelFilter::WARN)))
}

fn log(common: &Common) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(common.log_level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match common.log_format {
        config::LogFormat::Text => subscriber.init(),
        config::LogFormat::Json => subscriber.json().init(),
    }
}
