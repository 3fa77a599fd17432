//! Statements, prepared once a session.

use crate::pg::{BuiltinOid, ErrorReport};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiResult, SpiTupleTable};
use std::cell::OnceCell;

/// A statement of ours and the types of its parameters.
pub struct Statement {
    text: &'static str,
    parameters: &'static [BuiltinOid],
    plan: OnceCell<OwnedPreparedStatement>,
}

impl Statement {
    pub const fn new(text: &'static str, parameters: &'static [BuiltinOid]) -> Self {
        Self { text, parameters, plan: OnceCell::new() }
    }

    /// Runs the statement and gives its result to `read`. What the arguments take in memory is freed with it.
    pub fn run<'a, R>(
        &self,
        arguments: impl FnOnce() -> Vec<DatumWithOid<'a>>,
        read: impl FnOnce(SpiTupleTable<'_>) -> SpiResult<R>,
    ) -> R {
        succeeded(Spi::connect_mut(|client| {
            let plan = self.plan(|types| Ok(client.prepare_mut(self.text, types)?.keep()))?;
            read(client.update(plan, None, &arguments())?)
        }))
    }

    /// The same for a statement that only reads, or calls what writes: it takes no transaction id.
    pub fn read<'a, R>(
        &self,
        arguments: impl FnOnce() -> Vec<DatumWithOid<'a>>,
        read: impl FnOnce(SpiTupleTable<'_>) -> SpiResult<R>,
    ) -> R {
        succeeded(Spi::connect(|client| {
            let plan = self.plan(|types| Ok(client.prepare(self.text, types)?.keep()))?;
            read(client.select(plan, None, &arguments())?)
        }))
    }

    fn plan(
        &self,
        prepare: impl FnOnce(&[PgOid]) -> SpiResult<OwnedPreparedStatement>,
    ) -> SpiResult<&OwnedPreparedStatement> {
        if let Some(plan) = self.plan.get() {
            return Ok(plan);
        }
        let types: Vec<PgOid> = self.parameters.iter().map(|oid| PgOid::from(oid.value())).collect();
        let plan = prepare(&types)?;
        Ok(self.plan.get_or_init(|| plan))
    }
}

/// PostgreSQL raises its errors itself; what is left are misuses of SPI.
pub fn succeeded<T>(result: SpiResult<T>) -> T {
    result.unwrap_or_else(|error| {
        let message = format!("audit log statement failed: {error}");
        ErrorReport::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, message, "succeeded").report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    })
}
