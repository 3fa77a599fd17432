-- What masks leave in doubt. Whoever delivers messages may say anything in their notes.

-- Why an update cannot be taken back or made again; null: no masked value changed by it.
CREATE FUNCTION audit_cdc_internal.masked_doubt(notes jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT format('value of %s masked', string_agg(c, ', ' ORDER BY c))
  FROM unnest(audit_cdc_internal.masked_columns(notes)) AS c
  WHERE notes -> 'masked' -> c -> 'changed' = 'true'
  HAVING count(*) > 0;
END;
