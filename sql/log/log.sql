-- The log. Why it looks like this:
--
-- * Partitions by month of commit time: every index stays small and is written at its right edge.
-- * Exactly once is one unique index a partition, on (commit_timestamp, identity). The commit time is part of what a
--   change is, so what is unique within each partition is unique in the log.
-- * The identity is a digest of 128 bits: of the origin's space (local or ingest), database, table and idempotency key.
--   Of a read it is also of the record's key and image. All of it comes with the change, and can never change later.
-- * Indexes belong to the partitions, not to the parent. pg_dump restores a partition's own indexes, and a parent that
--   an extension made would make them a second time, under the same names.
-- * Names of database and table are kept once, in audited_tables.

CREATE TYPE audit_cdc_internal.action AS ENUM ('insert', 'update', 'delete', 'read', 'truncate', 'complete');

-- Numbers. pg_write_all_data may set any sequence, back or to its end, and PostgreSQL asks nobody. So a number that
-- does not follow those that are there is not taken: the sequence goes on after them. Of the log itself
-- src/ingest/numbers.rs sees to that.
CREATE FUNCTION audit_cdc_internal.next_number(relation text) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  sequence CONSTANT regclass := format('audit_cdc_internal.%I', relation || '_id_seq');
  last bigint;
  number bigint;
BEGIN
  EXECUTE format('SELECT coalesce(max(id), 0) FROM audit_cdc_internal.%I', relation) INTO last;
  FOR attempt IN 1..2 LOOP -- another session may have been faster
    number := nextval(sequence);
    IF number > last AND number <= last + 1000000 THEN
      RETURN number;
    END IF;
  END LOOP;
  PERFORM setval(sequence, last + 1000); -- others may have taken some
  RETURN nextval(sequence);
END
$$;

CREATE SEQUENCE audit_cdc_internal.audited_tables_id_seq CYCLE;
CREATE TABLE audit_cdc_internal.audited_tables (
  id integer PRIMARY KEY DEFAULT audit_cdc_internal.next_number('audited_tables'),
  database_id text NOT NULL,
  database_name text,
  table_schema text NOT NULL,
  table_name text NOT NULL,
  UNIQUE NULLS NOT DISTINCT (database_id, table_schema, table_name, database_name)
);
COMMENT ON TABLE audit_cdc_internal.audited_tables IS 'every table that a stored change named, once';

CREATE SEQUENCE audit_cdc_internal.log_id_seq CYCLE;

-- The sequence goes on after the last entry, and after those of transactions that are open.
CREATE FUNCTION audit_cdc_internal.renumber_log(last bigint) RETURNS void
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE WARNING 'the sequence of the audit log does not go on after its last entry, and is set anew'
    USING DETAIL = format('Its last number is %s, and the last entry has %s. Somebody has called setval().',
                          (SELECT s.last_value FROM audit_cdc_internal.log_id_seq AS s), last);
  PERFORM setval('audit_cdc_internal.log_id_seq', last + 1000000);
END
$$;

CREATE TABLE audit_cdc_internal.log (
  id bigint NOT NULL DEFAULT nextval('audit_cdc_internal.log_id_seq'),
  commit_lsn bigint,
  commit_timestamp timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  identity uuid NOT NULL,
  audited_table integer NOT NULL,
  commit_idx integer,
  action audit_cdc_internal.action NOT NULL,
  origin "char" NOT NULL,
  replica_identity "char",
  idempotency_key text,
  record_id text,
  record_pks text[],
  annotations jsonb,
  old_values jsonb,
  new_values jsonb,
  unknown_columns text[],
  unknown_old_columns text[],
  may_change_key boolean,
  large_annotations uuid,
  notes jsonb,
  exact_values jsonb,
  server_context uuid,
  transaction_start timestamptz,
  attested boolean
) PARTITION BY RANGE (commit_timestamp);
COMMENT ON TABLE audit_cdc_internal.log IS 'the changes, append-only; read them through the view audit_logs';
COMMENT ON COLUMN audit_cdc_internal.log.idempotency_key IS
  'null where it is base64 of "commit_lsn:commit_idx", as Sequin makes it of changes';
COMMENT ON COLUMN audit_cdc_internal.log.record_pks IS 'null where record_id is the whole key, a single value';
COMMENT ON COLUMN audit_cdc_internal.log.origin IS 'c: capture, b: its backfill, i: audit_ingest';
COMMENT ON COLUMN audit_cdc_internal.log.replica_identity IS
  'as pg_class.relreplident has it, where the message says it; null: the description of the table tells';
COMMENT ON COLUMN audit_cdc_internal.log.unknown_columns IS
  'what the row itself knows to be unknown; null: the description of the table tells';
COMMENT ON COLUMN audit_cdc_internal.log.unknown_old_columns IS 'as unknown_columns, for the row before the change';
COMMENT ON COLUMN audit_cdc_internal.log.may_change_key IS
  'true: an update that may have given its row another key (crates/core/src/message/key_change.rs); null: one that '
  'did not, or another action';
COMMENT ON COLUMN audit_cdc_internal.log.annotations IS
  'if large_annotations is not null: what the indexes need of them, or null';
COMMENT ON COLUMN audit_cdc_internal.log.notes IS
  'what else is to be known of the change, and what of it was erased; null, as nearly always: nothing';
COMMENT ON COLUMN audit_cdc_internal.log.exact_values IS
  'what the images do not hold of values: {"new": {column: text}, "old": …}; null, as nearly always: nothing';
COMMENT ON COLUMN audit_cdc_internal.log.server_context IS
  'what the server knew of the session, in server_contexts; null: delivered, or not told';
COMMENT ON COLUMN audit_cdc_internal.log.transaction_start IS 'of the change''s transaction, where the server told it';
COMMENT ON COLUMN audit_cdc_internal.log.attested IS
  'true: the server''s own code has annotated; false: somebody else; null: nobody, or delivered';
COMMENT ON COLUMN audit_cdc_internal.log.large_annotations IS 'annotations over 2,000 bytes: where they stand whole';

-- A transaction's annotations are the same for all its changes: large ones stand here once.
CREATE TABLE audit_cdc_internal.large_annotations (
  id uuid PRIMARY KEY,
  annotations jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE audit_cdc_internal.large_annotations IS
  'annotations over 2,000 bytes, once each, by a digest of their text';

-- A session tells the same of itself with each of its transactions.
CREATE TABLE audit_cdc_internal.server_contexts (
  id uuid PRIMARY KEY,
  context jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE audit_cdc_internal.server_contexts IS
  'what servers knew of sessions, once each, by a digest of its text';

-- An annotation's member as text. Over 2,000 bytes it is not lifted (an index entry holds at most
-- about 2,700); annotations keep it whole.
CREATE FUNCTION audit_cdc_internal.lifted(annotations jsonb, member text) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN pg_catalog.octet_length(annotations OPERATOR(pg_catalog.->>) member) OPERATOR(pg_catalog.<=) 2000
              THEN annotations OPERATOR(pg_catalog.->>) member END;

CREATE FUNCTION audit_cdc_internal.refuse_change() RETURNS trigger
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'the audit log is append-only: % is refused', TG_OP
    USING ERRCODE = 'object_not_in_prerequisite_state',
          DETAIL = 'No statement changes or removes an entry of the log.';
END
$$;

-- ALWAYS: also under session_replication_role = replica.
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.log
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.log ENABLE ALWAYS TRIGGER append_only;

-- Names, large annotations and server contexts are part of what the log says.
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.audited_tables
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.audited_tables ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.large_annotations
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.large_annotations ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.server_contexts
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.server_contexts ENABLE ALWAYS TRIGGER append_only;

-- Tallies answer "how many, how late" for each table without reading the log. A call adds to any row that no other call
-- is holding, or adds a row. There are as many as calls ever ran at one time.
CREATE SEQUENCE audit_cdc_internal.tallies_id_seq CYCLE;
CREATE TABLE audit_cdc_internal.tallies (
  id integer PRIMARY KEY DEFAULT audit_cdc_internal.next_number('tallies'),
  audited_table integer NOT NULL,
  stored bigint NOT NULL,
  last_commit timestamptz NOT NULL,
  last_arrival timestamptz NOT NULL,
  last_id bigint NOT NULL -- in the log no number is larger, but of later calls
) WITH (fillfactor = 50);
CREATE INDEX tallies_by_table ON audit_cdc_internal.tallies (audited_table);

-- What an ingest reads besides the log (projections, key types, masks) is changed only by who holds the log IN SHARE
-- MODE. Under REPEATABLE READ an ingest might not see the change: it locks this row, and fails with 40001 if it was
-- updated since.
CREATE TABLE audit_cdc_internal.ingest_reads (
  is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only), -- a publication FOR ALL TABLES wants a key
  changed_at timestamptz NOT NULL
);
INSERT INTO audit_cdc_internal.ingest_reads (changed_at) VALUES (now());

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.audited_tables', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.audited_tables_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.log_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.large_annotations', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.server_contexts', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.tallies', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.tallies_id_seq', '');

-- Names that are in an index: Sequin's messages have none that is longer (crates/core/src/message/source_table.rs).
CREATE FUNCTION audit_cdc_internal.refuse_long(called text, name text) RETURNS void
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF octet_length(name) > 500 THEN
    RAISE EXCEPTION '% is longer than 500 bytes', called USING ERRCODE = 'invalid_parameter_value';
  END IF;
END
$$;
