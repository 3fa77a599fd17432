-- What people are told: message, DETAIL, HINT and SQLSTATE of every error and warning.
\set SHOW_CONTEXT never
SELECT audit_ingest(NULL);
\echo :LAST_ERROR_SQLSTATE
SET audit_cdc.on_reject = 'maybe';
\echo :LAST_ERROR_SQLSTATE
SET audit_cdc.on_rejekt = 'error';
\echo :LAST_ERROR_SQLSTATE

SET audit_cdc.on_reject = 'error';
SELECT audit_ingest('');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_ingest('{"id":1,"name":"a row alone"}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_ingest('[{"action":"upsert","record":{},"metadata":{}}]');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_ingest('[{"action":"insert","record":{},"metadata":{"commit_lsn":"1"}}]');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_ingest('[{"action":"insert","record":{"a\u0000":1},"metadata":{"commit_lsn":1,"commit_idx":0,"commit_timestamp":"2026-03-01T09:00:00Z","table_schema":"public","table_name":"t"}}]');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_ingest('[{"action":"insert","record":{"a":1},"metadata":{"commit_lsn":1,"commit_idx":0,"commit_timestamp":"today","table_schema":"public","table_name":"t"}}]');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_ingest('[{"action":"insert","record":{"a":1},"metadata":{"commit_lsn":1,"commit_idx":0,"commit_timestamp":"2026-05-01T09:00:00Z","table_schema":"public","table_name":"t"}},
  {"action":"delete","record":{"a":1},"metadata":{"commit_lsn":1,"commit_idx":0,"commit_timestamp":"2026-05-01T09:00:00Z","table_schema":"public","table_name":"t"}}]');
\echo :LAST_ERROR_SQLSTATE
RESET audit_cdc.on_reject;
SELECT count(*) FROM audit_logs WHERE commit_timestamp >= '2026-05-01' AND commit_timestamp < '2026-06-01';

SELECT audit_describe_tables(NULL, '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_describe_tables('d', '{"tables": 7}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_describe_tables('d', '{"described_at": "2026-01-01", "tables": [{"table_name": "t"}]}');
\echo :LAST_ERROR_SQLSTATE

SELECT audit_describe_tables('d', '{"described_at": "2026-01-01", "tables": []}', 'infinity');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_describe_tables('d', '{"described_at": "2026-01-01", "tables": []}');

SELECT audit_annotate('ada');
BEGIN;
SELECT audit_annotate();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
SELECT audit_annotate(extra => '{"source": 1}');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
SELECT audit_annotate(metadata => '7');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- nodes
SELECT audit_link(NULL);
SELECT audit_link('here');
SELECT audit_link('eu');
SELECT audit_unlink('eu');
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER eu FOREIGN DATA WRAPPER other;
SELECT audit_link('eu');
DROP FOREIGN DATA WRAPPER other CASCADE;
