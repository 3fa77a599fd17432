-- What capture refuses, and in which words.
\set SHOW_CONTEXT never
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id int PRIMARY KEY);
CREATE TABLE shop.whole (id int PRIMARY KEY);
ALTER TABLE shop.whole REPLICA IDENTITY FULL;
SELECT audit_capture_start(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT audit_capture_start('nowhere');
\echo :LAST_ERROR_SQLSTATE
CALL audit_capture();
\echo :LAST_ERROR_SQLSTATE
CALL audit_capture_stop();
\echo :LAST_ERROR_SQLSTATE
CALL audit_backfill('shop.orders');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_pending_changes();
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM audit_capture_status();

CREATE PUBLICATION shop FOR TABLES IN SCHEMA shop;
BEGIN;
INSERT INTO shop.orders VALUES (1);
SELECT audit_capture_start('shop');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT audit_capture_start('shop', 'regression') > '0/0' AS started;
SELECT audit_capture_start('shop');
\echo :LAST_ERROR_SQLSTATE
SELECT publication, slot, changes, last_error FROM audit_capture_status();

-- a TRUNCATE, and what an update without FULL does not say
INSERT INTO shop.orders VALUES (2);
UPDATE shop.orders SET id = 3;
TRUNCATE shop.orders, shop.whole;
DO $$ BEGIN FOR i IN 1..3000 LOOP EXIT WHEN (SELECT count(*) = 4 FROM audit_logs WHERE table_schema = 'shop'); COMMIT; PERFORM pg_sleep(0.01); END LOOP; END $$;
SELECT action, table_name, record_id, old_values, new_values, replica_identity, unknown_old_columns FROM audit_logs
WHERE table_schema = 'shop' ORDER BY commit_lsn, commit_idx, table_name;

CALL audit_backfill('shop.whole', '00000000-0000-4000-8000-000000000001');
CALL audit_backfill('pg_class');
\echo :LAST_ERROR_SQLSTATE
CALL audit_backfill(tables => '{NULL}');
\echo :LAST_ERROR_SQLSTATE
CALL audit_backfill('shop.orders', batch_size => 0);
\echo :LAST_ERROR_SQLSTATE
BEGIN;
CALL audit_capture();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- an admin may, a reader may look
SET ROLE audit_cdc_reader;
SELECT slot FROM audit_capture_status();
SELECT count(*) FROM audit_backfills;
CALL audit_capture();
\echo :LAST_ERROR_SQLSTATE
CALL audit_capture_stop();
\echo :LAST_ERROR_SQLSTATE
SELECT audit_capture_start('shop');
\echo :LAST_ERROR_SQLSTATE
SET ROLE audit_cdc_admin;
CALL audit_capture();
CALL audit_capture_stop();
RESET ROLE;
SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'regression';
DROP PUBLICATION shop;
DROP SCHEMA shop CASCADE;
