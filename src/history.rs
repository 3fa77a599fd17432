//! What people keep an audit log for: lives of records, tables as they were, undo and redo, activity. All of it is SQL that reads the log;
//! only undo and redo write, and not to it.

use pgrx::extension_sql_file;

extension_sql_file!("../sql/history/audited.sql", name = "history_audited", requires = ["audit_logs", "capture"]);
extension_sql_file!("../sql/history/events.sql", name = "history_events", requires = ["history_audited"]);
extension_sql_file!("../sql/history/diff.sql", name = "history_diff", requires = ["install"]);
extension_sql_file!(
    "../sql/history/as_of.sql",
    name = "history_as_of",
    requires = ["history_events", "history_diff", "cast"]
);
extension_sql_file!("../sql/history/history.sql", name = "history", requires = ["history_as_of"]);
extension_sql_file!("../sql/history/statements.sql", name = "history_statements", requires = ["history"]);
extension_sql_file!("../sql/history/undo.sql", name = "history_undo", requires = ["history_statements", "annotate"]);
extension_sql_file!("../sql/history/replay.sql", name = "history_replay", requires = ["history_statements"]);
extension_sql_file!(
    "../sql/history/activity.sql",
    name = "history_activity",
    requires = ["history_diff", "projection_functions"]
);
extension_sql_file!(
    "../sql/history/questions.sql",
    name = "history_questions",
    requires = ["history_diff", "audit_logs"]
);
