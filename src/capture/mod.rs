//! Changes from this server's own WAL: `pgoutput` (its messages), `value` (a value's encoding), `decoder` (messages to changes);
//! all pure. `pending` reads a slot.

mod decoder;
mod pending;
mod pgoutput;
mod value;

pub use value::Kind;
