//! Health, readiness and metrics, for whoever watches the relay.

use crate::database::Failure;
use crate::metrics::Metrics;
use crate::relay::Relay;
use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use futures_util::future::join_all;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const BETWEEN_PROBES: Duration = Duration::from_secs(5);
/// A database that has not answered by then is not ready, however long a call may take.
const LONGEST_PROBE: Duration = Duration::from_secs(10);
/// A connection without a whole request header is closed.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);
/// If files run out, some may be closed meanwhile.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

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
    let (listener, router, stop) = (listen(address).await?, router(&relay.metrics), relay.stop.now.clone());
    watch(relay);
    tokio::spawn(serve(listener, router, stop));
    Ok(())
}

/// Until `stop`; then requests that have begun are finished.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(LONGEST_SILENCE);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let service = TowerToHyperService::new(router.clone());
                let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
                // a client that breaks off has its answer
                tokio::spawn(async move { connection.await.ok() });
            }
            Err(error) => {
                tracing::warn!("connection not accepted: {error}");
                tokio::time::sleep(AFTER_REFUSAL).await;
            }
        }
    }
    drop((listener, router));
    graceful.shutdown().await;
}

/// Asks the databases now and then, over connections of its own: busy writers are no sign of one that is away. Ready is
/// who reaches all of them, which are asked at the same time.
pub fn watch(relay: &Relay) {
    let (databases, metrics) = (relay.databases.clone(), relay.metrics.clone());
    tokio::spawn(async move {
        let mut writers: Vec<_> = databases.each().map(|(database, _)| (database, database.writer())).collect();
        loop {
            let probes = writers.iter_mut().map(async |(database, writer)| {
                let probed = timeout(LONGEST_PROBE, writer.probe()).await;
                let probed = probed.unwrap_or_else(|_| Err(Failure::away("no answer in time")));
                if let Err(failure) = &probed {
                    tracing::warn!("the database cannot be used: {}: {failure}", database.address());
                }
                probed.is_ok()
            });
            let is_ready = join_all(probes).await.into_iter().all(|is_ready| is_ready);
            if is_ready && !metrics.is_ready() {
                let addresses: Vec<_> = writers.iter().map(|(database, _)| database.address()).collect();
                tracing::info!("the database answers: {}", addresses.join(", "));
            }
            metrics.set_ready(is_ready);
            tokio::time::sleep(BETWEEN_PROBES).await;
        }
    });
}
