//! Where messages come from, and how each source is told that they are stored.

#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "sqs")]
pub mod sqs;
#[cfg(feature = "stream")]
pub mod stream;
#[cfg(feature = "webhook")]
pub mod webhook;

use crate::batch::Limits;
use crate::config::Source;
use crate::database::Database;
use crate::metrics::Metrics;
use crate::service;
use crate::stop::Stop;
use std::process::ExitCode;
use std::sync::Arc;

/// What every source works with.
#[derive(Clone)]
pub struct Relay {
    pub database: Arc<Database>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub connections: usize,
    pub stop: Stop,
}

pub async fn run(source: &Source) -> anyhow::Result<ExitCode> {
    let common = source.common();
    let metrics = Metrics::new();
    let relay = Relay {
        database: Database::of(common, metrics.clone())?,
        metrics,
        limits: Limits::of(common),
        connections: common.connections.into(),
        stop: Stop::on_signal(*common.stop_timeout)?,
    };
    tracing::info!("relaying to {}", relay.database.address());
    service::start(common.metrics, &relay).await?;
    source.run(relay).await
}
