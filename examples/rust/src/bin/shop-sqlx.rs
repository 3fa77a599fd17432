//! The shop with sqlx.

use audit_examples::{ADD, CHANGE, Change, NOTE, Order, SIGN, Signature, failed, serve};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{post, put};
use axum::{Json, Router};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, PgTransaction, Result};

async fn begin(pool: &PgPool, signature: Signature) -> Result<PgTransaction<'static>> {
    let mut transaction = pool.begin().await?;
    let sign = sqlx::query(SIGN).persistent(false).bind(signature.username).bind(signature.request_id);
    sign.execute(&mut *transaction).await?;
    Ok(transaction)
}

async fn add(State(pool): State<PgPool>, signature: Signature, Json(order): Json<Order>) -> Result<(), StatusCode> {
    let work = async {
        let mut transaction = begin(&pool, signature).await?;
        for sql in [ADD, NOTE] {
            let query = sqlx::query(sql).persistent(false).bind(order.id).bind(&order.note);
            query.execute(&mut *transaction).await?;
        }
        transaction.commit().await
    };
    work.await.map_err(failed)
}

async fn change(
    State(pool): State<PgPool>,
    Path(id): Path<i64>,
    signature: Signature,
    Json(change): Json<Change>,
) -> Result<(), StatusCode> {
    let work = async {
        let mut transaction = begin(&pool, signature).await?;
        sqlx::query(CHANGE).persistent(false).bind(id).bind(&change.note).execute(&mut *transaction).await?;
        transaction.commit().await
    };
    work.await.map_err(failed)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = PgConnectOptions::new().extra_float_digits(None);
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await?;
    serve(Router::new().route("/orders", post(add)).route("/orders/{id}", put(change)).with_state(pool)).await
}
