//! From the bytes of our output plugin to changes. `writer` and `protocol` are the two sides of one message of the
//! stream. `decoder` keeps what the earlier ones said, `images` tells what a change says of its row. `relation` writes
//! values as `jsonb`, `captured` holds the change, `spelled` writes it as Sequin's message. `carried` says which values
//! are too large, `exact` what an image does not hold.

mod captured;
mod carried;
mod decoder;
mod exact;
mod images;
pub mod protocol;
mod relation;
mod spelled;
mod time;
mod writer;

pub use captured::Captured;
pub use carried::{MOST_CARRIED, SURELY_CARRIED, too_large};
pub use decoder::{Catalog, Commit, Decoded, Decoder, Failure, SchemaChange, TruncatedPartition};
pub use images::Event;
pub use protocol::{Prefix, ReplicaIdentity, Value};
pub use relation::{Column, Table};
pub use spelled::Metadata;
pub use time::{CommitTime, rfc3339};
pub use writer::Writer;

#[cfg(test)]
mod attested;
#[cfg(test)]
mod known;
#[cfg(test)]
mod properties;
