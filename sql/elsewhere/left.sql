-- What is left on the other server: of a month that came back, or of a move that did not end.

-- Partitions that are here and have a table elsewhere: of one that came back, or of a move that did not end.
CREATE FUNCTION audit_cdc_internal.partitions_left(month text) RETURNS text[]
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN ARRAY(
    SELECT p.name
    FROM unnest(audit_cdc_internal.partitions_of_month(month)) AS p(name)
    WHERE NOT audit_cdc_internal.is_elsewhere(p.name) AND audit_cdc_internal.is_elsewhere(p.name || '_there')
    ORDER BY p.name);
END
$$;

-- Empties such a table: what is erased here later must not stay there. The other server commits before this one. So it
-- is done in a transaction of its own, when the entries are here for good.
CREATE FUNCTION audit_cdc_internal.empty_left(name text) RETURNS void
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  copy CONSTANT text := name || '_there';
BEGIN
  IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
    RAISE EXCEPTION 'a table elsewhere is emptied in a transaction of its own' USING ERRCODE = 'active_sql_transaction';
  END IF;
  PERFORM audit_cdc_internal.check_move(name);
  PERFORM audit_cdc_internal.lock_partitions();
  IF NOT audit_cdc_internal.is_elsewhere(name) AND audit_cdc_internal.is_elsewhere(copy) THEN
    EXECUTE format('ALTER FOREIGN TABLE audit_cdc_internal.%I OPTIONS (SET truncatable ''true'')', copy);
    EXECUTE format('TRUNCATE audit_cdc_internal.%I', copy);
    PERFORM audit_cdc_internal.drop_month(format('audit_cdc_internal.%I', copy)::regclass);
    DELETE FROM audit_cdc_internal.months_elsewhere AS m WHERE m.name = empty_left.name;
  END IF;
END
$$;
