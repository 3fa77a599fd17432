-- What differs between two images.

CREATE FUNCTION audit_cdc_internal.diff(old jsonb, new jsonb) RETURNS jsonb
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT coalesce(
    jsonb_object_agg(
      key,
      CASE WHEN o.value IS NULL THEN '{}' ELSE jsonb_build_object('old', o.value) END
        || CASE WHEN n.value IS NULL THEN '{}' ELSE jsonb_build_object('new', n.value) END),
    '{}')
  FROM jsonb_each(coalesce(old, '{}')) AS o
  FULL JOIN jsonb_each(coalesce(new, '{}')) AS n USING (key)
  WHERE o.value IS DISTINCT FROM n.value;
END;

CREATE FUNCTION audit_cdc_internal.diff(old jsonb, new jsonb, old_exact jsonb, new_exact jsonb) RETURNS jsonb
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE
    WHEN old_exact IS NULL AND new_exact IS NULL THEN audit_cdc_internal.diff(old, new)
    ELSE audit_cdc_internal.plain_diff(
      audit_cdc_internal.diff(audit_cdc_internal.told(old, old_exact), audit_cdc_internal.told(new, new_exact)))
  END;

CREATE FUNCTION @extschema@.audit_diff(
    old jsonb, new jsonb, old_exact jsonb DEFAULT NULL, new_exact jsonb DEFAULT NULL)
  RETURNS jsonb
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN audit_cdc_internal.diff(old, new, old_exact, new_exact);
COMMENT ON FUNCTION @extschema@.audit_diff(jsonb, jsonb, jsonb, jsonb) IS
  'What differs between two rows as jsonb: an object with a member for each column that differs, {"status": {"old": '
  '"paid", "new": "shipped"}}. A column that one of them does not have lacks that side. Null counts as a row without '
  'columns. Values are compared as jsonb: 1.0 equals 1.00. old_exact, new_exact: texts of values that the rows do not '
  'hold, exact_values -> ''old'' of audit_logs and -> ''new''; such values are compared by them, so that JSON null '
  'differs from NULL, and they stand in the member exact: {"doc": {"old": null, "new": null, "exact": {"new": '
  '"null"}}}. Null: none. Errors: 22023 (not an object).';

CREATE FUNCTION @extschema@.audit_diff_text(diff jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
BEGIN ATOMIC
  SELECT coalesce(
    string_agg(
      concat(
        key, ': ',
        CASE WHEN value ? 'old'
             THEN coalesce('json ' || (value #>> '{exact,old}'), value ->> 'old', 'null') || ' → ' END,
        CASE WHEN value ? 'new'
             THEN coalesce('json ' || (value #>> '{exact,new}'), value ->> 'new', 'null') ELSE 'gone' END),
      ', ' ORDER BY key COLLATE "C"),
    '')
  FROM jsonb_each(diff);
END;
COMMENT ON FUNCTION @extschema@.audit_diff_text(jsonb) IS
  'What audit_diff() returns, for people: "status: paid → shipped, total: 1.50 → 2.50", columns by name. A column '
  'that was not there before stands as "total: 2.50", one that is no more as "total: 2.50 → gone", an exact text as '
  '"doc: null → json null". Null for null. Errors: 22023 (not an object).';

CREATE FUNCTION @extschema@.audit_diff_text(old jsonb, new jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN @extschema@.audit_diff_text(@extschema@.audit_diff(old, new));
COMMENT ON FUNCTION @extschema@.audit_diff_text(jsonb, jsonb) IS
  'The same of two rows: audit_diff_text(audit_diff(old, new)). Errors: 22023 (not an object).';
