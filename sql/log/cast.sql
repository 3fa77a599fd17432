-- COMMENTs of audit_cast and audit_row, which stand in src/cast.

-- An entry's image of a side, told (src/cast/told.rs).
CREATE FUNCTION audit_cdc_internal.told_image(image jsonb, exact_values jsonb, side text) RETURNS jsonb
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN exact_values IS NULL THEN image ELSE audit_cdc_internal.told(image, exact_values -> side) END;

-- Of which types a type is made, directly.
CREATE FUNCTION audit_cdc_internal.parts_of_type(type oid) RETURNS SETOF oid
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT part.oid
  FROM pg_type AS t
  CROSS JOIN LATERAL (
    SELECT t.typelem AS oid
    UNION ALL
    SELECT t.typbasetype
    UNION ALL
    SELECT a.atttypid FROM pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT r.rngsubtype FROM pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
  ) AS part
  WHERE t.oid = type AND part.oid <> 0;
END;

COMMENT ON FUNCTION @extschema@.audit_cast(anyelement, jsonb, text) IS
  'A value as Sequin encodes it, as the type of the first argument (which is not looked at otherwise: '
  'NULL::numeric). JSON null and null give null. exact: the value''s text where exact_values of audit_logs has one; it '
  'is read instead. The type''s own input function reads it. Errors: class 22, naming the type and never the value '
  '(22018 where the input function fails with a SQLSTATE of another class, and for the marker "unchanged_toast" in a '
  'type that is not textual).';
COMMENT ON FUNCTION @extschema@.audit_row(anyelement, jsonb, text[], jsonb) IS
  'An image as a row of the first argument''s type: audit_row(NULL::public.users, new_values, unknown_columns, '
  'exact_values -> ''new''). Columns keep their type modifiers. Columns listed in unknown are null; where it is null, '
  'nobody can tell, and the marker "unchanged_toast" is refused as audit_cast does. exact: texts of values that the '
  'image does not hold; null: none. Columns that the image lacks are as in the first argument, so null for NULL::…; '
  'members that are no column are passed over. A null image gives the first argument. Errors: as audit_cast, naming '
  'table, column and type; 42804 (not a row type), 22023 (image is no object, exact no object of texts), 42501 (a '
  'column may hold a domain, and neither its owner nor the caller has all rights of the other).';
