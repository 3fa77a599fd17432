-- An archive of audit-keeper, read with DuckDB. Say first where it is: SET VARIABLE archive = '/srv/archive';

CREATE OR REPLACE VIEW audit_archive AS
  SELECT * FROM read_parquet(getvariable('archive') || '/month=*/*.parquet', hive_partitioning = true);

-- What happened to one record, in the order of its commits.
CREATE OR REPLACE MACRO record_history(of_table, of_key) AS TABLE
  SELECT commit_timestamp, action, username, source, request_id, old_values, new_values
  FROM audit_archive
  WHERE table_name = of_table AND record_key = of_key
  ORDER BY commit_timestamp, commit_lsn, commit_idx;

-- What a user did, the newest first.
CREATE OR REPLACE MACRO user_changes(who) AS TABLE
  SELECT commit_timestamp, table_name, record_key, action, request_id, old_values, new_values
  FROM audit_archive
  WHERE username = who
  ORDER BY commit_timestamp DESC, commit_lsn DESC, commit_idx DESC;

-- The rows that a table had at a moment. Each must have an entry in the archive that tells it whole.
CREATE OR REPLACE MACRO table_as_of(of_table, moment) AS TABLE
  SELECT record_key, new_values
  FROM (
    SELECT record_key, action, new_values,
           row_number() OVER (
             PARTITION BY record_key ORDER BY commit_timestamp DESC, commit_lsn DESC, commit_idx DESC) AS place
    FROM audit_archive
    WHERE table_name = of_table
      AND commit_timestamp <= moment
      AND record_key IS NOT NULL
      AND commit_timestamp > coalesce((
        SELECT max(t.commit_timestamp) FROM audit_archive AS t
        WHERE t.table_name = of_table AND t.action = 'truncate' AND t.commit_timestamp <= moment), '-infinity')
  )
  WHERE place = 1 AND action <> 'delete';
