//! What every source works with.

use crate::batch::Limits;
use crate::database::Databases;
use crate::metrics::Metrics;
use crate::stop::Stop;
use std::sync::Arc;

#[derive(Clone)]
pub struct Relay {
    pub databases: Arc<Databases>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub connections: usize,
    pub stop: Stop,
}
