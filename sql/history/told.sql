-- What is to be known of a table before lines are told from its entries alone: `crates/core/src/lives/told.rs`.

CREATE FUNCTION audit_cdc_internal.told_of(
    audited audit_cdc_internal.audited, has_keys boolean,
    OUT is_described boolean,
    OUT told_from timestamptz, -- from when descriptions say that whole rows are sent; null: they do not
    OUT first_break timestamptz, -- when something that names no record came between
    OUT last_break timestamptz,
    OUT first_rekeyed timestamptz, -- when an update may have given another key
    OUT last_rekeyed timestamptz)
  LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  SELECT
    count(*) > 0,
    CASE WHEN bool_and(d.replica_identity = 'full' AND d.never_sent = '{}') THEN min(d.valid_from) END
  INTO is_described, told_from
  FROM audit_cdc_internal.described_tables AS d
  WHERE d.database_id = ANY (audited.databases)
    AND (d.table_schema, d.table_name) = (audited.table_schema, audited.table_name);
  IF NOT has_keys THEN
    RETURN;
  END IF;
  SELECT min(b.commit_timestamp), max(b.commit_timestamp)
  INTO first_break, last_break
  FROM (
    SELECT l.commit_timestamp
    FROM audit_cdc_internal.log AS l
    WHERE l.audited_table = ANY (audited.numbers)
      AND l.record_id IS NULL
      AND l.action IN ('truncate', 'complete')
      AND (NOT audited.is_own OR l.origin <> 'i')
    UNION ALL
    SELECT d.commit_timestamp FROM audit_cdc_internal.losses_of(audited) AS d
  ) AS b;
  SELECT min(r.first), max(r.last)
  INTO first_rekeyed, last_rekeyed
  FROM unnest(audited.numbers) AS n(number)
  CROSS JOIN LATERAL (
    SELECT
      (
        SELECT l.commit_timestamp
        FROM audit_cdc_internal.log AS l
        WHERE l.audited_table = n.number AND l.may_change_key
        ORDER BY l.commit_timestamp
        LIMIT 1
      ) AS first,
      (
        SELECT l.commit_timestamp
        FROM audit_cdc_internal.log AS l
        WHERE l.audited_table = n.number AND l.may_change_key
        ORDER BY l.commit_timestamp DESC
        LIMIT 1
      ) AS last
  ) AS r;
END
$$;
