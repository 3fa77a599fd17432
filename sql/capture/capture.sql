-- Capture: the log fills itself from this server's own WAL. The Rust side stands in src/capture.
--
-- * A slot is read without consuming it, what it holds is stored and committed, and only then it is advanced.
--   Advancing survives a rollback, so the two are never in one transaction. Each of the two holds the lock of the
--   capture; who comes in between stores nothing twice.
-- * What has been read, and from which slot, is stored with the entries (read_to). The slot is never advanced
--   beyond it: where it stands further, somebody else has moved it, and what was in between is a gap (gaps.sql).
-- * One capture a database: two publications may give one position to different changes.

CREATE TABLE audit_cdc_internal.captures (
  is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  publication name NOT NULL,
  slot name NOT NULL,
  plugin name NOT NULL, -- of the slot
  database_id text NOT NULL, -- whose capture it is: a copy of the database has the row too
  timeline integer NOT NULL, -- of the server, when it was read last
  read_to pg_lsn NOT NULL, -- what committed before is in the log
  read_to_time timestamptz NOT NULL DEFAULT now(), -- so is what committed before this time
  started_at timestamptz NOT NULL DEFAULT now(),
  is_stopping boolean NOT NULL DEFAULT false,
  stopping_at pg_lsn, -- what was committed when it began to stop is before this position
  changes bigint NOT NULL DEFAULT 0,
  last_commit_lsn pg_lsn,
  last_commit timestamptz,
  rate double precision NOT NULL DEFAULT 0, -- changes per second, up to rate_since
  rate_since timestamptz NOT NULL DEFAULT now(),
  rate_changes bigint NOT NULL DEFAULT 0, -- since then
  last_error text,
  last_error_sqlstate text,
  last_error_at timestamptz
);

-- Captured transactions in which rules of projections ran: what they changed afterwards must not be fed to
-- projections again.
CREATE TABLE audit_cdc_internal.projecting_transactions (xid xid8 PRIMARY KEY);

-- A complete pass has read what was committed when it began.
CREATE FUNCTION audit_cdc_internal.forget_projecting_transactions(oldest bigint) RETURNS void LANGUAGE sql VOLATILE
BEGIN ATOMIC
  DELETE FROM audit_cdc_internal.projecting_transactions WHERE xid < oldest::text::xid8;
END;

-- With which names of WAL files begin; not to be asked during recovery.
CREATE FUNCTION audit_cdc_internal.current_timeline() RETURNS integer LANGUAGE sql STABLE
  RETURN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer;

-- A pass has read up to a position, and stored so many changes that are new. Times that are null are not known.
CREATE FUNCTION audit_cdc_internal.note_captured(
    captured bigint, lsn bigint, last_commit timestamptz, read_to bigint, read_to_time timestamptz) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  UPDATE audit_cdc_internal.captures AS c
  SET changes = c.changes + note_captured.captured,
    last_commit_lsn = coalesce('0/0'::pg_lsn + note_captured.lsn, c.last_commit_lsn),
    last_commit = coalesce(note_captured.last_commit, c.last_commit),
    read_to = greatest('0/0'::pg_lsn + note_captured.read_to, c.read_to),
    read_to_time = coalesce(note_captured.read_to_time, c.read_to_time),
    timeline = audit_cdc_internal.current_timeline(),
    rate = CASE WHEN n.seconds > 5 THEN (c.rate_changes + note_captured.captured) / n.seconds ELSE c.rate END,
    rate_since = CASE WHEN n.seconds > 5 THEN clock_timestamp() ELSE c.rate_since END,
    rate_changes = CASE WHEN n.seconds > 5 THEN 0 ELSE c.rate_changes + note_captured.captured END
  FROM (
    SELECT extract(epoch FROM clock_timestamp() - rate_since)::double precision AS seconds
    FROM audit_cdc_internal.captures
  ) AS n;
END;

-- Of a worker; it may be that the slot is not there any more.
CREATE FUNCTION audit_cdc_internal.note_capture_error(sqlstate text, message text) RETURNS void
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  PERFORM audit_cdc_internal.lock_capture();
  UPDATE audit_cdc_internal.captures
  SET last_error = message, last_error_sqlstate = sqlstate, last_error_at = clock_timestamp();
  PERFORM audit_cdc_internal.note_fault();
END
$$;

-- Asked by the worker before each look. Until its transaction ends nobody else reads or moves the slot.
CREATE FUNCTION audit_cdc_internal.is_captured() RETURNS boolean
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.lock_capture();
  RETURN EXISTS (SELECT FROM audit_cdc_internal.captures WHERE NOT is_stopping);
END
$$;

-- The worker of this database; null: none.
CREATE FUNCTION audit_cdc_internal.capture_worker() RETURNS integer
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_stat_clear_snapshot();
  RETURN (
    SELECT max(pid)
    FROM pg_stat_activity
    WHERE backend_type = 'audit_cdc capture' AND datname = current_database()
  );
END
$$;
