//! From the bytes of our output plugin to messages as Sequin writes them. `writer` and `protocol` are the two sides
//! of one message of the stream, `decoder` keeps what the earlier ones said, `relation` writes a change, `carried`
//! says which values are too large.

mod carried;
mod decoder;
pub mod protocol;
mod relation;
mod writer;

pub use carried::{MOST_CARRIED, SURELY_CARRIED, too_large};
pub use decoder::{Catalog, Commit, Decoded, Decoder, Failure, SchemaChange, TruncatedPartition};
pub use protocol::{Prefix, ReplicaIdentity, Value};
pub use relation::{Column, CommitTime, Position, Table};
pub use writer::Writer;

#[cfg(test)]
mod known;
#[cfg(test)]
mod properties;
