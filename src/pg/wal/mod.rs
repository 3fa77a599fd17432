//! The WAL: the output plugin, the slot, the worker, and positions.

mod board;
mod moment;
mod new_slot;
mod peek;
mod plugin;
mod position;
mod slot;
mod worker;

pub use board::{Desk, desk, is_preloaded};
pub use moment::{Moment, wait_for_commits};
pub use new_slot::new_slot;
pub use peek::Peek;
pub use position::{commit_to_disk, flush_wal, flushed_lsn, is_in_recovery, log_running_transactions};
pub use slot::{Pass, awaits_disk, confirm_slot, note_read, stored_pass};
pub use worker::{CaptureWorker, Woken, init_workers, is_capture_worker, report_of, start_capture_worker};
