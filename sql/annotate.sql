-- Who, from where, why: annotations of the current transaction, carried by its changes.
--
-- Part of the extension audit_cdc, and complete in itself. Where no extension can be installed, run this file in the
-- source database: psql -v ON_ERROR_STOP=1 -f annotate.sql. The role must be one that may create functions there.
--
-- Here what is in force is kept in the setting audit_annotate.in_force, local to the transaction. So a rolled back
-- savepoint takes its part with it, as it does with the message. The transaction's id stands before it: a value that a
-- session brought along from elsewhere counts for nothing.
--
-- Here each message is emitted twice; the extension, in a server that preloads it, sees where that is necessary.
-- PostgreSQL decodes a message as if it stood where it ends, which is where the next record begins (PostgreSQL source,
-- decode.c, logicalmsg_decode). A change that follows in another subtransaction may be decoded before it. It cannot
-- come before both.

-- Can an annotation travel? Without the extension a good guess: the first statement of a transaction
-- started with it, unless another function called us.
CREATE FUNCTION audit_in_transaction_block() RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
  AS $$ SELECT statement_timestamp() <> transaction_timestamp() $$;
COMMENT ON FUNCTION audit_in_transaction_block() IS
  'Is this session inside BEGIN … COMMIT? A guess where it is not the extension''s. Serves audit_annotate.';

-- What is in force. A value that belongs to another transaction counts for nothing.
CREATE FUNCTION audit_annotation_in_force() RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT substr(kept, strpos(kept, ' ') + 1)
  FROM current_setting('audit_annotate.in_force', true) AS kept
  WHERE split_part(kept, ' ', 1) = pg_current_xact_id_if_assigned()::text
$$;
COMMENT ON FUNCTION audit_annotation_in_force() IS
  'What changes are annotated with now, a JSON object; null: nothing. Serves audit_annotate.';

CREATE FUNCTION audit_tell_annotation(annotation text) RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  what CONSTANT text := CASE WHEN annotation IS NULL THEN 'clear' ELSE 'set' END;
BEGIN
  PERFORM pg_logical_emit_message(true, 'sequin:transaction_annotations.' || what, coalesce(annotation, ''))
  FROM generate_series(1, 2);
  PERFORM set_config('audit_annotate.in_force', coalesce(pg_current_xact_id()::text || ' ' || annotation, ''), true);
  RETURN annotation;
END
$$;
COMMENT ON FUNCTION audit_tell_annotation(text) IS
  'Annotates later changes with this JSON object, and returns it; null ends the annotation. Serves audit_annotate.';

CREATE FUNCTION audit_merged_annotation(
    in_transaction_block boolean, before text, username text, source text, request_id text, metadata jsonb, extra jsonb)
  RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  named CONSTANT text[] := ARRAY['username', 'source', 'request_id', 'metadata'];
  wrong text;
  context text;
  in_force jsonb := '{}';
  added jsonb := jsonb_strip_nulls(
    jsonb_build_object('username', username, 'source', source, 'request_id', request_id));
BEGIN
  IF username IS NULL AND source IS NULL AND request_id IS NULL AND metadata IS NULL AND extra IS NULL THEN
    RAISE EXCEPTION 'nothing to annotate'
      USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Pass at least one of username, source, request_id, metadata, extra; to end an annotation call '
                   'audit_annotate_clear().';
  END IF;
  wrong := CASE WHEN jsonb_typeof(metadata) <> 'object' THEN 'metadata'
                WHEN jsonb_typeof(extra) <> 'object' THEN 'extra' END;
  IF wrong IS NOT NULL THEN
    RAISE EXCEPTION '% is not a JSON object', wrong
      USING ERRCODE = 'invalid_parameter_value',
            HINT = format('Pass an object, such as %s => ''{"reason": "refund"}''.', wrong);
  END IF;
  wrong := (SELECT key FROM jsonb_object_keys(extra) AS key WHERE key = ANY (named)
            ORDER BY array_position(named, key) LIMIT 1);
  IF wrong IS NOT NULL THEN
    RAISE EXCEPTION 'extra must not contain the key "%"', wrong
      USING ERRCODE = 'invalid_parameter_value',
            HINT = format('Use the parameter %s.', wrong);
  END IF;

  IF NOT in_transaction_block THEN
    -- called by a function or DO block, the annotation travels with what that does
    GET DIAGNOSTICS context = PG_CONTEXT;
    IF regexp_replace(context, E'(\nSQL function "audit_annotate"[^\n]*)+$', '') !~ E'\n' THEN
      RAISE WARNING 'audit_annotate() outside a transaction block has no effect'
        USING ERRCODE = 'no_active_sql_transaction',
              HINT = 'Call it after BEGIN, in the transaction whose changes it explains.';
    END IF;
  END IF;

  in_force := coalesce(before::jsonb, '{}');
  IF metadata IS NOT NULL THEN
    added := added || jsonb_build_object('metadata', coalesce(in_force -> 'metadata', '{}') || metadata);
  END IF;
  RETURN in_force || coalesce(extra, '{}') || added;
END
$$;
COMMENT ON FUNCTION audit_merged_annotation(boolean, text, text, text, text, jsonb, jsonb) IS
  'What was annotated before, with what is added. Serves audit_annotate.';

-- Names in a body of this form are bound now, whatever search_path a caller has.
CREATE FUNCTION audit_annotate(
    username text DEFAULT NULL, source text DEFAULT NULL, request_id text DEFAULT NULL,
    metadata jsonb DEFAULT NULL, extra jsonb DEFAULT NULL)
  RETURNS jsonb LANGUAGE sql
  RETURN audit_tell_annotation(audit_merged_annotation(
    audit_in_transaction_block(), audit_annotation_in_force(), username, source, request_id, metadata, extra)::text
  )::jsonb;
COMMENT ON FUNCTION audit_annotate(text, text, text, jsonb, jsonb) IS
  'Annotates the later changes of this transaction and returns what is now in force. All parameters are optional: '
  'username (who), source (from where), request_id, metadata (an object: why and the like), extra (an object of '
  'further keys). Calls in one transaction merge key by key, metadata one level deep; null leaves a key as it is. '
  'Emits pg_logical_emit_message(true, ''sequin:transaction_annotations.set'', …) '
  '(https://sequinstream.com/docs/reference/annotations). Errors: 22023 for nothing at all, for metadata or extra '
  'that is no object, for a parameter''s name in extra; 42501 within a security-restricted operation, such as a '
  'projection''s rule. Warning 25P01 outside a transaction block.';

-- Numbers, UUIDs and the like as username, as request_id, and as both. What has no type yet, a literal or a parameter,
-- is a text to PostgreSQL and goes to the function above. PostgreSQL binds no names in a body that takes any type, so
-- the schema is written into it. If such an argument is not named, several functions fit, and an error says so.
DO $do$
DECLARE
  called CONSTANT text := pg_catalog.format('%I.audit_annotate', pg_catalog.current_schema());
  username CONSTANT text := $$pg_catalog.to_jsonb(username) OPERATOR(pg_catalog.#>>) '{}'$$;
  request_id CONSTANT text := $$pg_catalog.to_jsonb(request_id) OPERATOR(pg_catalog.#>>) '{}'$$;
BEGIN
  EXECUTE pg_catalog.format('CREATE FUNCTION audit_annotate(
      username anynonarray, source text DEFAULT NULL, request_id text DEFAULT NULL,
      metadata jsonb DEFAULT NULL, extra jsonb DEFAULT NULL)
    RETURNS jsonb LANGUAGE sql AS $$ SELECT %s(%s, source, request_id, metadata, extra) $$', called, username);
  EXECUTE pg_catalog.format('CREATE FUNCTION audit_annotate(
      request_id anycompatiblenonarray, source text DEFAULT NULL, username text DEFAULT NULL,
      metadata jsonb DEFAULT NULL, extra jsonb DEFAULT NULL)
    RETURNS jsonb LANGUAGE sql AS $$ SELECT %s(username, source, %s, metadata, extra) $$', called, request_id);
  EXECUTE pg_catalog.format('CREATE FUNCTION audit_annotate(
      username anynonarray, request_id anycompatiblenonarray, source text DEFAULT NULL,
      metadata jsonb DEFAULT NULL, extra jsonb DEFAULT NULL)
    RETURNS jsonb LANGUAGE sql AS $$ SELECT %s(%s, source, %s, metadata, extra) $$', called, username, request_id);
END
$do$;
COMMENT ON FUNCTION audit_annotate(anynonarray, text, text, jsonb, jsonb) IS
  'As with texts, for a username of another type, such as a number. The log has its text. Errors: as with texts.';
COMMENT ON FUNCTION audit_annotate(anycompatiblenonarray, text, text, jsonb, jsonb) IS
  'As with texts, for a request_id of another type, such as uuid. The log has its text. Errors: as with texts.';
COMMENT ON FUNCTION audit_annotate(anynonarray, anycompatiblenonarray, text, jsonb, jsonb) IS
  'As with texts, for a username and a request_id of other types. The log has their texts. Errors: as with texts.';

CREATE FUNCTION audit_annotate_clear() RETURNS void
  LANGUAGE sql
  BEGIN ATOMIC
    SELECT audit_tell_annotation(NULL);
  END;
COMMENT ON FUNCTION audit_annotate_clear() IS
  'Ends the annotation: later changes of this transaction carry none, also not by settings. Emits '
  'pg_logical_emit_message(true, ''sequin:transaction_annotations.clear'', ''''). Errors: 42501 within a '
  'security-restricted operation.';

GRANT EXECUTE ON FUNCTION audit_in_transaction_block(), audit_annotation_in_force(), audit_tell_annotation(text),
  audit_merged_annotation(boolean, text, text, text, text, jsonb, jsonb),
  audit_annotate(text, text, text, jsonb, jsonb), audit_annotate(anynonarray, text, text, jsonb, jsonb),
  audit_annotate(anycompatiblenonarray, text, text, jsonb, jsonb),
  audit_annotate(anynonarray, anycompatiblenonarray, text, jsonb, jsonb),
  audit_annotate_clear() TO PUBLIC;
