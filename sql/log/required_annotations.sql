-- Changes that nobody annotated: refused, and listed.

-- Row triggers come to partitions by themselves; those of TRUNCATE do not.
CREATE FUNCTION audit_cdc_internal.require_annotation(relation oid, fields text[]) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  name CONSTANT text := relation::regclass::text;
  arguments CONSTANT text := (SELECT string_agg(quote_literal(f.field), ', ') FROM unnest(fields) AS f (field));
  part regclass;
BEGIN
  EXECUTE format('DROP TRIGGER IF EXISTS audit_unannotated ON %s', name);
  IF arguments IS NOT NULL THEN
    EXECUTE format('CREATE TRIGGER audit_unannotated BEFORE INSERT OR UPDATE OR DELETE ON %s '
                   'FOR EACH ROW EXECUTE FUNCTION audit_cdc_internal.refuse_unannotated(%s)', name, arguments);
  END IF;
  FOR part IN SELECT relation UNION SELECT relid FROM pg_partition_tree(relation) LOOP
    EXECUTE format('DROP TRIGGER IF EXISTS audit_unannotated_truncate ON %s', part);
    IF arguments IS NOT NULL THEN
      EXECUTE format('CREATE TRIGGER audit_unannotated_truncate BEFORE TRUNCATE ON %s '
                     'FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_unannotated(%s)', part, arguments);
    END IF;
  END LOOP;
END
$$;

COMMENT ON FUNCTION @extschema@.audit_require_annotation(regclass, text[]) IS
  'Refuses each change of a table, and of its partitions, whose transaction does not annotate these fields before it: '
  '23000. Called again it replaces what it required; an empty array ends it. What is null or an empty text does not '
  'count. It makes triggers named audit_unannotated and audit_unannotated_truncate; a partition that is attached later '
  'has no second one until the function is called again, and tables that inherit have none. COPY into such a table is '
  'slower. For members of audit_cdc_admin that own the table. Errors: 22004 (null), 42501 (not its owner and admin), '
  '42809 (not a table).';

CREATE FUNCTION @extschema@.audit_unannotated(since timestamptz, fields text[] DEFAULT '{}')
  RETURNS SETOF @extschema@.audit_logs LANGUAGE sql STABLE
  BEGIN ATOMIC
    SELECT l.*
    FROM @extschema@.audit_logs AS l
    WHERE l.commit_timestamp >= since
      AND l.action IN ('insert', 'update', 'delete', 'truncate')
      AND (l.annotations IS NULL OR l.attested IS FALSE
           OR EXISTS (SELECT FROM unnest(fields) AS f (field) WHERE coalesce(l.annotations ->> f.field, '') = ''))
    ORDER BY l.commit_timestamp DESC, l.id DESC;
  END;
COMMENT ON FUNCTION @extschema@.audit_unannotated(timestamptz, text[]) IS
  'The entries since a time whose changes nobody annotated, or not attested, or not with all these fields; the newest '
  'first. '
  'server_context tells which role and program made them. Null for either gives no rows. Errors: none.';
