-- Which columns of an entry are masked. Whoever delivers messages may say anything in their notes.
CREATE FUNCTION audit_cdc_internal.masked_columns(notes jsonb) RETURNS text[]
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE
    WHEN jsonb_typeof(notes -> 'masked') = 'object'
      THEN ARRAY(SELECT jsonb_object_keys(notes -> 'masked'))
    ELSE '{}'
  END;

-- Why an update cannot be taken back or made again; null: no masked value changed by it.
CREATE FUNCTION audit_cdc_internal.masked_doubt(notes jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT format('value of %s masked', string_agg(c, ', ' ORDER BY c))
  FROM unnest(audit_cdc_internal.masked_columns(notes)) AS c
  WHERE notes -> 'masked' -> c -> 'changed' = 'true'
  HAVING count(*) > 0;
END;
