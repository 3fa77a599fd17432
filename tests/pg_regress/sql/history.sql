-- Differences, and the messages of what reads history.
\set SHOW_CONTEXT never
SET client_min_messages = notice;

SELECT audit_diff('{"a": 1, "b": [1], "c": null}', '{"a": 1.0, "b": [2], "d": "x"}');
SELECT audit_diff(NULL, '{"a": 1}'), audit_diff('{"a": 1}', NULL), audit_diff(NULL, NULL), audit_diff('{}', '{}');
SELECT audit_diff_text('{"status": "pending", "n": null}', '{"status": "shipped", "n": 1, "new": true}');
SELECT audit_diff_text('{"gone": "x"}', '{}'), audit_diff_text(NULL, '{"a": "b"}'), audit_diff_text(NULL), audit_diff_text('{}');
SELECT audit_diff_text('{"a": {"k": [1, "→"]}}', '{"a": "line\nbreak"}');
SELECT audit_diff('[]', '{}');
\echo :LAST_ERROR_SQLSTATE

CREATE TABLE lived (id int PRIMARY KEY, v text, extra text);
SELECT inserted FROM audit_ingest('[
  {"action": "insert", "changes": null, "record": {"id": 1, "v": "secret"}, "metadata": {"commit_lsn": 1000, "commit_idx": 0, "commit_timestamp": "2026-03-01T09:00:01.000000Z",
   "record_pks": ["1"], "table_schema": "public", "table_name": "lived", "database": {"id": "h"}}},
  {"action": "update", "changes": {"v": "lost"}, "record": {"id": 1, "v": "b"}, "metadata": {"commit_lsn": 3000, "commit_idx": 0, "commit_timestamp": "2026-03-01T09:00:03.000000Z",
   "record_pks": ["1"], "table_schema": "public", "table_name": "lived", "database": {"id": "h"}}},
  {"action": "delete", "changes": null, "record": {"id": 2, "v": null}, "metadata": {"commit_lsn": 5000, "commit_idx": 0, "commit_timestamp": "2026-03-01T09:00:05.000000Z",
   "record_pks": ["2"], "table_schema": "public", "table_name": "lived", "database": {"id": "h"}}}]');

SELECT * FROM audit_as_of(NULL::lived, '2026-03-01 09:00:02Z');
SELECT * FROM audit_as_of(NULL::lived, '2026-03-01 09:00:04Z');
SELECT * FROM audit_as_of_unknown(NULL::lived, '2026-03-01 09:00:04Z');
SELECT audit_as_of('lived', '2026-03-01 09:00:09Z');
SELECT audit_as_of('absent');
SELECT audit_as_of(NULL::text);
\echo :LAST_ERROR_SQLSTATE
SELECT audit_as_of(NULL::bytea);
\echo :LAST_ERROR_SQLSTATE
SELECT audit_as_of('lived', now(), '0/1');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_history();
\echo :LAST_ERROR_SQLSTATE
SELECT audit_history('lived', '1', after => 'no cursor');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_history('lived', '1', max_rows => -1);
\echo :LAST_ERROR_SQLSTATE
SELECT audit_undo_sql();
\echo :LAST_ERROR_SQLSTATE
SELECT audit_undo_sql(username => 'ada');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_undo_sql(table_name => 'lived', key => '1');
\echo :LAST_ERROR_SQLSTATE
SELECT step, statement, problem FROM audit_undo_sql(commit_lsn => 5000);
SELECT step, record_id, outcome FROM audit_undo(commit_lsn => 3000);
SELECT step, record_id, outcome FROM audit_undo(commit_lsn => 3000, database_id => 'h');
SELECT audit_activity(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT audit_activity('lived', after => 'no cursor');
\echo :LAST_ERROR_SQLSTATE

SET ROLE audit_cdc_ingest;
SELECT audit_history('lived', '1');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_as_of('lived');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_undo(commit_lsn => 3000);
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SET ROLE audit_cdc_reader;
SELECT record_id, action FROM audit_history('lived', '1');
SELECT audit_undo(commit_lsn => 1000, database_id => 'h');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_cdc_internal.events(audit_cdc_internal.table_named('lived', NULL, NULL));
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
DROP TABLE lived;
