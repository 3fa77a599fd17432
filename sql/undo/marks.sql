-- Named moments: audit_mark() and audit_moment().

CREATE TABLE audit_cdc_internal.marks (
  name text PRIMARY KEY,
  comment text,
  database_id text NOT NULL, -- whose position it is; a restored copy has another
  lsn pg_lsn NOT NULL,
  marked_by name NOT NULL,
  marked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.marks
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.marks ENABLE ALWAYS TRIGGER append_only;
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.marks', '');

CREATE VIEW @extschema@.audit_marks AS
  SELECT name, comment, lsn, marked_by, marked_at, database_id FROM audit_cdc_internal.marks;
COMMENT ON VIEW @extschema@.audit_marks IS 'every moment that audit_mark() has named';
COMMENT ON COLUMN @extschema@.audit_marks.name IS 'as given to audit_mark()';
COMMENT ON COLUMN @extschema@.audit_marks.comment IS 'as given to audit_mark()';
COMMENT ON COLUMN @extschema@.audit_marks.lsn IS 'its position, as audit_moment() gives it';
COMMENT ON COLUMN @extschema@.audit_marks.marked_by IS 'who called audit_mark()';
COMMENT ON COLUMN @extschema@.audit_marks.marked_at IS 'when';
COMMENT ON COLUMN @extschema@.audit_marks.database_id IS 'the database in which it was called, as in audit_logs';

CREATE FUNCTION @extschema@.audit_mark(name text, comment text DEFAULT NULL) RETURNS pg_lsn
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  at pg_lsn;
BEGIN
  IF name IS NULL THEN
    RAISE EXCEPTION 'name must not be null' USING ERRCODE = 'null_value_not_allowed';
  ELSIF name = '' THEN
    RAISE EXCEPTION 'name must not be empty' USING ERRCODE = 'invalid_parameter_value';
  ELSIF octet_length(name) > 200 THEN
    RAISE EXCEPTION 'name is longer than 200 bytes' USING ERRCODE = 'invalid_parameter_value';
  ELSIF pg_is_in_recovery() THEN
    RAISE EXCEPTION 'a standby cannot mark a moment'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call audit_mark() on the primary.';
  END IF;
  at := pg_current_wal_insert_lsn();
  INSERT INTO audit_cdc_internal.marks (name, comment, database_id, lsn, marked_by)
  VALUES ($1, $2, here, at, session_user);
  RETURN at;
EXCEPTION WHEN unique_violation THEN
  RAISE EXCEPTION 'there is a mark of this name'
    USING ERRCODE = 'duplicate_object', HINT = 'Take another name; audit_marks lists those that are taken.';
END
$$;
COMMENT ON FUNCTION @extschema@.audit_mark(text, text) IS
  'Gives this moment a name, and returns its position. Rows of transactions that commit later are not of it, those of '
  'transactions that have committed are. comment: null for none. Errors: 22004 (null), 22023 (name is empty or '
  'longer than 200 bytes), 42710 (the name is taken), 55000 (a standby).';

CREATE FUNCTION @extschema@.audit_moment(mark text) RETURNS pg_lsn
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  marked audit_cdc_internal.marks;
BEGIN
  SELECT * INTO marked FROM audit_cdc_internal.marks AS m WHERE m.name = mark;
  IF mark IS NULL THEN
    RAISE EXCEPTION 'mark must not be null' USING ERRCODE = 'null_value_not_allowed';
  ELSIF NOT FOUND THEN
    RAISE EXCEPTION 'there is no mark of this name'
      USING ERRCODE = 'undefined_object', HINT = 'audit_marks lists all marks.';
  ELSIF marked.database_id <> audit_cdc_internal.this_database() ->> 'id' THEN
    RAISE EXCEPTION 'the mark was made in another database'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Give its time: marked_at of audit_marks.';
  END IF;
  RETURN marked.lsn;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_moment(text) IS
  'The position of a mark, for the parameter lsn of audit_as_of(), audit_undo() and their kin. Errors: 22004 (null), '
  '42704 (no such mark), 55000 (it was made in another database, of which this one is a copy).';
