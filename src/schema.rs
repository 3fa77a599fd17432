//! Every SQL file of the extension, once, and after what each comes. Functions in Rust say it themselves.
//!
//! A name without quotes is a function in Rust. `cargo pgrx schema` shows the script that comes of it.

use pgrx::{extension_sql, extension_sql_file};

extension_sql_file!("../sql/install.sql", name = "install", bootstrap);

// the log: what is stored, by whom, and what people read of it
extension_sql_file!("../sql/log/log.sql", name = "log", requires = ["annotate_ends"]);
extension_sql_file!("../sql/log/operations.sql", name = "operations", requires = ["log", server_context]);
extension_sql_file!("../sql/log/partitions.sql", name = "partitions", requires = ["log"]);
extension_sql_file!("../sql/log/rejects.sql", name = "rejects", requires = ["log"]);
extension_sql_file!("../sql/log/sources.sql", name = "sources", requires = ["log", this_database]);
extension_sql_file!("../sql/log/cast.sql", name = "cast", requires = ["annotate_ends", audit_cast, audit_row, told]);
extension_sql_file!("../sql/log/record_keys.sql", name = "record_keys", requires = ["log", "cast", is_spelled]);
extension_sql_file!("../sql/log/described_tables.sql", name = "described_tables", requires = ["record_keys"]);
// audit_new_logs is audit_logs over what new_log() returns
extension_sql_file!("../sql/masking/masked.sql", name = "masked", requires = ["log", masked_columns]);
extension_sql_file!(
    "../sql/log/audit_logs.sql",
    name = "audit_logs",
    requires = ["described_tables", "masked", new_log, columns_not_sent, old_columns_not_sent]
);
extension_sql_file!(
    "../sql/log/links.sql",
    name = "links",
    requires = ["audit_logs", "operations", audit_link, audit_unlink, node_to_read]
);
extension_sql_file!("../sql/log/status.sql", name = "status", requires = ["audit_logs", "rejects"]);
extension_sql_file!(
    "../sql/log/required_annotations.sql",
    name = "required_annotations",
    requires = ["audit_logs", audit_require_annotation, refuse_unannotated]
);
extension_sql_file!(
    "../sql/log/ingest.sql",
    name = "ingest",
    requires = ["annotate_ends", audit_ingest_text, audit_ingest_texts, audit_retry_rejects]
);
extension_sql_file!(
    "../sql/log/protection.sql",
    name = "protection",
    requires = ["annotate_ends", own_writers_only, before_removal, audit_allow_removal, audit_rotate_secret]
);

// masking: what is never stored
extension_sql_file!(
    "../sql/masking/masks.sql",
    name = "masks",
    requires = ["operations", "described_tables", this_database]
);
extension_sql_file!("../sql/masking/follow.sql", name = "masks_follow", requires = ["masks"]);
extension_sql_file!("../sql/masking/mask.sql", name = "mask", requires = ["masks_follow", make_mask_secret, lock_ddl]);

// retention: what is kept, held and removed
extension_sql_file!("../sql/retention/rules.sql", name = "retention_rules", requires = ["operations", "rejects"]);
extension_sql_file!("../sql/retention/holds.sql", name = "holds", requires = ["continuations", "record_keys"]);
extension_sql_file!("../sql/retention/removed.sql", name = "removed", requires = ["log", "projections"]);
extension_sql_file!(
    "../sql/retention/archives.sql",
    name = "archives",
    requires = ["erasures", "removed", "retention_rules", archive_first]
);
extension_sql_file!("../sql/retention/expired.sql", name = "expired", requires = ["archives", "holds"]);
extension_sql_file!(
    "../sql/retention/apply.sql",
    name = "retention",
    requires = ["elsewhere", "expired", "annotate", drop_month, remove_rows]
);

// months elsewhere
extension_sql_file!("../sql/elsewhere/elsewhere.sql", name = "elsewhere", requires = ["partitions", new_log]);
extension_sql_file!("../sql/elsewhere/left.sql", name = "left_elsewhere", requires = ["elsewhere"]);
extension_sql_file!("../sql/elsewhere/move.sql", name = "move", requires = ["elsewhere", "retention", commit_to_disk]);

// erasure: values that are taken out
extension_sql_file!("../sql/erasure/erasures.sql", name = "erasures", requires = ["operations"]);
extension_sql_file!("../sql/erasure/records.sql", name = "erasure_records", requires = ["erasures", "history"]);
extension_sql_file!("../sql/erasure/values.sql", name = "erasure_values", requires = ["audit_logs", "erasure_records"]);
extension_sql_file!(
    "../sql/erasure/places.sql",
    name = "erasure_places",
    requires = ["erasure_records", "retention", "schema_changes"]
);
extension_sql_file!("../sql/erasure/erase.sql", name = "erase", requires = ["erasure_places", "erasure_values"]);

// annotations: annotate.sql is written for any search_path, since it also serves where there is no extension. All else
// comes after it, under the pinned one: nobody knows in which order pgrx puts what may come in any.
extension_sql!("SET LOCAL search_path = @extschema@;", name = "annotate_begins", requires = ["install"]);
extension_sql_file!("../sql/annotate.sql", name = "annotate", requires = ["annotate_begins"]);
extension_sql!("SET LOCAL search_path = pg_catalog, pg_temp;", name = "annotate_ends", requires = ["annotate"]);

// projections
extension_sql_file!("../sql/projection/projections.sql", name = "projections", requires = ["audit_logs", "sources"]);
extension_sql_file!(
    "../sql/projection/functions.sql",
    name = "projection_functions",
    requires = [
        "projections",
        audit_create_projection,
        audit_alter_projection,
        audit_rebuild_projection,
        audit_retry_projection,
        audit_disable_projection,
        audit_enable_projection,
        audit_drop_projection
    ]
);
extension_sql_file!(
    "../sql/projection/history_projection.sql",
    name = "history_projection",
    requires = ["projection_functions"]
);
extension_sql_file!(
    "../sql/projection/activity.sql",
    name = "activity",
    requires = ["history_diff", "projection_functions"]
);

// capture: the log fills itself
extension_sql_file!(
    "../sql/capture/excluded_tables.sql",
    name = "excluded_tables",
    requires = ["annotate_ends", audit_exclude_table, audit_include_table]
);
extension_sql_file!(
    "../sql/capture/capture.sql",
    name = "capture",
    requires = [
        "projections",
        "excluded_tables",
        audit_pending_changes,
        capture_pass,
        last_failure,
        last_look,
        lock_capture,
        advance_capture,
        call_capture_worker,
        pinned_settings,
        new_slot,
        is_preloaded,
        start_capture_worker
    ]
);
extension_sql_file!("../sql/capture/capture_start.sql", name = "capture_start", requires = ["capture"]);
extension_sql_file!("../sql/capture/capture_run.sql", name = "capture_run", requires = ["capture_start"]);
extension_sql_file!("../sql/capture/backfills.sql", name = "backfills", requires = ["capture_run", backfill_batch]);
extension_sql_file!("../sql/capture/backfill_batches.sql", name = "backfill_batches", requires = ["backfills"]);
extension_sql_file!("../sql/capture/backfill_run.sql", name = "backfill_run", requires = ["backfill_batches"]);
extension_sql_file!("../sql/capture/gaps.sql", name = "gaps", requires = ["backfill_run"]);
extension_sql_file!(
    "../sql/capture/backfill_complete.sql",
    name = "backfill_complete",
    requires = ["gaps", complete_backfill]
);
extension_sql_file!(
    "../sql/capture/continuations.sql",
    name = "continuations",
    requires = ["gaps", "masks_follow", "retention_rules"]
);
extension_sql_file!("../sql/capture/schema_changes.sql", name = "schema_changes", requires = ["gaps"]);
extension_sql_file!("../sql/capture/schema_states.sql", name = "schema_states", requires = ["schema_changes"]);
extension_sql_file!("../sql/capture/schema_differences.sql", name = "schema_differences", requires = ["schema_states"]);
extension_sql_file!(
    "../sql/capture/ddl.sql",
    name = "ddl",
    requires = ["schema_differences", "mask", kept_statement, note_schema_change, record_tables]
);
extension_sql_file!("../sql/capture/gap_ends.sql", name = "gap_ends", requires = ["schema_changes"]);
extension_sql_file!("../sql/capture/audit_gaps.sql", name = "audit_gaps", requires = ["gap_ends"]);
extension_sql_file!(
    "../sql/capture/capture_status.sql",
    name = "capture_status",
    requires = ["audit_gaps", can_seal, lost_annotations]
);

// history: the log read as the lives of records
extension_sql_file!(
    "../sql/history/diff.sql",
    name = "history_diff",
    requires = ["annotate_ends", told, plain, plain_diff, exact_texts]
);
extension_sql_file!(
    "../sql/history/audited.sql",
    name = "history_audited",
    requires = ["audit_logs", "continuations", primary_key]
);
extension_sql_file!(
    "../sql/history/doubts.sql",
    name = "history_doubts",
    requires = ["history_audited", "rejects", "audit_gaps", "removed", "erasures"]
);
extension_sql_file!(
    "../sql/history/events.sql",
    name = "history_events",
    requires = ["history_audited", "schema_changes", columns_not_told]
);
extension_sql_file!(
    "../sql/history/moment.sql",
    name = "history_moment",
    requires = ["history_events", "history_doubts"]
);
extension_sql_file!(
    "../sql/history/records_as_of.sql",
    name = "records_as_of",
    requires = ["history_moment", next_in_order, was_in_order, relation_of, columns_of]
);
extension_sql_file!(
    "../sql/history/as_of.sql",
    name = "history_as_of",
    requires = ["cast", "records_as_of", records_as_of, rows_as_of, unknown_as_of, audit_as_of]
);
extension_sql_file!(
    "../sql/history/table_diff.sql",
    name = "history_table_diff",
    requires = ["history_as_of", "history_diff"]
);
extension_sql_file!(
    "../sql/history/lines.sql",
    name = "history_lines",
    requires = ["history_as_of", "history_diff", lives]
);
extension_sql_file!("../sql/history/told.sql", name = "history_told", requires = ["history_lines"]);
extension_sql_file!("../sql/history/asked.sql", name = "history_asked", requires = ["history_told", told_lines]);
extension_sql_file!("../sql/history/history.sql", name = "history", requires = ["history_asked", history, lines]);
extension_sql_file!(
    "../sql/history/questions.sql",
    name = "history_questions",
    requires = ["history_diff", "audit_logs"]
);

// undo: changes as statements
extension_sql_file!("../sql/undo/tables.sql", name = "undo_tables", requires = ["history"]);
extension_sql_file!("../sql/undo/replay.sql", name = "replay", requires = ["undo_tables", replayed]);
extension_sql_file!("../sql/undo/chosen.sql", name = "undo_chosen", requires = ["undo_tables"]);
extension_sql_file!(
    "../sql/undo/tables_back.sql",
    name = "undo_tables_back",
    requires = ["undo_chosen", "history_table_diff"]
);
extension_sql_file!("../sql/undo/steps.sql", name = "undo_steps", requires = ["undo_tables_back", planned]);
extension_sql_file!("../sql/undo/marks.sql", name = "marks", requires = ["continuations"]);
extension_sql_file!(
    "../sql/undo/strangers.sql",
    name = "undo_strangers",
    requires = ["cast", "undo_tables", is_run_as_owner]
);
extension_sql_file!(
    "../sql/undo/undo.sql",
    name = "undo",
    requires = ["undo_steps", runs_strangers_code, is_referred_since, "annotate", run_statement, changes_that_differ]
);

extension_sql_file!("../sql/grants.sql", name = "grants", finalize);
