//! Health, readiness and metrics, for whoever watches the relay.

use crate::database::Database;
use crate::metrics::Metrics;
use crate::source::Relay;
use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

const BETWEEN_PROBES: Duration = Duration::from_secs(5);

/// `/healthz`: the process answers. `/readyz`: so does the database. `/metrics`: Prometheus's text format.
pub fn router(metrics: &Arc<Metrics>) -> Router {
    let (ready, shown) = (metrics.clone(), metrics.clone());
    let readiness = async move || match ready.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the database cannot be used\n"),
    };
    let show = async move || {
        ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], shown.text())
            .into_response()
    };
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(readiness))
        .route("/metrics", get(show))
}

pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
    tracing::info!("listening at {}", listener.local_addr()?);
    Ok(listener)
}

/// Serves until `stop`, if an address was configured.
pub async fn start(address: Option<SocketAddr>, relay: &Relay) -> anyhow::Result<()> {
    let Some(address) = address else { return Ok(()) };
    let (listener, router, stop) = (listen(address).await?, router(&relay.metrics), relay.stop.clone());
    watch(relay.database.clone(), relay.metrics.clone());
    tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stop.now.cancelled_owned()).await });
    Ok(())
}

/// Asks the database now and then, over a connection of its own: busy writers are no sign of a database that is away.
pub fn watch(database: Arc<Database>, metrics: Arc<Metrics>) {
    tokio::spawn(async move {
        let mut writer = database.writer();
        loop {
            let answer = writer.probe().await;
            match &answer {
                Ok(()) if !metrics.is_ready() => tracing::info!("the database answers: {}", database.address()),
                Err(failure) => tracing::warn!("the database cannot be used: {failure}"),
                Ok(()) => (),
            }
            metrics.set_ready(answer.is_ok());
            tokio::time::sleep(BETWEEN_PROBES).await;
        }
    });
}
