-- An archive of audit-keeper, read with DuckDB. Say first where it is: SET VARIABLE archive = '/srv/archive';

CREATE OR REPLACE VIEW audit_archive AS
  SELECT * FROM read_parquet(getvariable('archive') || '/month=*/*.parquet', hive_partitioning = true);

-- What happened to one record, in the order of its commits. of_database: the database_id of the source, if a table of
-- this name is in several.
CREATE OR REPLACE MACRO record_history(of_table, of_key, of_database := NULL) AS TABLE
  SELECT commit_timestamp, action, username, source, request_id, old_values, new_values
  FROM audit_archive
  WHERE table_name = of_table AND record_key = of_key AND (of_database IS NULL OR database_id = of_database)
  ORDER BY commit_timestamp, commit_lsn, commit_idx, id;

-- What a user did, the newest first.
CREATE OR REPLACE MACRO user_changes(who) AS TABLE
  SELECT commit_timestamp, table_name, record_key, action, request_id, old_values, new_values
  FROM audit_archive
  WHERE username = who
  ORDER BY commit_timestamp DESC, commit_lsn DESC NULLS FIRST, commit_idx DESC NULLS FIRST, id DESC;

-- The rows that a table had at a moment. Each must have an entry in the archive that tells it whole. key_column: if
-- keys of the table change, the one column of its key. of_database: as above.
CREATE OR REPLACE MACRO table_as_of(of_table, moment, key_column := NULL, of_database := NULL) AS TABLE
  WITH entries AS (
    SELECT *, row_number() OVER (ORDER BY commit_timestamp, commit_lsn NULLS LAST, commit_idx NULLS LAST, id) AS place
    FROM audit_archive
    WHERE table_name = of_table AND commit_timestamp <= moment AND (of_database IS NULL OR database_id = of_database)
  ), events AS (
    SELECT record_key, action, new_values, place
    FROM entries
    WHERE record_key IS NOT NULL
    UNION ALL
    -- an update that gave its row another key took it from the old one
    SELECT json_extract_string(old_values, '$."' || key_column || '"'), 'delete', NULL, place
    FROM entries
    WHERE action = 'update' AND json_extract_string(old_values, '$."' || key_column || '"') IS DISTINCT FROM record_key
  )
  SELECT record_key, new_values
  FROM (
    SELECT record_key, action, new_values,
           row_number() OVER (PARTITION BY record_key ORDER BY place DESC) AS newest
    FROM events
    WHERE record_key IS NOT NULL
      AND place > coalesce((SELECT max(t.place) FROM entries AS t WHERE t.action = 'truncate'), 0)
  )
  WHERE newest = 1 AND action <> 'delete';
