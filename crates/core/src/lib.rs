//! What audit_cdc decides without PostgreSQL: values and JSON, messages and changes, and what our output plugin writes.
//! No pgrx, no I/O. It is total on any input, and its tests need no server.

pub mod context;
pub mod encoding;
pub mod json;
pub mod lives;
pub mod mask;
pub mod message;
pub mod question;
mod reject;
mod sqlstate;
pub mod undo;
pub mod wire;

pub use reject::Reject;
pub use sqlstate::SqlState;
