-- An archive of audit-keeper, read with Spark SQL. What begins with a colon is a parameter: spark.sql(query, args) from
-- Spark 3.4 on. Write your place in the first statement: a folder, or s3a://bucket/prefix.

CREATE OR REPLACE TEMPORARY VIEW audit_archive USING parquet OPTIONS (path '/srv/archive');

-- What happened to one record, in the order of its commits. of_database: the database_id of its source.
SELECT commit_timestamp, action, username, source, request_id, old_values, new_values
FROM audit_archive
WHERE database_id = :of_database AND table_name = :of_table AND record_key = :of_key
ORDER BY commit_timestamp, commit_lsn NULLS LAST, commit_idx NULLS LAST, id;

-- What a user did, the newest first.
SELECT commit_timestamp, table_name, record_key, action, request_id, old_values, new_values
FROM audit_archive
WHERE username = :who
ORDER BY commit_timestamp DESC, commit_lsn DESC NULLS FIRST, commit_idx DESC NULLS FIRST, id DESC;

-- The rows that a table had at a moment. Each must have an entry in the archive that tells it whole, and keep its key.
WITH entries AS (
  SELECT *, row_number() OVER (ORDER BY commit_timestamp, commit_lsn NULLS LAST, commit_idx NULLS LAST, id) AS place
  FROM audit_archive
  WHERE database_id = :of_database AND table_name = :of_table AND commit_timestamp <= timestamp(:moment)
), truncated AS (
  SELECT coalesce(max(place), 0) AS last FROM entries WHERE action = 'truncate'
)
SELECT record_key, new_values
FROM (
  SELECT e.record_key, e.action, e.new_values,
         row_number() OVER (PARTITION BY e.record_key ORDER BY e.place DESC) AS newest
  FROM entries AS e CROSS JOIN truncated AS t
  WHERE e.record_key IS NOT NULL AND e.place > t.last
)
WHERE newest = 1 AND action <> 'delete';
