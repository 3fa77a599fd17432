-- An entry without the values that are erased.

CREATE FUNCTION audit_cdc_internal.without_texts(exact_values jsonb, columns text[]) RETURNS jsonb
  LANGUAGE sql IMMUTABLE
  RETURN (
    SELECT nullif(jsonb_object_agg(e.key, e.value - columns), '{}')
    FROM jsonb_each(exact_values) AS e
    WHERE e.value - columns <> '{}'
  );

-- What a message has brought besides goes whole: nobody knows what it holds.
CREATE FUNCTION audit_cdc_internal.own_notes(entry audit_cdc_internal.log) RETURNS jsonb
  LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
  SELECT CASE WHEN (entry).origin <> 'i' THEN (entry).notes ELSE (
    SELECT jsonb_object_agg(n.key, n.value)
    FROM jsonb_each((entry).notes) AS n
    WHERE n.key = 'erased'
       OR n.key = 'contested' AND jsonb_typeof(n.value) = 'boolean'
       OR n.key = 'row_filter' AND n.value IN ('"entered"', '"left"')
       OR n.key IN (SELECT v.name FROM audit_cdc_internal.noted_values((entry).notes) AS v)
  ) END;
END;

CREATE FUNCTION audit_cdc_internal.without_notes(notes jsonb, columns text[]) RETURNS jsonb
  LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
  SELECT nullif(
    notes - array_agg(v.name)
      || coalesce(jsonb_object_agg(v.name, v.of_columns - columns) FILTER (WHERE v.of_columns - columns <> '{}'), '{}'),
    '{}')
  FROM audit_cdc_internal.noted_values(notes) AS v
  HAVING count(*) > 0
  UNION ALL
  SELECT notes
  WHERE NOT EXISTS (SELECT FROM audit_cdc_internal.noted_values(notes));
END;

-- What an entry says of itself once values of it are erased, among its notes. More may be erased later.
CREATE FUNCTION audit_cdc_internal.noted(notes jsonb, columns text[], changed text[], more jsonb, reason text)
  RETURNS jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(notes, '{}')
    || jsonb_build_object('erased', e.before || more || jsonb_build_object(
      'at', now(), 'reason', reason, 'columns', to_jsonb(ARRAY(
        SELECT unnest(columns) AS c UNION SELECT jsonb_array_elements_text(e.before -> 'columns') ORDER BY c)),
      'changed', to_jsonb(ARRAY(
        SELECT unnest(changed) AS c UNION SELECT jsonb_array_elements_text(e.before -> 'changed') ORDER BY c))))
  FROM (SELECT coalesce(notes -> 'erased', '{}') AS before) AS e;
END;

-- What was not sent, as reading tells it now: a description that comes later explains entries as they came only.
CREATE FUNCTION audit_cdc_internal.not_sent(entry audit_cdc_internal.log, OUT columns text[], OUT old_columns text[])
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT
    coalesce(
      l.unknown_columns,
      ARRAY(
        SELECT v.key
        FROM jsonb_each(coalesce(entry.new_values, entry.old_values)) AS v
        WHERE entry.action = 'update' AND entry.old_values = '{}' AND v.value = '"unchanged_toast"'
          OR entry.action IN ('read', 'delete') AND v.value = 'null'
      )),
    coalesce(
      l.unknown_old_columns,
      CASE WHEN entry.action = 'update' AND entry.old_values <> '{}' THEN '{}'::text[] END)
  FROM @extschema@.audit_logs AS l
  WHERE l.id = entry.id AND l.commit_timestamp = entry.commit_timestamp;
END;

-- columns: null for all. pseudonym: in place of the key; null: it stays. What is erased counts as not sent from now on.
CREATE FUNCTION audit_cdc_internal.without_values(
    entry audit_cdc_internal.log, columns text[], key_columns text[], pseudonym text, reason text)
  RETURNS audit_cdc_internal.log
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  gone CONSTANT text[] := ARRAY(
    SELECT c
    FROM (
      SELECT jsonb_object_keys(coalesce(entry.new_values, '{}') || coalesce(entry.old_values, '{}')) AS c
      UNION
      SELECT jsonb_object_keys(v.of_columns) FROM audit_cdc_internal.noted_values(entry.notes) AS v
      UNION
      SELECT jsonb_object_keys(e.value) FROM jsonb_each(entry.exact_values) AS e WHERE jsonb_typeof(e.value) = 'object'
    ) AS there
    WHERE columns IS NULL OR c = ANY (columns)
    ORDER BY c);
  changed CONSTANT text[] := ARRAY(
    SELECT c FROM unnest(gone) AS c
    WHERE entry.action = 'update' AND entry.old_values -> c <> entry.new_values -> c);
  not_sent record;
BEGIN
  IF gone = '{}' AND pseudonym IS NULL THEN
    RETURN entry;
  END IF;
  SELECT n.columns, n.old_columns INTO not_sent FROM audit_cdc_internal.not_sent(entry) AS n;
  entry.unknown_columns := ARRAY(SELECT unnest(not_sent.columns || gone) AS c GROUP BY c ORDER BY c);
  IF entry.action IN ('update', 'delete') AND not_sent.old_columns IS NOT NULL THEN
    entry.unknown_old_columns := ARRAY(
      SELECT c FROM unnest(not_sent.old_columns || gone) AS c
      -- a record under a pseudonym keeps it: its key is the same before
      WHERE pseudonym IS NULL OR c <> ALL (coalesce(key_columns, '{}')) GROUP BY c ORDER BY c);
  END IF;
  entry.new_values := entry.new_values - gone;
  entry.old_values := entry.old_values - gone;
  entry.exact_values := audit_cdc_internal.without_texts(entry.exact_values, gone);
  entry.notes := audit_cdc_internal.without_notes(audit_cdc_internal.own_notes(entry), gone);
  IF pseudonym IS NOT NULL THEN
    entry.record_id := pseudonym;
    entry.record_pks := NULL;
    entry.may_change_key := NULL;
    entry.idempotency_key := CASE WHEN entry.idempotency_key IS NOT NULL THEN 'erased' END;
  END IF;
  entry.notes := audit_cdc_internal.noted(
    entry.notes, gone, changed, CASE WHEN pseudonym IS NULL THEN '{}' ELSE '{"key": true}' END::jsonb, reason);
  RETURN entry;
END
$$;

-- Who made the change is a pseudonym. What was said of it besides, but for source and request_id, goes too.
CREATE FUNCTION audit_cdc_internal.without_user(annotations jsonb, pseudonym text) RETURNS jsonb
  LANGUAGE sql IMMUTABLE
  RETURN jsonb_build_object('username', pseudonym)
    || coalesce(
      (
        SELECT jsonb_object_agg(a.key, a.value)
        FROM jsonb_each(annotations) AS a
        WHERE a.key IN ('source', 'request_id')
      ),
      '{}');

CREATE FUNCTION audit_cdc_internal.without_annotations(entry audit_cdc_internal.log, pseudonym text, reason text)
  RETURNS audit_cdc_internal.log
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  entry.annotations := audit_cdc_internal.without_user(entry.annotations, pseudonym);
  entry.large_annotations := NULL;
  entry.notes := audit_cdc_internal.noted(entry.notes, '{}', '{}', '{"annotations": true}', reason);
  RETURN entry;
END
$$;
