//! The log, read and written without statements.

mod datum;
mod lock;
mod partition;
mod removal;
mod row;
mod sequence;
mod walk;

pub use datum::LogValue;
pub(super) use lock::lock_renamed_schema;
pub use lock::{
    lock_capture, lock_ddl, lock_family, lock_log, lock_masks, lock_partitions, lock_projection, lock_retry,
    lock_schema_name, lock_states, lock_table, lock_to_read, share_ddl, try_keep_schema_name, try_lock_partitions,
    try_lock_table, try_share_projection,
};
pub use partition::{Found, has_distributed_tables, is_elsewhere, is_partition, with_partition};
pub use removal::{drop_month, remove_rows};
pub(super) use row::returned;
pub use row::{LogRow, feeding, log_rows, new_rows, return_fed_rows};
pub use sequence::Sequence;
pub use walk::Key;
