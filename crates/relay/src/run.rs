//! `audit-relay SOURCE`: from that source into the database, until it is stopped.

use crate::batch::Limits;
use crate::config::Source;
use crate::database::Databases;
use crate::metrics::Metrics;
use crate::relay::Relay;
use crate::service;
use crate::stop::Stop;
use std::process::ExitCode;

pub async fn run(source: &Source) -> anyhow::Result<ExitCode> {
    let common = source.common();
    let metrics = Metrics::new();
    let relay = Relay {
        databases: Databases::of(common, &metrics)?,
        metrics,
        limits: Limits::of(common),
        connections: common.connections.into(),
        stop: Stop::on_signal(*common.stop_timeout)?,
    };
    for (database, taken) in relay.databases.each() {
        let taken = taken.map(|taken| format!(": {taken}")).unwrap_or_default();
        tracing::info!("relaying to {}{taken}", database.address());
    }
    service::start(common.metrics, &relay).await?;
    source.run(relay).await
}
