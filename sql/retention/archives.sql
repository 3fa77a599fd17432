-- Months that audit-keeper has archived, and whether an archive has all that the log has of its month.

CREATE TABLE audit_cdc_internal.archives (
  month date,
  place text,
  entries bigint NOT NULL,
  digest text NOT NULL,
  -- as the keeper has seen the month: entries in the log, entries that retention had removed, and erasures
  log_entries bigint NOT NULL,
  removed bigint NOT NULL,
  erasures bigint NOT NULL,
  archived_at timestamptz NOT NULL,
  archived_by text NOT NULL,
  failed_at timestamptz, -- null: it was verified last, or never
  PRIMARY KEY (month, place)
);
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.archives', '');

-- What is stale is judged as by crates/keeper/src/plan.rs. Entries only come, or go by retention, which counts them. So
-- the same count means the same entries.
CREATE VIEW audit_cdc_internal.archive_states AS
  SELECT a.month, a.place, a.entries, a.digest, a.archived_at, a.archived_by, a.failed_at,
         (
           SELECT count(*) + (
               SELECT coalesce(sum(r.entries), 0) FROM audit_cdc_internal.removals AS r WHERE r.month = a.month
             ) <> a.log_entries + a.removed
             OR count(*) > 0 AND (
               SELECT count(*)
               FROM audit_cdc_internal.erasures AS e
               WHERE e.newest >= a.month::timestamp AT TIME ZONE 'UTC'
                 AND e.oldest < (a.month + interval '1 month') AT TIME ZONE 'UTC'
             ) <> a.erasures
           FROM audit_cdc_internal.log AS l
           WHERE l.commit_timestamp >= a.month::timestamp AT TIME ZONE 'UTC'
             AND l.commit_timestamp < (a.month + interval '1 month') AT TIME ZONE 'UTC'
         ) AS is_stale
  FROM audit_cdc_internal.archives AS a;

CREATE VIEW @extschema@.audit_archives AS
  SELECT month, place, entries, digest, archived_at, archived_by, is_stale, failed_at
  FROM audit_cdc_internal.archive_states;
COMMENT ON VIEW @extschema@.audit_archives IS 'months that audit-keeper has archived, by place';
COMMENT ON COLUMN @extschema@.audit_archives.month IS 'its first day, in UTC';
COMMENT ON COLUMN @extschema@.audit_archives.place IS 'the folder, or s3://bucket/prefix';
COMMENT ON COLUMN @extschema@.audit_archives.entries IS 'how many are in the archive';
COMMENT ON COLUMN @extschema@.audit_archives.digest IS 'of all of them, as the manifest has it: SHA-256 in hex';
COMMENT ON COLUMN @extschema@.audit_archives.archived_at IS 'when that came on record';
COMMENT ON COLUMN @extschema@.audit_archives.archived_by IS 'who called audit_archived()';
COMMENT ON COLUMN @extschema@.audit_archives.is_stale IS
  'whether entries came, were erased, or were lost since. It counts the month, so leave it out if you do not need it';
COMMENT ON COLUMN @extschema@.audit_archives.failed_at IS
  'when audit-keeper verify has found that the archive is not as it should be; null: it has not, or it is well again';

-- Months of which entries may go; null: of all, because audit_cdc.archive_first is off.
CREATE VIEW audit_cdc_internal.archived_months AS
  SELECT CASE WHEN audit_cdc_internal.archive_first() THEN ARRAY(
    SELECT DISTINCT s.month
    FROM audit_cdc_internal.archive_states AS s
    WHERE s.month::timestamp AT TIME ZONE 'UTC' < (SELECT max(c.cutoff) FROM audit_cdc_internal.cutoffs AS c)
      AND s.failed_at IS NULL
      AND NOT s.is_stale
  ) END AS months;

-- Of one month, as it is now. Who asks has already found the entries that are to go: what came later is counted too.
CREATE FUNCTION audit_cdc_internal.waits_for_archive(month date) RETURNS boolean
  LANGUAGE sql STABLE
  RETURN audit_cdc_internal.archive_first()
    AND NOT EXISTS (
      SELECT FROM audit_cdc_internal.archive_states AS s
      WHERE s.month = waits_for_archive.month AND s.failed_at IS NULL AND NOT s.is_stale
    );

-- To who has called, and to the server's log, which has it of the worker too.
CREATE FUNCTION audit_cdc_internal.say_unarchived(month date) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  message CONSTANT text := format('entries of %s wait until they are archived', to_char(month, 'YYYY-MM'));
BEGIN
  RAISE LOG '%', message;
  RAISE NOTICE '%', message
    USING HINT = 'Call audit-keeper archive. It archives months that are over.';
END
$$;

CREATE FUNCTION audit_cdc_internal.check_archive(month date, place text) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF month IS NULL OR place IS NULL THEN
    RAISE EXCEPTION '% must not be null', CASE WHEN month IS NULL THEN 'month' ELSE 'place' END
      USING ERRCODE = 'null_value_not_allowed';
  ELSIF btrim(place) = '' THEN
    RAISE EXCEPTION 'place must not be empty' USING ERRCODE = 'invalid_parameter_value';
  ELSIF NOT isfinite(month) OR month >= now() OR extract(day FROM month) <> 1
      OR month > (now() AT TIME ZONE 'UTC') - interval '1 month' THEN
    RAISE EXCEPTION 'month must be the first day of a month that is over' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM audit_cdc_internal.refuse_long('place', place);
END
$$;

CREATE FUNCTION audit_cdc_internal.check_archived(
    entries bigint, digest text, log_entries bigint, removed bigint, erasures bigint) RETURNS void
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF entries IS NULL OR digest IS NULL OR log_entries IS NULL OR removed IS NULL OR erasures IS NULL THEN
    RAISE EXCEPTION 'counts and digest must not be null' USING ERRCODE = 'null_value_not_allowed';
  ELSIF least(entries, log_entries, removed, erasures) < 0 OR log_entries > entries THEN
    RAISE EXCEPTION 'counts must not be negative, and log_entries not more than entries'
      USING ERRCODE = 'invalid_parameter_value';
  ELSIF digest !~ '^[0-9a-f]{64}$' THEN
    RAISE EXCEPTION 'digest must be a SHA-256 in hex' USING ERRCODE = 'invalid_parameter_value';
  END IF;
END
$$;

CREATE FUNCTION @extschema@.audit_archived(
    month date, place text, entries bigint, digest text, log_entries bigint, removed bigint, erasures bigint)
  RETURNS boolean
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  PERFORM audit_cdc_internal.check_archive(month, place);
  PERFORM audit_cdc_internal.check_archived(entries, digest, log_entries, removed, erasures);
  INSERT INTO audit_cdc_internal.archives AS a
  VALUES (month, place, entries, digest, log_entries, removed, erasures, clock_timestamp(), session_user)
  ON CONFLICT ON CONSTRAINT archives_pkey DO UPDATE
  SET entries = excluded.entries, digest = excluded.digest, log_entries = excluded.log_entries,
      removed = excluded.removed, erasures = excluded.erasures, archived_at = excluded.archived_at,
      archived_by = excluded.archived_by, failed_at = NULL
  WHERE a.failed_at IS NOT NULL
     OR (a.entries, a.digest, a.log_entries, a.removed, a.erasures)
       <> (excluded.entries, excluded.digest, excluded.log_entries, excluded.removed, excluded.erasures);
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_archived', jsonb_build_object('month', month, 'place', place, 'digest', digest),
    jsonb_build_object('entries', entries, 'log_entries', log_entries, 'removed', removed, 'erasures', erasures));
  RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_archived(date, text, bigint, text, bigint, bigint, bigint) IS
  'Puts on record that a month is archived; audit-keeper calls it. month: its first day, in UTC. place: where the '
  'archive is, a folder or s3://bucket/prefix. entries, digest: how many the archive has, and their SHA-256 in hex. '
  'log_entries, removed, erasures: what the database had of the month when it was read. These are entries in the log, '
  'entries that retention had removed, and erasures that had reached it. It replaces what is on record of the month '
  'in this place. False: that is on record already. Errors: 22004 (null), 22023 (the month is not over, place is '
  'empty or longer than 500 bytes, or counts or digest cannot be).';

CREATE FUNCTION @extschema@.audit_archive_failed(month date, place text, reason text DEFAULT NULL) RETURNS boolean
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.check_archive(month, place);
  UPDATE audit_cdc_internal.archives AS a
  SET failed_at = clock_timestamp()
  WHERE a.month = audit_archive_failed.month AND a.place = audit_archive_failed.place AND a.failed_at IS NULL;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_archive_failed', jsonb_build_object('month', month, 'place', place), NULL, reason);
  RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_archive_failed(date, text, text) IS
  'Puts on record that an archived month is not as it should be; audit-keeper verify calls it. Until '
  'audit_archived() it does not count as archived in this place. month, place: as given to that. reason: for '
  'audit_operations; null for none. False: the month is not on record in this place, or has failed already. '
  'Errors: 22004 (null), 22023 (the month is not over, or place is empty or longer than 500 bytes).';
