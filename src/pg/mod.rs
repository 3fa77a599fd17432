//! The only place with `unsafe`: what PostgreSQL offers and pgrx does not wrap.
#![allow(unsafe_code)]

mod bound;
mod ending;
mod event;
mod extension;
mod guc;
mod hooks;
mod kept_plans;
mod list;
mod log;
mod logical_message;
mod mask_secret;
mod memory;
mod pinned;
mod progress;
mod removal;
mod role;
mod secrets;
mod session;
mod spi;
mod table;
mod timeout;
mod transaction;
mod trigger;
mod types;
mod user;
mod version;
mod wal;
mod writer;
mod writes;

pub use bound::{BoundStatement, Meaning, Object, Strangers, as_owner_of, guard_names};
pub use event::DdlEvent;
pub use extension::runs_own_script;
pub use guc::{Checked, checked_version, define_checked, is_preloading, reserve_setting_prefix};
pub use kept_plans::{define_planned_bool, forget_plans_after_transaction, warnings_are_shown};
pub use log::*;
pub use logical_message::{emit, is_wal_logical, last_record_end};
pub use mask_secret::{make_mask_secret, mask_secret};
pub use memory::keep_freed_memory;
pub use pgrx::pg_sys::BuiltinOid;
pub use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
pub use pinned::{pinned, pinned_settings, reading};
pub use progress::{show_progress, show_progress_again, with_progress};
pub use removal::{allow_removal, guard_removal, has_capture, has_masks, is_superuser, refuse_early};
pub use role::{
    as_extension, as_worker, covers, current_user, has_rights_of, locked_owner, owner, quietly, restricted, setting,
    with_settings,
};
pub use secrets::{init_secrets, replace_secret, with_sealer};
pub use session::{Session, application_name, transaction_start};
pub use spi::*;
pub use table::{is_new_table, may_write, never_had_rows, primary_key_of, temporary_schema};
pub use timeout::{has_expired, is_limited, limited};
pub use transaction::{
    check_for_interrupts, in_transaction_block, notice_new_tables, now, snapshot_is_fixed, with_latest_snapshot,
    with_new_snapshot,
};
pub use types::*;
pub use user::{
    database, database_oid, is_member, outer_user, role_name, role_named, role_names_version, session_user,
    system_identifier,
};
pub use version::{Mismatch, require_agreement, require_agreement_to_load, watch_version};
pub use wal::*;
pub use writer::foreign_writer;
pub use writes::{
    Watch, can_write, in_restricted_operation, roles, subtransaction_id, transaction_id, watch_transactions,
    watch_writes,
};
