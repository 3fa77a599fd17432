-- How far capture is, and whether it goes on.

CREATE FUNCTION @extschema@.audit_capture_status(
    OUT publication name, OUT slot name, OUT worker_pid integer, OUT lag_bytes bigint,
    OUT lag_seconds double precision, OUT last_commit timestamptz, OUT last_commit_lsn pg_lsn, OUT changes bigint,
    OUT changes_per_second double precision, OUT retained_bytes bigint, OUT started_at timestamptz,
    OUT last_error text, OUT last_error_sqlstate text, OUT last_error_at timestamptz, OUT open_gaps bigint,
    OUT lost_annotations bigint, OUT can_seal boolean)
  RETURNS SETOF record
  LANGUAGE sql VOLATILE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT c.publication, c.slot, w.pid, l.bytes,
         CASE WHEN fault.reason IS NOT NULL THEN 'Infinity'
              WHEN pg_is_in_recovery() THEN NULL
              WHEN l.bytes = 0 OR w.pid IS NOT NULL AND NOT look.is_behind THEN 0
              ELSE greatest(0, extract(epoch FROM clock_timestamp()
                                                  - greatest(c.read_to_time, look.looked_at, look.behind_since)))
         END::double precision,
         c.last_commit, c.last_commit_lsn, c.changes,
         CASE WHEN c.rate_since > clock_timestamp() - interval '5 s' THEN c.rate
              ELSE c.rate_changes / extract(epoch FROM clock_timestamp() - c.rate_since) END,
         pg_wal_lsn_diff(f.lsn, s.restart_lsn)::bigint, c.started_at,
         CASE WHEN fault.reason IS NOT NULL THEN fault.message
              WHEN p.oid IS NULL THEN format('publication "%s" does not exist', c.publication)
              WHEN unnoted.at IS NOT NULL THEN 'the failure could not be noted: the log of the server tells it'
              ELSE c.last_error END,
         CASE WHEN fault.reason IS NOT NULL THEN '55000'
              WHEN p.oid IS NULL THEN '42704'
              WHEN unnoted.at IS NOT NULL THEN unnoted.failure ELSE c.last_error_sqlstate END,
         coalesce(unnoted.at, c.last_error_at),
         (SELECT count(*) FROM @extschema@.audit_gaps AS g WHERE g.is_open),
         audit_cdc_internal.lost_annotations(), audit_cdc_internal.can_seal()
  FROM audit_cdc_internal.captures AS c
  LEFT JOIN audit_cdc_internal.capture_faults AS fault ON true
  LEFT JOIN pg_publication AS p ON p.pubname = c.publication
  CROSS JOIN audit_cdc_internal.last_look() AS look
  CROSS JOIN LATERAL (SELECT audit_cdc_internal.capture_worker() AS pid) AS w
  CROSS JOIN LATERAL (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                  ELSE pg_current_wal_flush_lsn() END AS lsn) AS f
  LEFT JOIN pg_replication_slots AS s ON s.slot_name = c.slot AND fault.reason IS NULL
  CROSS JOIN LATERAL (SELECT greatest(pg_wal_lsn_diff(f.lsn, greatest(c.read_to, look.looked_to)), 0)::bigint AS bytes
                      WHERE fault.reason IS NULL UNION ALL SELECT NULL WHERE fault.reason IS NOT NULL) AS l
  LEFT JOIN LATERAL (SELECT f.failed_at AS at, f.failure FROM audit_cdc_internal.last_failure() AS f
                     WHERE f.failed_at > coalesce(c.last_error_at, '-infinity')) AS unnoted ON true;
END;
COMMENT ON FUNCTION @extschema@.audit_capture_status() IS
  'The capture of this database, one row; none: nothing is captured. worker_pid: null without a worker. lag_bytes: '
  'WAL, of all databases, that was not looked through yet; null: capture cannot go on. lag_seconds: so old is at '
  'most what is committed and not captured, also during a long pass, a wait or a failure; Infinity: capture cannot '
  'go on, and last_error tells why; null on a standby, where it is not known. last_commit: of the last captured '
  'transaction. changes: captured since started_at; changes_per_second: in the last seconds. retained_bytes: WAL '
  'that the server keeps for the slot. last_error: that there is no such publication, or the last failure of a '
  'worker, with its SQLSTATE and time; it tries again. open_gaps: rows of audit_gaps that no backfill has closed. '
  'lost_annotations: so many calls of audit_annotate annotated nothing, since each was a transaction of its own; '
  'counted since the server or capture started, null without a worker. can_seal: whether the server can seal what '
  'it says of transactions; false: no annotation is attested meanwhile, and the log of the server tells why; null on '
  'a standby, and where the library is not preloaded. It works on a standby. Errors: none.';
