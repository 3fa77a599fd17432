-- What audit_cast and audit_row say when a value cannot be cast: table, column and type, never the value.
\set SHOW_CONTEXT never
CREATE SCHEMA casting;
CREATE DOMAIN casting.email AS text CHECK (VALUE LIKE '%@%');
CREATE TYPE casting.mood AS ENUM ('sad', 'ok');
CREATE TABLE casting.people (id uuid, "E-Mail" casting.email, mood casting.mood, age smallint, tags integer[], born date, salary numeric(6,2),
  nick varchar(4), span int4range, about jsonb, note text);

SELECT audit_cast(NULL::interval, '{"months": 14, "days": 3, "microseconds": 14706789000}');
SELECT * FROM audit_row(NULL::casting.people, '{"E-Mail": "a@b", "mood": "ok", "tags": [1, null], "salary": "1234.50", "note": "unchanged_toast", "more": 1}');
SELECT * FROM audit_row(NULL::casting.people, '{"age": 40, "about": "unchanged_toast", "salary": "secret"}', '{about,salary}');

SELECT audit_row(NULL::casting.people, '{"id": "secret"}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_row(NULL::casting.people, '{"E-Mail": "secret"}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_row(NULL::casting.people, '{"mood": "secret"}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_row(NULL::casting.people, '{"age": 40000}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_row(NULL::casting.people, '{"tags": [1, "secret"]}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_row(NULL::casting.people, '{"born": "2024-02-30"}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_row(NULL::casting.people, '{"salary": "12345.678"}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_row(NULL::casting.people, '{"nick": "secret"}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_row(NULL::casting.people, '{"span": "[5,1)"}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_row(NULL::casting.people, '{"about": "unchanged_toast"}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_cast(NULL::regclass, '"secret"');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_row(1, '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT audit_row(NULL::casting.people, '[]');
\echo :LAST_ERROR_SQLSTATE

SET client_min_messages = warning;
DROP SCHEMA casting CASCADE;
