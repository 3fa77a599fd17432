//! What a function of ours returns that returns a set: rows, kept aside until all are there.

use super::call::Call;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::BuiltinOid;
use pgrx::{IntoDatum, pg_sys};

pub struct ResultSet {
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
}

impl ResultSet {
    /// Of the running call, once.
    pub fn new(call: Call) -> Self {
        let fcinfo = call.info();
        // SAFETY: fcinfo is the running call's, of a function that returns a set. What is made here lives as long as
        // the query.
        unsafe {
            pg_sys::InitMaterializedSRF(fcinfo, pg_sys::MAT_SRF_USE_EXPECTED_DESC);
            let result = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            Self { store: (*result).setResult, descriptor: (*result).setDesc }
        }
    }

    /// A row of these values, each of its column's type; they are copied.
    pub fn put(&mut self, values: &[Option<pg_sys::Datum>]) {
        let nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
        let values: Vec<pg_sys::Datum> = values.iter().map(|value| value.unwrap_or(pg_sys::Datum::null())).collect();
        // SAFETY: values and nulls are as many as the function returns columns.
        unsafe {
            pg_sys::tuplestore_putvalues(
                self.store,
                self.descriptor,
                values.as_ptr().cast_mut(),
                nulls.as_ptr().cast_mut(),
            );
        }
    }

    /// Takes back all rows that were put.
    pub fn clear(&mut self) {
        // SAFETY: the store is the call's.
        unsafe { pg_sys::tuplestore_clear(self.store) };
    }
}

/// What follows the length in a `jsonb`, as one.
pub fn jsonb_datum(bytes: &[u8]) -> Option<pg_sys::Datum> {
    // laid out as any value of variable length
    bytes.into_datum()
}

/// A text, in the database's encoding.
pub fn text_datum(bytes: &[u8]) -> Option<pg_sys::Datum> {
    bytes.into_datum()
}

/// A `jsonb` on its way into a query.
pub fn passed_jsonb(bytes: &[u8]) -> DatumWithOid<'static> {
    match jsonb_datum(bytes) {
        // SAFETY: the datum is jsonb.
        Some(datum) => unsafe { DatumWithOid::new(datum, pg_sys::JSONBOID) },
        None => DatumWithOid::null_oid(pg_sys::JSONBOID),
    }
}

/// A bigint, or what is stored like it, on its way into a query.
pub fn passed_bigint(value: Option<i64>, oid: BuiltinOid) -> DatumWithOid<'static> {
    match value {
        // SAFETY: callers name a type whose values are 64 bits.
        Some(value) => unsafe { DatumWithOid::new(pg_sys::Datum::from(value), oid.value()) },
        None => DatumWithOid::null_oid(oid.value()),
    }
}

/// An oid, or what is stored like it, on its way into a query.
pub fn passed_oid(value: pg_sys::Oid, oid: BuiltinOid) -> DatumWithOid<'static> {
    // SAFETY: callers name a type whose values are oids.
    unsafe { DatumWithOid::new(pg_sys::Datum::from(value), oid.value()) }
}
