-- Which entries an erasure concerns.

-- Keys that a table's updates have given to a record: each with the one before it.
CREATE FUNCTION audit_cdc_internal.changed_keys(
    audited audit_cdc_internal.audited, OUT one text, OUT other text) RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT p.one, p.other
  FROM (
    SELECT coalesce(k.record_key, l.record_id) AS key_now, l.record_id,
           audit_cdc_internal.key_before(
             audit_cdc_internal.told_image(l.old_values, l.exact_values, 'old'),
             audit_cdc_internal.told_image(l.new_values, l.exact_values, 'new'),
             coalesce(l.record_pks, ARRAY[l.record_id]), coalesce(k.record_key, l.record_id), audited) AS key_before
    FROM audit_cdc_internal.log AS l
    LEFT JOIN audit_cdc_internal.record_keys AS k ON k.audited_table = l.audited_table AND k.record_id = l.record_id
    WHERE l.audited_table = ANY (audited.numbers) AND l.may_change_key
  ) AS u
  CROSS JOIN LATERAL (
    VALUES (u.record_id, u.key_before), (u.key_before, u.record_id), (u.record_id, u.key_now), (u.key_now, u.record_id)
  ) AS p(one, other)
  WHERE p.one <> p.other
  UNION
  SELECT p.one, p.other
  FROM audit_cdc_internal.record_keys AS k
  CROSS JOIN LATERAL (VALUES (k.record_id, k.record_key), (k.record_key, k.record_id)) AS p(one, other)
  WHERE k.audited_table = ANY (audited.numbers);
END;

-- What audit_erase() is to take out.
CREATE TYPE audit_cdc_internal.to_erase AS (
  audited audit_cdc_internal.audited, -- null: of a user, in all tables
  numbers integer[], -- of audited_tables; null: all
  keys text[], -- in all spellings, of records
  holding jsonb,
  username text,
  columns text[], -- null: all
  is_key_erased boolean
);

-- All keys, in all spellings, that records with these keys have had.
CREATE FUNCTION audit_cdc_internal.keys_of_records(audited audit_cdc_internal.audited, record_ids text[])
  RETURNS text[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH RECURSIVE links AS MATERIALIZED (
    SELECT c.one, c.other FROM audit_cdc_internal.changed_keys(audited) AS c
  ), found(key) AS (
    SELECT unnest(keys_of_records.record_ids)
    UNION
    SELECT n.other
    FROM found AS f
    JOIN links AS n ON n.one = f.key
  )
  SELECT coalesce(array_agg(f.key), '{}') FROM found AS f;
END;

-- Records that have had these values.
CREATE FUNCTION audit_cdc_internal.records_holding(numbers integer[], holding jsonb) RETURNS text[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(array_agg(DISTINCT l.record_id), '{}')
  FROM audit_cdc_internal.log AS l
  WHERE l.audited_table = ANY (numbers)
    AND l.record_id IS NOT NULL
    AND (l.new_values @> holding OR l.old_values @> holding);
END;

-- What the notes tell of values, by column: of those that were too large, or are masked. Messages may say anything.
CREATE FUNCTION audit_cdc_internal.noted_values(notes jsonb, OUT name text, OUT of_columns jsonb)
  RETURNS SETOF record
  LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
  SELECT n.key, n.value
  FROM jsonb_each(notes) AS n
  WHERE n.key IN ('omitted', 'omitted_old', 'masked') AND jsonb_typeof(n.value) = 'object';
END;

-- Has the entry a value of one of these columns?
CREATE FUNCTION audit_cdc_internal.has_columns(entry audit_cdc_internal.log, columns text[]) RETURNS boolean
  LANGUAGE sql IMMUTABLE
  RETURN coalesce(entry.new_values ?| columns, false)
    OR coalesce(entry.old_values ?| columns, false)
    OR coalesce(entry.exact_values -> 'new' ?| columns, false)
    OR coalesce(entry.exact_values -> 'old' ?| columns, false)
    OR EXISTS (SELECT FROM audit_cdc_internal.noted_values(entry.notes) AS n WHERE n.of_columns ?| columns);

-- Entries of these records, and those of a table without a key that hold the values; or those of the user.
CREATE FUNCTION audit_cdc_internal.entries_to_erase(wanted audit_cdc_internal.to_erase)
  RETURNS SETOF audit_cdc_internal.log
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT *
  FROM audit_cdc_internal.log AS l
  WHERE l.audited_table = ANY (wanted.numbers)
    AND l.record_id = ANY (wanted.keys)
    AND (wanted.columns IS NULL OR wanted.is_key_erased OR audit_cdc_internal.has_columns(l, wanted.columns))
  UNION ALL
  SELECT *
  FROM audit_cdc_internal.log AS l
  WHERE l.audited_table = ANY (wanted.numbers)
    AND l.record_id IS NULL
    AND (l.new_values @> wanted.holding OR l.old_values @> wanted.holding)
    AND (wanted.columns IS NULL OR audit_cdc_internal.has_columns(l, wanted.columns))
  UNION ALL
  SELECT *
  FROM audit_cdc_internal.log AS l
  WHERE audit_cdc_internal.lifted(l.annotations, 'username') = wanted.username
    AND (wanted.numbers IS NULL OR l.audited_table = ANY (wanted.numbers));
END;

-- Does an entry's key hold any of these columns? Where nobody knows the key's columns, values tell.
CREATE FUNCTION audit_cdc_internal.is_in_key(entry audit_cdc_internal.log, columns text[], key_columns text[])
  RETURNS boolean
  LANGUAGE sql IMMUTABLE
  RETURN entry.record_id IS NOT NULL
    AND (
      columns IS NULL
      OR coalesce(columns && key_columns, false)
      OR EXISTS (
        SELECT FROM unnest(columns) AS c
        CROSS JOIN LATERAL (VALUES (entry.new_values ->> c), (entry.old_values ->> c)) AS v(value)
        WHERE v.value = ANY (coalesce(entry.record_pks, ARRAY[entry.record_id]))
      ));
