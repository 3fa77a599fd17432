-- An archive of audit-keeper, read with DuckDB. Say first where it is: SET VARIABLE archive = '/srv/archive';

CREATE OR REPLACE VIEW audit_archive AS
  SELECT * FROM read_parquet(getvariable('archive') || '/month=*/*.parquet', hive_partitioning = true);

-- What happened to one record, in the order of its commits.
CREATE OR REPLACE MACRO record_history(of_table, of_key) AS TABLE
  SELECT commit_timestamp, action, username, source, request_id, old_values, new_values
  FROM audit_archive
  WHERE table_name = of_table AND record_key = of_key
  ORDER BY commit_timestamp, commit_lsn, commit_idx, id;

-- What a user did, the newest first.
CREATE OR REPLACE MACRO user_changes(who) AS TABLE
  SELECT commit_timestamp, table_name, record_key, action, request_id, old_values, new_values
  FROM audit_archive
  WHERE username = who
  ORDER BY commit_timestamp DESC, commit_lsn DESC NULLS FIRST, commit_idx DESC NULLS FIRST, id DESC;

-- The rows that a table had at a moment. Each must have an entry in the archive that tells it whole. key_column: if
-- keys of the table change, the one column of its key.
CREATE OR REPLACE MACRO table_as_of(of_table, moment, key_column := NULL) AS TABLE
  WITH entries AS (
    SELECT * FROM audit_archive WHERE table_name = of_table AND commit_timestamp <= moment
  ), events AS (
    SELECT record_key, action, new_values, commit_timestamp, commit_lsn, commit_idx, id
    FROM entries
    WHERE record_key IS NOT NULL
    UNION ALL
    -- an update that gave its row another key took it from the old one
    SELECT json_extract_string(old_values, '$."' || key_column || '"'), 'delete', NULL, commit_timestamp, commit_lsn,
           commit_idx, id
    FROM entries
    WHERE action = 'update' AND json_extract_string(old_values, '$."' || key_column || '"') IS DISTINCT FROM record_key
  )
  SELECT record_key, new_values
  FROM (
    SELECT record_key, action, new_values,
           row_number() OVER (
             PARTITION BY record_key
             ORDER BY commit_timestamp DESC, commit_lsn DESC NULLS FIRST, commit_idx DESC NULLS FIRST, id DESC) AS place
    FROM events
    WHERE record_key IS NOT NULL
      AND commit_timestamp > coalesce(
        (SELECT max(t.commit_timestamp) FROM entries AS t WHERE t.action = 'truncate'), '-infinity')
  )
  WHERE place = 1 AND action <> 'delete';
