-- The functions stand in src/projection.
COMMENT ON FUNCTION @extschema@.audit_create_projection(text, text, regclass, boolean) IS
  'Keeps a table filled from the log, in the transaction of each ingest. name: of the projection, and of its target '
  'unless target names another table. rule: a query over audit_new_logs, which has the columns of audit_logs and '
  'holds the entries being stored; its result''s columns are the target''s, by name. It runs with the rights of the '
  'caller, under the caller''s settings of now (search_path, with temporary tables last, TimeZone, DateStyle and the '
  'like). fill: takes the entries that are in the log already; the target must then be empty. Returns how many '
  'entries of the log went through the rule, also those that gave no row; a WARNING counts those that it could not '
  'take. Errors: those of the rule and of INSERT INTO target … SELECT, 42710 (the name is taken), 42P01 (no such '
  'table), 42809 (not a table), 42703 and 42701 (columns), 23502 (a NOT NULL column without default is not given), '
  '55000 (the target is not empty, or is captured and not excluded), 42501 (the owner of the target, or of a '
  'partition, has not the caller''s rights), 22004 (null), 22023 (the name is longer than 500 bytes), 25001 (above '
  'READ COMMITTED).';
COMMENT ON FUNCTION @extschema@.audit_alter_projection(text, text) IS
  'Gives a projection another rule, for entries from now on; audit_rebuild_projection() applies it to the others. '
  'The rule''s owner stays who it was, and the rule is checked with its rights. What the rule names now it may use; '
  'what others, without the owner''s rights, put in its place later is refused (42501, in '
  'audit_projection_failures). Errors: as audit_create_projection; 42704 (no such projection), 42501 (not its '
  'owner''s role), 22004 (null).';
COMMENT ON FUNCTION @extschema@.audit_rebuild_projection(text) IS
  'Deletes the target''s rows and fills it anew from the whole log, in the order of commits, in one transaction: '
  'readers see the old rows until it commits. Ingest goes on meanwhile and waits only for the last few entries. '
  'Interrupted, it leaves everything as it was. A column that the target and a rule with a star in it have gained is '
  'filled too. Shows progress as NOTICEs and in audit_projection_progress. Returns how many entries went through the '
  'rule. Errors: 42704, 42501, 25001 (above READ COMMITTED), 22004 (null).';
COMMENT ON FUNCTION @extschema@.audit_retry_projection(text) IS
  'Feeds the entries that wait or failed once more, however long the rule takes, after which it is not slow any '
  'more, and returns how many the rule has taken now. A WARNING counts those that failed again. Errors: 42704, '
  '42501, 22004 (null).';
COMMENT ON FUNCTION @extschema@.audit_disable_projection(text) IS
  'Stops feeding a projection: no new entry reaches the target until audit_enable_projection(); '
  'audit_rebuild_projection() fills it all the same. Errors: 42704, 42501, 22004 (null).';
COMMENT ON FUNCTION @extschema@.audit_enable_projection(text) IS
  'Feeds what was stored since the projection was disabled, then every new entry again. Returns how many entries '
  'went through the rule. Errors: 42704, 42501, 25001 (above READ COMMITTED), 22004 (null).';
COMMENT ON FUNCTION @extschema@.audit_drop_projection(text) IS
  'Ends a projection. Its target stays as it is. Errors: 42704, 42501, 22004 (null).';
