//! What both shops share: who asks and in which request, and what is asked.

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Deserialize;
use std::convert::Infallible;
use std::fmt::Display;
use uuid::Uuid;

pub const SIGN: &str = "SELECT set_config('audit_cdc.username', $1, true), set_config('audit_cdc.source', 'web', true),
  set_config('audit_cdc.request_id', $2, true)";
pub const ADD: &str = "INSERT INTO orders VALUES ($1, $2)";
pub const NOTE: &str = "INSERT INTO order_events (order_id, note) VALUES ($1, $2)";
pub const CHANGE: &str = "UPDATE orders SET note = $2 WHERE id = $1";

pub struct Signature {
    pub username: Option<String>,
    pub request_id: String,
}

impl<S: Sync> FromRequestParts<S> for Signature {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let request_id = header("x-request-id").unwrap_or_else(|| Uuid::new_v4().to_string());
        Ok(Self { username: header("x-user"), request_id })
    }
}

#[derive(Deserialize)]
pub struct Order {
    pub id: i64,
    pub note: String,
}

#[derive(Deserialize)]
pub struct Change {
    pub note: String,
}

pub fn failed(error: impl Display) -> StatusCode {
    eprintln!("{error}");
    StatusCode::INTERNAL_SERVER_ERROR
}

pub async fn serve(shop: Router) -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::var("PORT")?.parse()?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    Ok(axum::serve(listener, shop).await?)
}
