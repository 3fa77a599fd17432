-- The shop of scripts/demo: its tables, capture, and what is filled from the log.
CREATE TABLE customers (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  email text NOT NULL UNIQUE,
  credit numeric(10,2) NOT NULL DEFAULT 0,
  consents text[] NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE products (
  sku text PRIMARY KEY,
  name text NOT NULL,
  price numeric(10,2) NOT NULL CHECK (price > 0),
  tags text[] NOT NULL DEFAULT '{}',
  details jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE orders (
  id bigint GENERATED ALWAYS AS IDENTITY (START WITH 1001) PRIMARY KEY,
  customer_id bigint NOT NULL REFERENCES customers,
  status text NOT NULL DEFAULT 'new',
  total numeric(10,2) NOT NULL,
  ship_to text NOT NULL,
  tracking text,
  placed_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE order_lines (
  order_id bigint REFERENCES orders,
  line_no integer,
  sku text NOT NULL REFERENCES products,
  quantity integer NOT NULL,
  unit_price numeric(10,2) NOT NULL,
  PRIMARY KEY (order_id, line_no)
);
CREATE TABLE carts (
  customer_id bigint PRIMARY KEY REFERENCES customers ON DELETE CASCADE,
  items jsonb NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);
-- so that old values and deleted rows are in the WAL
ALTER TABLE customers REPLICA IDENTITY FULL;
ALTER TABLE products REPLICA IDENTITY FULL;
ALTER TABLE orders REPLICA IDENTITY FULL;
ALTER TABLE order_lines REPLICA IDENTITY FULL;
ALTER TABLE carts REPLICA IDENTITY FULL;

\o /dev/null
\set ECHO queries
CREATE EXTENSION audit_cdc;
CREATE PUBLICATION audited FOR TABLES IN SCHEMA public;
SELECT audit_capture_start('audited');
SELECT audit_create_history_projection('products');
\set ECHO none

CREATE TABLE activity_feed (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  happened_at timestamptz NOT NULL,
  customer_id bigint NOT NULL,
  actor text NOT NULL,
  description text NOT NULL,
  reason text
);
CREATE INDEX ON activity_feed (customer_id, happened_at);
SELECT audit_exclude_table('activity_feed', 'filled from the log');
SELECT audit_create_projection('activity_feed', $$
  SELECT l.commit_timestamp AS happened_at, o.customer_id, actor,
         format('%s %s order %s', actor, done, o.id) || coalesce(
           (SELECT ': ' || string_agg(format('%s is now %s', key, n.value), ', ' ORDER BY key)
            FROM jsonb_object_keys(l.old_values) AS key
            JOIN jsonb_each_text(l.new_values) AS n USING (key)), '') AS description,
         l.metadata ->> 'reason' AS reason
  FROM audit_new_logs AS l
  CROSS JOIN LATERAL audit_row(NULL::orders, coalesce(l.new_values, l.old_values)) AS o
  CROSS JOIN LATERAL (
    SELECT coalesce(l.username, 'somebody') AS actor,
           CASE l.action WHEN 'insert' THEN 'placed' WHEN 'update' THEN 'changed' ELSE 'deleted' END AS done) AS who
  WHERE l.table_name = 'orders' AND l.action IN ('insert', 'update', 'delete')
$$);
