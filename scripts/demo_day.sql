-- \connect: the next person or program, in a session of its own
\o /dev/null
BEGIN;
SELECT audit_annotate(username => 'ada', source => 'import', metadata => '{"reason": "opening"}');
INSERT INTO products (sku, name, price, tags, details) VALUES
  ('BEANS-1KG', 'Coffee beans, 1 kg', 14.50, '{coffee,organic}', '{"origin": "Ethiopia", "roast": "light"}'),
  ('GRINDER', 'Hand grinder', 89.00, '{tools}', '{"burrs": "steel", "weight_g": 620}'),
  ('KETTLE', 'Gooseneck kettle', 39.90, '{tools,kitchen}', '{"litres": 0.9}');
INSERT INTO customers (name, email, consents) VALUES
  ('Grace Hopper', 'grace@example.org', '{newsletter}'),
  ('Alan Turing', 'alan@example.org', '{}'),
  ('Charles Babbage', 'charles@example.org', '{newsletter,sms}');
INSERT INTO carts (customer_id, items) VALUES
  (2, '{"GRINDER": 1}'),
  (3, '{"KETTLE": 2}');
COMMIT;

\connect
BEGIN;
SELECT audit_annotate(username => 'grace', source => 'web', request_id => 'req-4711',
                      metadata => '{"reason": "checkout"}');
INSERT INTO orders (customer_id, total, ship_to) VALUES (1, 68.90, '4 Elm Street');
INSERT INTO order_lines VALUES (1001, 1, 'KETTLE', 1, 39.90), (1001, 2, 'BEANS-1KG', 2, 14.50);
COMMIT;

\connect
BEGIN;
SELECT audit_annotate(username => 'payments', source => 'api', metadata => '{"reason": "card charged"}');
UPDATE orders SET status = 'paid' WHERE id = 1001;
COMMIT;

\connect
BEGIN;
SELECT audit_annotate(username => 'importer', source => 'cron', metadata => '{"reason": "supplier list, week 12"}');
UPDATE products SET price = 14.90 WHERE sku = 'BEANS-1KG';
UPDATE products SET price = 8.90 WHERE sku = 'GRINDER';
COMMIT;

\connect
BEGIN;
SELECT audit_annotate(username => 'alan', source => 'web', request_id => 'req-4718',
                      metadata => '{"reason": "checkout"}');
INSERT INTO orders (customer_id, total, ship_to) VALUES (2, 8.90, '7 Mill Lane');
INSERT INTO order_lines VALUES (1002, 1, 'GRINDER', 1, 8.90);
DELETE FROM carts WHERE customer_id = 2;
COMMIT;

\connect
-- nobody signs this one
UPDATE customers SET credit = 500 WHERE name = 'Alan Turing';

\connect
\set ECHO queries
BEGIN;
SELECT audit_annotate(username => 'ada', source => 'office', metadata => '{"reason": "decimal point slipped"}');
UPDATE products SET price = 89.00 WHERE sku = 'GRINDER';
UPDATE orders SET status = 'cancelled' WHERE id = 1002;
COMMIT;
\set ECHO none
\echo

\connect
\set ECHO queries
BEGIN;
SELECT audit_annotate(username => 'linus', source => 'phone', metadata => '{"reason": "customer has moved"}');
SAVEPOINT goodwill;
SELECT audit_annotate(metadata => '{"reason": "ten percent off for the trouble"}');
UPDATE orders SET total = total * 0.9 WHERE id = 1001;
ROLLBACK TO goodwill;
UPDATE orders SET ship_to = '12 Oak Road' WHERE id = 1001;
COMMIT;
\set ECHO none

\connect
BEGIN;
SELECT audit_annotate(username => 'linus', source => 'scanner', metadata => '{"reason": "parcel left"}');
UPDATE orders SET status = 'shipped', tracking = 'JD0146' WHERE id = 1001;
COMMIT;

\connect
BEGIN;
SELECT audit_annotate(username => 'mary', source => 'office', metadata => '{"reason": "GDPR erasure request"}');
DELETE FROM customers WHERE name = 'Charles Babbage'; -- and with him, by the foreign key, his cart
COMMIT;

\connect
BEGIN;
SELECT audit_annotate(username => 'cleanup', source => 'cron', metadata => '{"reason": "end of day"}');
TRUNCATE carts;
COMMIT;

DO $$
BEGIN
  FOR attempt IN 1..5000 LOOP
    IF EXISTS (SELECT FROM audit_logs WHERE action = 'truncate') THEN
      RETURN;
    END IF;
    COMMIT; -- the next look may need a month that is new in the log
    PERFORM pg_sleep(0.002);
  END LOOP;
  RAISE EXCEPTION 'not captured within 10 seconds' USING DETAIL = (SELECT last_error FROM audit_capture_status());
END
$$;
SELECT format('%s changes of %s transactions are in the log, the last one %s ms after its commit',
              count(*), count(DISTINCT commit_lsn),
              round(1000 * extract(epoch FROM clock_timestamp() - max(commit_timestamp)))) AS told
FROM audit_logs \gset
\o
\echo
\echo :bold'==> ':told:plain
