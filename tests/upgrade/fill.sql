-- A database as a release leaves it: captured, delivered to, projected, with gaps, rejects and DDL. Capture is stopped
-- in the end, as pg_dump of a database that moves wants it.
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = error;
CREATE EXTENSION audit_cdc;

-- what is captured
CREATE TABLE stock (sku text PRIMARY KEY, units int NOT NULL, note text);
ALTER TABLE stock REPLICA IDENTITY FULL;
CREATE TABLE visits (id bigint PRIMARY KEY, page text);
CREATE TABLE readings (at timestamptz, value numeric) PARTITION BY RANGE (at);
CREATE TABLE readings_all PARTITION OF readings DEFAULT;
CREATE TABLE secrets (id int PRIMARY KEY, word text);
CREATE PUBLICATION audited FOR TABLE stock, visits, readings, secrets;
INSERT INTO stock VALUES ('early', 1, 'before capture');
SELECT audit_exclude_table('secrets', 'not for the log');
SELECT audit_capture_start('audited');
SELECT audit_mark('opened');
BEGIN;
SELECT audit_annotate('ada', request_id => 'r1', metadata => jsonb_build_object('long', repeat('x', 3000)));
INSERT INTO stock SELECT 'sku ' || n, n, 'new' FROM generate_series(1, 20) AS n;
COMMIT;
BEGIN;
SELECT audit_annotate('bob', request_id => 'r2');
UPDATE stock SET units = units - 1 WHERE units > 10;
UPDATE stock SET sku = 'sku 100' WHERE sku = 'sku 1';
DELETE FROM stock WHERE sku = 'sku 2';
COMMIT;
INSERT INTO visits VALUES (1, '/'), (2, '/shop');
INSERT INTO readings VALUES ('2026-11-01', 1.50), ('2026-11-02', 'NaN');
INSERT INTO secrets VALUES (1, 'plain');
CALL audit_capture();

-- what is delivered, twice, and what cannot be stored
SELECT audit_allow_source('postgres', '3f6b7a52-5d1c-4c0e-9a51-0d9f3a1c0001');
\set body `cat tests/corpus/batches/data_001.json`
SELECT audit_ingest(:'body');
SELECT audit_ingest(:'body');
SELECT audit_ingest('{"data": [{"action": "insert", "record": {"id": 1}, "metadata": {"table_name": "broken"}}]}');
SELECT audit_describe_tables('3f6b7a52-5d1c-4c0e-9a51-0d9f3a1c0001', '{"described_at": "2026-01-01 00:00+00", "tables": [
  {"table_schema": "public", "table_name": "customers", "replica_identity": "full", "key_columns": ["id"],
   "identity_columns": ["id"], "column_types": {"id": "uuid"}, "never_sent": [], "null_in_reads": []}]}');

-- what is made of it
CREATE TABLE feed (log_id bigint, table_name text, sku text);
SELECT audit_create_projection('feed', 'SELECT id AS log_id, table_name, new_values ->> ''sku'' AS sku FROM audit_new_logs');
SELECT audit_create_history_projection('stock', history => 'stock_history');
SELECT audit_create_activity('activity');
SELECT audit_require_annotation('visits', '{username}');

-- DDL, gaps, and a backfill that closes one
ALTER TABLE stock ADD COLUMN shelf text DEFAULT 'A';
ALTER PUBLICATION audited DROP TABLE visits;
ALTER PUBLICATION audited ADD TABLE visits;
UPDATE stock SET shelf = 'B' WHERE sku = 'sku 3';
CALL audit_capture();
CALL audit_backfill('stock');
CALL audit_capture_stop();
