-- What is refused when a projection is created or changed, in which words; and by whom.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA projecting;
SET search_path = projecting, public;
CREATE TABLE feed (id bigint GENERATED ALWAYS AS IDENTITY, record_id text NOT NULL, doubled text GENERATED ALWAYS AS (record_id || record_id) STORED, at timestamptz);
CREATE VIEW look AS SELECT * FROM feed;
CREATE TABLE theirs (record_id text);
SELECT audit_create_projection('nothing', 'SELECT record_id FROM audit_new_logs');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('look', 'SELECT record_id FROM audit_new_logs');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('more', 'SELECT record_id AS id FROM audit_new_logs', 'audit_cdc_internal.tallies');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('feed', 'SELECT record_id, username FROM audit_new_logs');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('feed', 'SELECT record_id, record_id FROM audit_new_logs');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('feed', 'SELECT record_id, record_id AS doubled FROM audit_new_logs');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('feed', 'SELECT record_id, id FROM audit_new_logs');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('feed', 'SELECT commit_timestamp AS at FROM audit_new_logs');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('feed', 'SELECT record_id, commit_lsn AS at FROM audit_new_logs');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('feed', 'SELEC record_id');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('feed', 'DELETE FROM feed RETURNING record_id');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection(NULL, 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('feed', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT audit_rebuild_projection('nothing');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO feed (record_id) VALUES ('mine');
SELECT audit_create_projection('feed', 'SELECT record_id FROM audit_new_logs');
\echo :LAST_ERROR_SQLSTATE
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT audit_create_projection('feed', 'SELECT record_id FROM audit_new_logs', fill => false);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT count(*) FROM audit_projections;
SELECT audit_create_projection('feed', E'SELECT record_id FROM audit_new_logs -- all\n;', fill => false);
SELECT audit_create_projection('feed', 'SELECT record_id FROM audit_new_logs');
\echo :LAST_ERROR_SQLSTATE

-- another reader may look, not touch; an admin may; who reads nothing creates nothing
CREATE ROLE projecting_reader; GRANT audit_cdc_reader TO projecting_reader; GRANT ALL ON SCHEMA projecting TO projecting_reader;
SET ROLE projecting_reader;
SELECT name, target, enabled, waiting, failures FROM audit_projections;
SELECT audit_rebuild_projection('feed');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_alter_projection('feed', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_drop_projection('feed');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('other', 'SELECT record_id FROM audit_new_logs', 'feed');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_projection('other', 'SELECT record_id FROM audit_new_logs', 'theirs');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM audit_cdc_internal.new_log();
\echo :LAST_ERROR_SQLSTATE
SET ROLE audit_cdc_ingest;
SELECT audit_create_projection('other', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_create_history_projection('feed');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_cast(1, '1');
\echo :LAST_ERROR_SQLSTATE
SET ROLE audit_cdc_admin;
SELECT audit_disable_projection('feed');
SELECT audit_drop_projection('feed');
RESET ROLE;
DROP SCHEMA projecting CASCADE;
DROP ROLE projecting_reader;
