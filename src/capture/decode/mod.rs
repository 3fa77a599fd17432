//! From the bytes of `pgoutput` to messages as Sequin writes them: `pgoutput` reads one message of the stream, `stream` keeps what the
//! earlier ones said, `table` writes a change, `value` a value. Without PostgreSQL, and total on any bytes.

mod pgoutput;
mod stream;
mod table;
mod value;

pub use pgoutput::{ReplicaIdentity, Value};
pub use stream::{Catalog, Commit, Decoder, Failure, Keys};
pub use table::{Column, CommitTime, Position, Table};
pub use value::{Kind, string};

#[cfg(test)]
mod known;
#[cfg(test)]
mod properties;
