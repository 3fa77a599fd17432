-- Who may do what. PUBLIC: annotate. Ingest: ingest. Reader: read. Admin: retry, describe, read. Nobody: change the log.
\set SHOW_CONTEXT never
SELECT audit_ingest('{"action":"insert","changes":null,"record":{"id":1,"secret":"hush"},"metadata":{"commit_lsn":1,"commit_idx":0,"commit_timestamp":"2026-03-01T09:00:00Z","record_pks":["1"],"table_schema":"public","table_name":"orders"}}');
SELECT audit_ingest('broken');

-- everything that the extension lets roles do, by the catalogs
SELECT p.oid::regprocedure AS function, r.rolname AS may_call
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'audit_cdc'
CROSS JOIN (SELECT rolname FROM pg_roles WHERE rolname LIKE 'audit\_cdc\_%' UNION ALL SELECT 'public') r
WHERE has_function_privilege(r.rolname, p.oid, 'execute')
  AND (r.rolname = 'public' OR NOT has_function_privilege('public', p.oid, 'execute'))
ORDER BY p.proname COLLATE "C", p.oid::regprocedure::text COLLATE "C", r.rolname COLLATE "C";

SELECT c.relname, r.rolname, privilege
FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'audit_cdc'
CROSS JOIN (SELECT rolname FROM pg_roles WHERE rolname LIKE 'audit\_cdc\_%' UNION ALL SELECT 'public') r
CROSS JOIN unnest(ARRAY['select', 'insert', 'update', 'delete', 'truncate', 'trigger', 'references']) privilege
WHERE c.relkind IN ('r', 'v', 'p') AND has_table_privilege(r.rolname, c.oid, privilege)
ORDER BY 1, 2, 3;

SELECT r.rolname, has_schema_privilege(r.rolname, 'audit_cdc_internal', 'usage') AS internal
FROM (SELECT rolname FROM pg_roles WHERE rolname LIKE 'audit\_cdc\_%' UNION ALL SELECT 'public') r ORDER BY 1;

-- a relay's role can ingest, and nothing else
SET ROLE audit_cdc_ingest;
SELECT * FROM audit_ingest('{"data":[]}');
SELECT * FROM audit_ingest('[]'::jsonb);
SELECT count(*) FROM audit_logs;
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM audit_rejects;
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM audit_cdc_internal.log;
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM audit_cdc_internal.log_2026_03;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM audit_status();
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM audit_retry_rejects();
\echo :LAST_ERROR_SQLSTATE
SELECT audit_describe_tables('d', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_cdc_internal.ensure_partitions(ARRAY['2040-01-01'::timestamptz]);
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- nor does a schema, operator, function, type or temporary table of its own change what ingest does
CREATE SCHEMA lair AUTHORIZATION audit_cdc_ingest;
SET ROLE audit_cdc_ingest;
SET search_path = lair, pg_temp, public;
CREATE TABLE lair.loot (who text, what text);
GRANT ALL ON lair.loot TO PUBLIC;
CREATE FUNCTION lair.grab(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO lair.loot VALUES (current_user, $1); RETURN true; END $$;
CREATE OPERATOR lair.= (LEFTARG = text, RIGHTARG = text, PROCEDURE = lair.grab);
CREATE OPERATOR lair.<> (LEFTARG = text, RIGHTARG = text, PROCEDURE = lair.grab);
CREATE FUNCTION lair.octet_length(text) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN INSERT INTO lair.loot VALUES (current_user, $1); RETURN 1; END $$;
CREATE FUNCTION lair.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN INSERT INTO lair.loot VALUES (current_user, 'now'); RETURN pg_catalog.now(); END $$;
CREATE FUNCTION lair.sha256(bytea) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN INSERT INTO lair.loot VALUES (current_user, 'sha256'); RETURN $1; END $$;
CREATE DOMAIN lair.jsonb AS text CHECK (lair.grab(VALUE, ''));
CREATE DOMAIN lair.timestamptz AS text CHECK (lair.grab(VALUE, ''));
CREATE TEMP TABLE audited_tables (LIKE lair.loot);
CREATE TEMP TABLE log (LIKE lair.loot);
CREATE TEMP TABLE pg_inherits (LIKE lair.loot);
SET default_tablespace = 'pg_global';
SET TimeZone = 'Pacific/Kiritimati';
SET DateStyle = 'German, DMY';
SELECT inserted, rejected FROM public.audit_ingest('[{"action":"insert","changes":null,"record":{"id":2},"metadata":{"commit_lsn":2,"commit_idx":0,"commit_timestamp":"2033-12-31T23:59:59.999999Z","record_pks":["2","x"],"table_schema":"s","table_name":"t2","transaction_annotations":{"username":"ada","request_id":"r"}}},
  {"action":"read","changes":null,"record":{"id":2},"metadata":{"commit_timestamp":"2034-01-01T00:00:00Z","record_pks":["2"],"table_schema":"s","table_name":"t2"}}, 7]');
SELECT inserted, duplicates FROM public.audit_ingest('[{"action":"insert","changes":null,"record":{"id":2},"metadata":{"commit_lsn":2,"commit_idx":0,"commit_timestamp":"2033-12-31T23:59:59.999999Z","record_pks":["2","x"],"table_schema":"s","table_name":"t2"}}]'::pg_catalog.jsonb);
SELECT * FROM lair.loot;
RESET ALL;
RESET ROLE;
SET TimeZone = 'UTC';
SELECT relname, pg_get_expr(relpartbound, oid), reltablespace FROM pg_class WHERE relname IN ('log_2033_12', 'log_2034_01') ORDER BY 1;
DROP SCHEMA lair CASCADE;

-- a reader reads
SET ROLE audit_cdc_reader;
SELECT table_name, record_id, unknown_columns FROM audit_logs ORDER BY id;
SELECT sqlstate, reason, batch_position FROM audit_rejects WHERE batch_position IS NULL;
SELECT table_name, rows, rejects, conflicts, described FROM audit_status() ORDER BY 1;
SELECT audit_ingest('[]');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM audit_retry_rejects();
\echo :LAST_ERROR_SQLSTATE
DELETE FROM audit_logs;
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM audit_cdc_internal.log;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- an admin retries and describes
SET ROLE audit_cdc_admin;
SELECT received, rejected FROM audit_retry_rejects();
SELECT audit_describe_tables('unknown', '{"described_at":"2026-01-01 00:00+00","tables":[]}');
SELECT audit_ingest('[]');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO audit_cdc_internal.described_tables DEFAULT VALUES;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- the log is append-only for its owner too, as a whole and in each part, in every way
UPDATE audit_logs SET username = 'eve';
\echo :LAST_ERROR_SQLSTATE
DELETE FROM audit_logs;
\echo :LAST_ERROR_SQLSTATE
UPDATE audit_cdc_internal.log SET record_id = '2';
DELETE FROM audit_cdc_internal.log;
TRUNCATE audit_cdc_internal.log;
UPDATE audit_cdc_internal.log_2026_03 SET record_id = '2';
DELETE FROM audit_cdc_internal.log_2026_03 WHERE false;
TRUNCATE audit_cdc_internal.log_2026_03;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE audit_cdc_internal.audited_tables;
UPDATE audit_cdc_internal.audited_tables SET table_name = 'innocent';
MERGE INTO audit_cdc_internal.log l USING (VALUES (1)) v(x) ON true WHEN MATCHED THEN DELETE;
SET session_replication_role = replica;
DELETE FROM audit_cdc_internal.log;
TRUNCATE audit_cdc_internal.log_2026_03;
RESET session_replication_role;
SELECT count(*) FROM audit_logs;
