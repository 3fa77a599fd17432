-- Projections: tables of the user's own, filled from the log by a query, in the transaction of the ingest.
--
-- * Every step of audit_ingest feeds its new entries to each enabled projection. Before it stores anything it takes
--   its lock on the log, and only then looks which projections there are. So whoever holds the log IN SHARE MODE
--   knows that every entry is committed, and that the next ingest will see what is changed here.
-- * Who fills a projection anew has it locked alone (src/pg/log/lock.rs); ingest then notes its entries here, as
--   waiting, and goes on. The end of the filling takes them in. If it is interrupted, the next ingest does.
-- * Rules are kept as text, so that they never stand in the way of ALTER TABLE. They run with the rights of their owner
--   and under the settings that hold where they were made.

CREATE SEQUENCE audit_cdc_internal.projections_id_seq CYCLE;
CREATE TABLE audit_cdc_internal.projections (
  id integer PRIMARY KEY DEFAULT audit_cdc_internal.next_number('projections'),
  name text NOT NULL UNIQUE,
  target regclass NOT NULL UNIQUE,
  columns text[] NOT NULL,
  rule text NOT NULL,
  rule_owner regrole NOT NULL,
  setting_names text[] NOT NULL,
  setting_values text[] NOT NULL,
  -- what the rule names and roles own that lack its owner's rights (src/pg/bound.rs)
  strangers bigint[] NOT NULL,
  -- the database whose numbers these are: after a restore they mean nothing
  strangers_in text NOT NULL DEFAULT audit_cdc_internal.this_database() ->> 'id',
  fed_to bigint, -- disabled: the last entry that was fed; null: enabled
  created_at timestamptz NOT NULL DEFAULT now(),
  rebuilt_at timestamptz,
  slow_since timestamptz -- a run took longer than audit_cdc.rule_timeout: no pass runs it
);

-- Entries that have not reached their target: waiting (sqlstate is null) or refused.
CREATE TABLE audit_cdc_internal.unprojected (
  projection integer NOT NULL, -- no foreign key: a parallel pg_restore may load this table before that of projections
  log_id bigint NOT NULL,
  commit_timestamp timestamptz NOT NULL, -- with the identity where it stands in the log
  identity uuid NOT NULL,
  sqlstate text,
  reason text,
  since timestamptz NOT NULL DEFAULT now(),
  retries integer NOT NULL DEFAULT 0,
  last_retried_at timestamptz,
  PRIMARY KEY (projection, log_id)
);
CREATE INDEX unprojected_waiting ON audit_cdc_internal.unprojected (projection, log_id) WHERE sqlstate IS NULL;

-- One whose owner was dropped is not dumped: elsewhere the number that it had is another role's.
SELECT pg_catalog.pg_extension_config_dump(
  'audit_cdc_internal.projections',
  'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.oid OPERATOR(pg_catalog.=) rule_owner)');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.projections_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.unprojected', '');

-- Owners of a table and its partitions that have not the rights of the rule's owner. No lock is taken on any.
CREATE FUNCTION audit_cdc_internal.weaker_owners(target oid, rule_owner oid) RETURNS SETOF oid LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH RECURSIVE parts(relation) AS (
    SELECT target
    UNION
    SELECT i.inhrelid
    FROM parts AS p
    JOIN pg_inherits AS i ON i.inhparent = p.relation
  )
  SELECT c.relowner
  FROM pg_class AS c
  JOIN parts AS p ON p.relation = c.oid
  WHERE NOT pg_has_role(c.relowner, rule_owner, 'USAGE');
END;

-- What src/projection needs to run a rule. Constraints that may be deferred are checked at once: a row that fails them
-- must fail by itself. One whose name is shared by somebody else's table is left alone. What waits to be checked there
-- would be checked with the rights of the rule's owner.
CREATE VIEW audit_cdc_internal.runnable_projections AS
  SELECT
    p.id, p.name, p.target::oid AS target, p.rule_owner::oid AS rule_owner, p.setting_names, p.setting_values,
    CASE WHEN p.strangers_in = (SELECT audit_cdc_internal.this_database() ->> 'id') THEN p.strangers ELSE '{}' END
      AS strangers,
    p.fed_to, p.rule,
    format(
      E'INSERT INTO %s (%s) SELECT %2$s FROM (%s\n) AS rule',
      CASE
        WHEN EXISTS (SELECT FROM pg_class WHERE oid = p.target) THEN p.target::text
        -- nobody can make a table there, and take its place
        ELSE 'pg_catalog.' || quote_ident('the dropped target of ' || p.name)
      END,
      (
        SELECT string_agg(quote_ident(c), ', ' ORDER BY place)
        FROM unnest(p.columns) WITH ORDINALITY AS u(c, place)
      ),
      p.rule) AS statement,
    (
      SELECT 'SET CONSTRAINTS ' || string_agg(DISTINCT format('%I.%I', n.nspname, c.conname), ', ') || ' IMMEDIATE'
      FROM pg_constraint AS c
      JOIN pg_namespace AS n ON n.oid = c.connamespace
      WHERE p.target IN (c.conrelid, c.confrelid)
        AND c.condeferrable
        AND NOT EXISTS (
          SELECT FROM pg_constraint AS o
          JOIN pg_class AS r ON r.oid = o.conrelid
          WHERE o.conname = c.conname
            AND o.connamespace = c.connamespace
            AND o.condeferrable
            AND r.relowner <> p.rule_owner
            AND o.conrelid NOT IN (SELECT relid FROM pg_partition_tree(p.target))
        )
    ) AS immediate,
    (
      SELECT 'SET CONSTRAINTS ' || string_agg(DISTINCT format('%I.%I', n.nspname, c.conname), ', ') || ' DEFERRED'
      FROM pg_constraint AS c
      JOIN pg_namespace AS n ON n.oid = c.connamespace
      WHERE p.target IN (c.conrelid, c.confrelid) AND c.condeferred
    ) AS deferred,
    EXISTS (
      SELECT FROM audit_cdc_internal.unprojected AS u
      WHERE u.projection = p.id AND u.sqlstate IS NULL
    ) AS is_waiting,
    EXISTS (SELECT FROM audit_cdc_internal.weaker_owners(p.target, p.rule_owner)) AS is_forbidden,
    p.slow_since IS NOT NULL AS is_slow
  FROM audit_cdc_internal.projections AS p;

CREATE FUNCTION audit_cdc_internal.last_log_id() RETURNS bigint LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT coalesce(max(last_id), 0) FROM audit_cdc_internal.tallies;
END;

CREATE VIEW @extschema@.audit_projections AS
  SELECT
    p.name, p.target, p.columns, p.rule, p.rule_owner, p.fed_to IS NULL AS enabled,
    coalesce(u.waiting, 0) + CASE
      WHEN p.fed_to IS NULL THEN 0
      ELSE (SELECT count(*) FROM audit_cdc_internal.log AS l WHERE l.id > p.fed_to)
    END AS waiting,
    least(u.waiting_since, (SELECT min(l.created_at) FROM audit_cdc_internal.log AS l WHERE l.id > p.fed_to))
      AS waiting_since,
    coalesce(u.failures, 0) AS failures, p.created_at, p.rebuilt_at, p.slow_since
  FROM audit_cdc_internal.projections AS p
  LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE sqlstate IS NULL) AS waiting,
           min(since) FILTER (WHERE sqlstate IS NULL) AS waiting_since, count(sqlstate) AS failures
    FROM audit_cdc_internal.unprojected
    WHERE projection = p.id
  ) AS u ON true;
COMMENT ON VIEW @extschema@.audit_projections IS
  'every projection, how far it is behind the log and how many entries its rule could not take';
COMMENT ON COLUMN @extschema@.audit_projections.name IS 'its name, unique in the database';
COMMENT ON COLUMN @extschema@.audit_projections.target IS 'the table that it fills';
COMMENT ON COLUMN @extschema@.audit_projections.columns IS 'columns of the target that the rule gives';
COMMENT ON COLUMN @extschema@.audit_projections.rule IS 'the query over audit_new_logs';
COMMENT ON COLUMN @extschema@.audit_projections.rule_owner IS 'with whose rights the rule runs';
COMMENT ON COLUMN @extschema@.audit_projections.enabled IS
  'false: nothing reaches the target until audit_enable_projection()';
COMMENT ON COLUMN @extschema@.audit_projections.waiting IS
  'entries of the log that have not reached the rule yet: it is disabled, being filled anew or slow, or an ingest '
  'could not feed it';
COMMENT ON COLUMN @extschema@.audit_projections.waiting_since IS 'since when the first of them waits; null: none does';
COMMENT ON COLUMN @extschema@.audit_projections.failures IS
  'entries that the rule could not take, see audit_projection_failures';
COMMENT ON COLUMN @extschema@.audit_projections.created_at IS 'when it was created';
COMMENT ON COLUMN @extschema@.audit_projections.slow_since IS
  'since when no ingest and no capture runs it, because its rule took longer than audit_cdc.rule_timeout; its '
  'entries wait for audit_retry_projection(); null: it is in time';
COMMENT ON COLUMN @extschema@.audit_projections.rebuilt_at IS 'when it was last filled from the log; null: never';

CREATE VIEW @extschema@.audit_projection_failures AS
  SELECT p.name AS projection, u.log_id, t.table_schema, t.table_name, l.record_id, l.action::text AS action,
         u.commit_timestamp, u.sqlstate, u.reason, u.since, u.retries, u.last_retried_at
  FROM audit_cdc_internal.unprojected AS u
  JOIN audit_cdc_internal.projections AS p ON p.id = u.projection
  LEFT JOIN audit_cdc_internal.log AS l ON l.commit_timestamp = u.commit_timestamp AND l.identity = u.identity
  LEFT JOIN audit_cdc_internal.audited_tables AS t ON t.id = l.audited_table
  WHERE u.sqlstate IS NOT NULL;
COMMENT ON VIEW @extschema@.audit_projection_failures IS
  'entries of the log that a projection''s rule or target could not take; the log has them all the same';
COMMENT ON COLUMN @extschema@.audit_projection_failures.projection IS 'name of the projection';
COMMENT ON COLUMN @extschema@.audit_projection_failures.log_id IS 'audit_logs.id of the entry';
COMMENT ON COLUMN @extschema@.audit_projection_failures.table_schema IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_projection_failures.table_name IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_projection_failures.record_id IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_projection_failures.action IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_projection_failures.commit_timestamp IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_projection_failures.sqlstate IS 'of the error';
COMMENT ON COLUMN @extschema@.audit_projection_failures.reason IS 'the error''s message';
COMMENT ON COLUMN @extschema@.audit_projection_failures.since IS 'when it failed first';
COMMENT ON COLUMN @extschema@.audit_projection_failures.retries IS 'how often audit_retry_projection() tried it';
COMMENT ON COLUMN @extschema@.audit_projection_failures.last_retried_at IS 'when it tried last; null: never';

-- PostgreSQL shows progress only to the session's own role and to monitors.
CREATE FUNCTION audit_cdc_internal.filling(
    OUT pid integer, OUT target oid, OUT entries_done bigint, OUT entries_total bigint)
  RETURNS SETOF record
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT i.pid, i.relid, i.param3, i.param20
  FROM pg_catalog.pg_stat_get_progress_info('COPY') AS i
  WHERE i.datid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) AND i.param20 > 0;
END;

CREATE VIEW @extschema@.audit_projection_progress AS
  SELECT p.name, f.target::regclass AS target, f.pid, f.entries_done, f.entries_total
  FROM audit_cdc_internal.filling() AS f LEFT JOIN audit_cdc_internal.projections AS p ON p.target = f.target;
COMMENT ON VIEW @extschema@.audit_projection_progress IS
  'projections that are being filled from the log now, one row each';
COMMENT ON COLUMN @extschema@.audit_projection_progress.name IS 'its name; null while it is being created';
COMMENT ON COLUMN @extschema@.audit_projection_progress.target IS 'the table being filled';
COMMENT ON COLUMN @extschema@.audit_projection_progress.pid IS 'the session that fills it, as in pg_stat_activity';
COMMENT ON COLUMN @extschema@.audit_projection_progress.entries_done IS 'entries of the log that went through the rule';
COMMENT ON COLUMN @extschema@.audit_projection_progress.entries_total IS
  'entries of the log when the filling began; more may come';
