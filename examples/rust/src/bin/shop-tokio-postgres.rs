//! The shop with tokio-postgres, and deadpool for its connections.

use audit_examples::{ADD, CHANGE, Change, NOTE, Order, SIGN, Signature, failed, serve};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{post, put};
use axum::{Json, Router};
use deadpool_postgres::{Manager, Object, Pool, PoolError, Transaction};
use std::env::var;
use tokio_postgres::types::Type;
use tokio_postgres::{Config, NoTls};

async fn begin(client: &mut Object, signature: Signature) -> Result<Transaction<'_>, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let (username, request_id) = (signature.username, signature.request_id);
    transaction.execute_typed(SIGN, &[(&username, Type::TEXT), (&request_id, Type::TEXT)]).await?;
    Ok(transaction)
}

async fn add(State(pool): State<Pool>, signature: Signature, Json(order): Json<Order>) -> Result<(), StatusCode> {
    let work = async {
        let mut client = pool.get().await?;
        let transaction = begin(&mut client, signature).await?;
        for sql in [ADD, NOTE] {
            transaction.execute_typed(sql, &[(&order.id, Type::INT8), (&order.note, Type::TEXT)]).await?;
        }
        Ok::<_, PoolError>(transaction.commit().await?)
    };
    work.await.map_err(failed)
}

async fn change(
    State(pool): State<Pool>,
    Path(id): Path<i64>,
    signature: Signature,
    Json(change): Json<Change>,
) -> Result<(), StatusCode> {
    let work = async {
        let mut client = pool.get().await?;
        let transaction = begin(&mut client, signature).await?;
        transaction.execute_typed(CHANGE, &[(&id, Type::INT8), (&change.note, Type::TEXT)]).await?;
        Ok::<_, PoolError>(transaction.commit().await?)
    };
    work.await.map_err(failed)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new();
    config.host(var("PGHOST")?).port(var("PGPORT")?.parse()?).user(var("PGUSER")?).dbname(var("PGDATABASE")?);
    let pool = Pool::builder(Manager::new(config, NoTls)).max_size(4).build()?;
    serve(Router::new().route("/orders", post(add)).route("/orders/{id}", put(change)).with_state(pool)).await
}
