-- Activity: one line a transaction and record, for people. A projection gathers it.

-- The rule that fills a table of activity.
CREATE FUNCTION audit_cdc_internal.activity_rule(tables text[], tenant_column text, database_id text) RETURNS text
  LANGUAGE sql STABLE
  RETURN format(
    $rule$
    SELECT l.id, l.database_id, l.table_schema, l.table_name, l.record_key AS record_id, l.action,
           l.commit_lsn, l.commit_idx, l.commit_timestamp AS created_at,
           coalesce(l.username, l.annotations ->> 'actor', 'system') AS actor,
           l.source, l.request_id, l.metadata ->> 'reason' AS reason, %1$s AS tenant,
           CASE l.action
             WHEN 'update' THEN audit_cdc_internal.diff(l.old_values, (
               SELECT coalesce(jsonb_object_agg(n.key, n.value), '{}')
               FROM jsonb_each(l.new_values) AS n
               WHERE l.old_values ? n.key), l.exact_values -> 'old', l.exact_values -> 'new')
           END AS changed
    FROM @extschema@.audit_new_logs AS l
    WHERE l.action IN ('insert', 'update', 'delete', 'truncate')%2$s%3$s$rule$,
    CASE
      WHEN tenant_column IS NULL THEN 'NULL'
      ELSE format('coalesce(l.new_values, l.old_values) ->> %L', tenant_column)
    END,
    CASE
      WHEN tables IS NOT NULL
        THEN format(
          ' AND (l.table_name = ANY (%L) OR l.table_schema || ''.'' || l.table_name = ANY (%1$L))', tables)
      ELSE ''
    END,
    CASE
      WHEN database_id IS NOT NULL
        THEN format(' AND l.database_id = ANY ((SELECT audit_cdc_internal.one_log(%L))::text[])', database_id)
      ELSE ''
    END);

-- "updated order #17", "emptied orders"
CREATE FUNCTION audit_cdc_internal.activity_told(action text, table_name text, record_id text) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT CASE action
    WHEN 'truncate' THEN concat('emptied ', table_name)
    ELSE concat(
      CASE action WHEN 'insert' THEN 'created' WHEN 'update' THEN 'updated' WHEN 'delete' THEN 'deleted' END, ' ',
      -- order of orders, category of categories; status of status
      replace(regexp_replace(regexp_replace(table_name, 'ies$', 'y'), '([^isu])s$', '\1'), '_', ' '),
      ' #' || record_id)
  END;
END;

-- Of updates that follow each other, each in the form of audit_diff(): from the first old value to the last new one.
CREATE FUNCTION audit_cdc_internal.diffs_together(diffs jsonb[]) RETURNS jsonb
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT jsonb_object_agg(
    m.key,
    m.old || m.new || CASE
      WHEN m.old ? 'exact' OR m.new ? 'exact'
        THEN jsonb_build_object('exact', coalesce(m.old -> 'exact', '{}') || coalesce(m.new -> 'exact', '{}'))
      ELSE '{}'
    END)
  FROM (
    SELECT v.key,
           (array_agg((v.value - 'new') #- '{exact,new}' ORDER BY d.place))[1] AS old,
           (array_agg((v.value - 'old') #- '{exact,old}' ORDER BY d.place DESC))[1] AS new
    FROM unnest(diffs) WITH ORDINALITY AS d(diff, place)
    CROSS JOIN LATERAL jsonb_each(d.diff) AS v
    GROUP BY v.key
  ) AS m;
END;

CREATE FUNCTION @extschema@.audit_create_activity(
    feed text DEFAULT 'activity', tables text[] DEFAULT NULL, tenant_column text DEFAULT NULL,
    database_id text DEFAULT NULL)
  RETURNS regclass
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  parts CONSTANT text[] := parse_ident(feed);
  qualified text;
BEGIN
  IF cardinality(parts) > 2 THEN
    RAISE EXCEPTION 'improper qualified name: %', feed USING ERRCODE = 'invalid_name';
  END IF;
  qualified := CASE cardinality(parts)
    WHEN 1 THEN format('@extschema@.%I', parts[1])
    ELSE format('%I.%I', parts[1], parts[2])
  END;
  EXECUTE format(
    'CREATE TABLE %s (
      id bigint PRIMARY KEY, database_id text NOT NULL, table_schema text NOT NULL, table_name text NOT NULL,
      record_id text, action text NOT NULL, commit_lsn bigint NOT NULL, commit_idx integer NOT NULL,
      created_at timestamptz NOT NULL, actor text NOT NULL, source text, request_id text, reason text, tenant text,
      changed jsonb)',
    qualified);
  PERFORM audit_cdc_internal.keep_private('pg_class'::regclass, qualified::regclass);
  EXECUTE format(
    'COMMENT ON TABLE %s IS %L', qualified,
    'activity, filled by audit_cdc and read by audit_activity(): one row a change');
  EXECUTE format(
    'CREATE INDEX ON %1$s (created_at);
     CREATE INDEX ON %1$s (actor, created_at);
     CREATE INDEX ON %1$s (record_id, table_name, created_at);
     CREATE INDEX ON %1$s (tenant, created_at) WHERE tenant IS NOT NULL',
    qualified);
  PERFORM @extschema@.audit_create_projection(
    parts[cardinality(parts)]::name::text, audit_cdc_internal.activity_rule(tables, tenant_column, database_id),
    qualified::regclass, true);
  RETURN qualified::regclass;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_create_activity(text, text[], text, text) IS
  'Creates a table of activity and keeps it filled, as a projection. feed: its name, also qualified, in the '
  'extension''s schema without one. tables: only these (orders, public.orders); null: all. tenant_column: the column '
  'of the audited tables that tells whose rows they are; null: none does. database_id: only changes of that '
  'database. Backfilled rows are no activity. Returns the table. Errors: as CREATE TABLE and '
  'audit_create_projection; 22004 (feed), 22023 and 42602 (not a name).';

CREATE FUNCTION @extschema@.audit_activity(
    feed regclass, username text DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL,
    tenant text DEFAULT NULL, after text DEFAULT NULL, max_rows integer DEFAULT 50)
  RETURNS SETOF jsonb
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  place CONSTANT text[] := string_to_array(after, '.');
BEGIN
  IF feed IS NULL OR max_rows IS NULL OR max_rows < 0 THEN
    RAISE EXCEPTION '% must not be %', CASE WHEN feed IS NULL THEN 'feed' ELSE 'max_rows' END,
        CASE WHEN max_rows < 0 THEN 'negative' ELSE 'null' END
      USING ERRCODE = CASE WHEN max_rows < 0 THEN 'invalid_parameter_value' ELSE 'null_value_not_allowed' END;
  END IF;
  IF after !~ '^\d{1,16}\.\d{1,18}\.[0-9a-f]{32}$' THEN
    RAISE EXCEPTION 'after is not a cursor that audit_activity() has given' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  RETURN QUERY EXECUTE format(
    $query$
    WITH page AS (
      SELECT f.created_at, f.commit_lsn, r.record, array_agg(f ORDER BY f.commit_idx, f.id) AS changes
      FROM %s AS f
      CROSS JOIN LATERAL (
        SELECT md5(ROW(f.database_id, f.table_schema, f.table_name, f.record_id)::text) AS record) AS r
      WHERE ($1 IS NULL OR f.actor = $1)
        AND ($2 IS NULL OR f.table_name = $2 OR f.table_schema || '.' || f.table_name = $2)
        AND ($3 IS NULL OR f.record_id = $3) AND ($4 IS NULL OR f.tenant = $4)
        AND ($5 IS NULL OR f.created_at <= $5)
      GROUP BY 1, 2, 3
      HAVING $5 IS NULL OR (f.created_at, f.commit_lsn, r.record) < ($5, $6, $7)
      ORDER BY 1 DESC, 2 DESC, 3 DESC
      LIMIT $8
    )
    SELECT
      jsonb_strip_nulls(jsonb_build_object(
        'cursor', concat_ws('.', (extract(epoch FROM p.created_at) * 1000000)::bigint, p.commit_lsn, p.record),
        'at', p.created_at, 'actor', c.actor, 'action', a.action,
        'description', concat(c.actor, ' ', audit_cdc_internal.activity_told(a.action, c.table_name, c.record_id)),
        'database_id', c.database_id, 'table_schema', c.table_schema, 'table_name', c.table_name,
        'record_id', c.record_id, 'source', c.source, 'request_id', c.request_id, 'reason', c.reason,
        'tenant', c.tenant, 'commit_lsn', p.commit_lsn))
      || jsonb_build_object('changed', coalesce(d.changed, '{}'), 'changes', audit_diff_text)
    FROM page AS p
    CROSS JOIN LATERAL (SELECT (p.changes[cardinality(p.changes)]).*) AS c
    CROSS JOIN LATERAL (
      SELECT CASE WHEN c.action = 'update' AND (p.changes[1]).action = 'insert' THEN 'insert' ELSE c.action END
    ) AS a(action)
    CROSS JOIN LATERAL (
      SELECT CASE WHEN a.action = 'update' THEN audit_cdc_internal.diffs_together(ARRAY(
        SELECT u.changed FROM unnest(p.changes) WITH ORDINALITY AS u ORDER BY u.ordinality)) END AS changed
    ) AS d
    CROSS JOIN LATERAL @extschema@.audit_diff_text(coalesce(d.changed, '{}'))
    ORDER BY p.created_at DESC, p.commit_lsn DESC, p.record DESC$query$,
    feed)
  USING username, table_name, key, tenant, 'epoch'::timestamptz + place[1]::bigint * interval '1 microsecond',
    place[2]::bigint, place[3], max_rows;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_activity(regclass, text, text, text, text, text, integer) IS
  'What happened, newest first, for a web page: an object for each transaction and record, with description ("ada '
  'updated order #17"), changed (as audit_diff) and changes (as text). feed: a table of audit_create_activity(). '
  'username, table_name (orders, public.orders), key (record_key in audit_logs), tenant: what is not null must fit. '
  'Pages: max_rows lines, the next ones after the cursor of the last; entries that come late do not move it. Errors: '
  '22004 (feed, max_rows), 22023 (no such cursor, negative max_rows), 42703 (not such a table).';
