-- What the events of a record make of it: its state after each.

-- What is known of a record at a position: the events of its key up to there, in order.
CREATE TYPE audit_cdc_internal.state AS (
  alive boolean, -- null: unknown
  known jsonb,
  unknown text[],
  by_change boolean, -- false: only reads without position tell of it
  run integer,
  truncates integer,
  event_id bigint, -- the last one
  has_left boolean -- as the event says
);

-- Does what is known of a row contradict what a change says that it was? A column may have got another type meanwhile.
CREATE FUNCTION audit_cdc_internal.contradicts(known jsonb, before jsonb) RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN EXISTS (
    SELECT FROM jsonb_each(before) AS b
    WHERE known ? b.key AND known -> b.key <> b.value AND known ->> b.key IS DISTINCT FROM before ->> b.key
  );

CREATE FUNCTION audit_cdc_internal.next_state(state audit_cdc_internal.state, event audit_cdc_internal.event)
  RETURNS audit_cdc_internal.state
  LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  alive boolean := state.alive;
  known jsonb := CASE WHEN state.alive THEN state.known ELSE '{}' END;
  filled jsonb;
BEGIN
  IF state.run <> event.run THEN
    state := NULL;
    alive := NULL;
    known := '{}';
  ELSIF state.truncates < event.truncates THEN
    alive := false;
    known := '{}';
    state.by_change := true;
  ELSIF state.by_change AND known || event.before <> known AND audit_cdc_internal.contradicts(known, event.before) THEN
    known := '{}'; -- the log misses a change
  END IF;
  CASE
    WHEN event.action = 'update' AND event.other_key <> event.record_key
        AND (alive OR alive IS NULL AND state.by_change)
      OR alive IS NULL AND state.by_change AND event.action IN ('delete', 'moved') THEN
      -- two rows have the key for a time (it is deferrable): which one stays is not known until a change tells
      RETURN ROW(NULL, NULL, '{}', true, event.run, event.truncates, event.id, false)::audit_cdc_internal.state;
    WHEN event.action IN ('delete', 'moved', 'truncate', 'complete') THEN
      RETURN ROW(false, NULL, '{}', true, event.run, event.truncates, event.id, false)::audit_cdc_internal.state;
    WHEN event.action = 'read' AND NOT event.is_placed AND state.by_change THEN
      -- fills only what no change says
      IF alive THEN
        filled := event.after - ARRAY(SELECT jsonb_object_keys(known));
        state.known := known || filled;
        state.unknown := ARRAY(SELECT u FROM unnest(state.unknown) AS u WHERE NOT filled ? u);
      ELSE
        state.alive := alive;
      END IF;
      state.truncates := event.truncates;
      RETURN state;
    ELSE
      filled := '{}';
      IF event.unknown <> '{}' THEN
        filled := (
          SELECT coalesce(jsonb_object_agg(c, known -> c), '{}')
          FROM unnest(CASE event.action WHEN 'read' THEN event.unknown ELSE event.carried END) AS c
          WHERE known ? c
        );
        event.unknown := ARRAY(SELECT u FROM unnest(event.unknown) AS u WHERE NOT filled ? u);
      END IF;
      RETURN ROW(
        true, event.after || filled, event.unknown, event.is_placed, event.run, event.truncates, event.id,
        event.has_left)::audit_cdc_internal.state;
  END CASE;
END
$$;

CREATE AGGREGATE audit_cdc_internal.state_after(audit_cdc_internal.event) (
  SFUNC = audit_cdc_internal.next_state, STYPE = audit_cdc_internal.state);

-- A key as events have it.
CREATE FUNCTION audit_cdc_internal.spelled(of_key text, audited audit_cdc_internal.audited) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  key CONSTANT text := audit_cdc_internal.as_record_id(of_key, audited);
BEGIN
  RETURN CASE
    WHEN audited.key_types IS NULL THEN key
    WHEN cardinality(audited.key_types) = 1 THEN audit_cdc_internal.record_key(key, NULL, audited.key_types)
    ELSE audit_cdc_internal.record_key(key, ARRAY(SELECT jsonb_array_elements_text(key::jsonb)), audited.key_types)
  END;
EXCEPTION WHEN data_exception THEN
  RETURN key;
END
$$;
