//! What every source works with.

use crate::batch::Limits;
use crate::database::Database;
use crate::metrics::Metrics;
use crate::stop::Stop;
use std::sync::Arc;

#[derive(Clone)]
pub struct Relay {
    pub database: Arc<Database>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub connections: usize,
    pub stop: Stop,
}
