//! From the bytes of our output plugin to messages as Sequin writes them: `write` and `wire` are the two sides of one message of the stream,
//! `stream` keeps what the earlier ones said, `table` writes a change, `value` a value, `carried` says which are too large. Without PostgreSQL, and total on any bytes.

mod carried;
mod stream;
mod table;
mod value;
pub mod wire;
mod write;

pub use carried::{MOST_CARRIED, SURELY_CARRIED, too_large};
pub use stream::{Catalog, Commit, Decoded, Decoder, Failure, SchemaChange, TruncatedPartition};
pub use table::{Column, CommitTime, Position, Table};
pub use value::{Kind, string};
pub use wire::{Prefix, ReplicaIdentity, Value};
pub use write::Writer;

#[cfg(test)]
mod known;
#[cfg(test)]
mod properties;
