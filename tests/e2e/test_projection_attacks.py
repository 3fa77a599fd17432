"""Concurrency, locks, hostile settings and rows that are hidden: what could make a projection miss or double an entry."""

import pytest
from conftest import batch, change, in_threads, until
from projection_helpers import FEED, RULE, code, every_entry_once, project, roles, run, state, values

WHO = """CREATE TABLE loot (who text); GRANT ALL ON loot TO PUBLIC;
    CREATE FUNCTION evil() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN INSERT INTO loot VALUES (current_user); RETURN 5; END $$;"""
# closes every cursor that it can and puts a query of its own under that name
SWAP = """CREATE FUNCTION swap() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n text; c refcursor; BEGIN
    FOR n IN SELECT name FROM pg_cursors LOOP
      BEGIN c := n; CLOSE c; OPEN c FOR SELECT evil() AS id, 1 AS audited_table, now() AS commit_timestamp; EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP; RETURN 0; END $$;"""


def test_a_rule_cannot_replace_a_cursor_of_others(roles, db):
    """Neither the one that fills it, nor one of the relay's."""
    owner = roles("audit_cdc_reader")
    db.run(FEED + f"; GRANT ALL ON feed TO {owner}; GRANT USAGE ON SEQUENCE feed_n_seq TO {owner};" + WHO)
    db.ingest(batch([change(n, record={"value": "a"}) for n in range(2500)]))
    with_schema = db.connect()
    run(with_schema, f"CREATE SCHEMA s AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA public TO {owner}")
    session = db.connect(user=owner)
    run(session, "SET search_path = s, public")
    run(session, SWAP)
    run(session, "SELECT audit_create_projection('feed', %s)", RULE.replace("id AS log_id", "id + s.swap() AS log_id"))
    every_entry_once(db)
    relay = db.connect()
    with relay.cursor() as cursor:
        cursor.execute("BEGIN; DECLARE mine CURSOR FOR SELECT 7")
    db.ingest(values("b", lsn=7), relay)
    assert run(relay, "FETCH mine") == [(7,)]
    every_entry_once(db)
    assert {who for (who,) in db.rows("SELECT who FROM loot")} <= {owner}, "what it opens itself runs with its own rights"


RAISES = {
    "resources": "RAISE EXCEPTION 'full' USING ERRCODE = '53100'", "a file": "PERFORM pg_read_file('/nonexistent')",
    "a cancel that is none": "RAISE EXCEPTION 'stop' USING ERRCODE = '57014'", "a shutdown that is none": "RAISE EXCEPTION 'stop' USING ERRCODE = '57P01'",
    "a conflict that is none": "RAISE EXCEPTION 'again' USING ERRCODE = '40001'", "a deadlock that is none": "RAISE EXCEPTION 'dead' USING ERRCODE = '40P01'",
    "a bug": "RAISE EXCEPTION 'bug' USING ERRCODE = 'XX000'",
}


@pytest.mark.parametrize("name", RAISES)
def test_no_error_of_a_rule_stops_an_ingest(db, name):
    db.run(f"CREATE FUNCTION f(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF $1 = 'bad' THEN {RAISES[name]}; END IF; RETURN $1; END $$")
    db.run(FEED)
    db.run("SELECT audit_create_projection('feed', %s)", RULE.replace("new_values ->> 'value'", "f(new_values ->> 'value')"))
    assert db.ingest(values("good", "bad", "good"))[1] == 3
    enabled, waiting, failures = state(db)
    assert (enabled, waiting + failures > 0) == (True, True)
    db.run("CREATE OR REPLACE FUNCTION f(text) RETURNS text LANGUAGE sql AS 'SELECT $1'")
    db.run("SELECT audit_retry_projection('feed')")
    every_entry_once(db)
    assert state(db) == (True, 0, 0)


@pytest.mark.parametrize("setting, ending", [("exit_on_error", "RAISE EXCEPTION 'the end'"), ("transaction_timeout", "PERFORM pg_sleep(0.2)")])
@pytest.mark.parametrize("how", ["in it", "of it"])
def test_no_setting_of_a_rule_ends_the_session(roles, db, setting, ending, how):
    """A function that sets it, or one that has it set."""
    if db.connect().server_version < 170000 and setting == "transaction_timeout":
        pytest.skip("not in this release")
    owner, value = roles("audit_cdc_reader"), "on" if setting == "exit_on_error" else "1ms"
    db.run(f"GRANT CREATE ON SCHEMA public TO {owner}")
    session = db.connect(user=owner)
    run(session, FEED)
    of_it, in_it = (f"SET {setting} = '{value}'", "") if how == "of it" else ("", f"PERFORM set_config('{setting}', '{value}', false);")
    run(session, f"CREATE FUNCTION f(text) RETURNS text LANGUAGE plpgsql {of_it} AS $$ BEGIN {in_it} {ending}; RETURN $1; END $$")
    run(session, "SELECT audit_create_projection('feed', %s)", RULE.replace("new_values ->> 'value'", "f(new_values ->> 'value')"))
    relay = db.connect()
    assert db.ingest(values("a"), relay)[1] == 1
    assert state(db) == (True, 0, 1) and db.ingest(values("b", first=1), relay)[1] == 1
    assert run(relay, f"SET {setting} = DEFAULT; SHOW {setting}") == [("off" if setting == "exit_on_error" else "0",)]


def test_a_locked_target_makes_entries_wait_not_the_ingest(db):
    project(db)
    owner = db.connect()
    with owner.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE feed")
    relay = db.connect(options="-c statement_timeout=60s")
    assert db.ingest(values("a", "b"), relay)[1] == 2
    assert state(db) == (True, 2, 0)
    owner.close()
    db.ingest(values("c", first=2), relay)
    every_entry_once(db)
    assert state(db) == (True, 0, 0)


def test_deadlocks_of_a_targets_triggers_make_entries_wait(db):
    db.run("""CREATE TABLE counts (record text PRIMARY KEY, n int NOT NULL); INSERT INTO counts SELECT g::text, 0 FROM generate_series(0, 9) g;
        CREATE FUNCTION tally() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE counts SET n = n + 1 WHERE record = NEW.value; RETURN NEW; END $$;""" + FEED +
           "; CREATE TRIGGER t BEFORE INSERT ON feed FOR EACH ROW EXECUTE FUNCTION tally()")
    db.run("SELECT audit_create_projection('feed', %s)", RULE)

    def relay(seed):
        connection = db.connect()
        for lsn in range(15):
            order = range(10) if (lsn + seed) % 2 else range(9, -1, -1)
            db.ingest(batch([change(n, lsn=1000 * seed + lsn, record={"value": str(value)}) for n, value in enumerate(order)]), connection)

    in_threads([lambda seed=seed: relay(seed) for seed in (1, 2, 3)])
    db.run("SELECT audit_retry_projection('feed')")
    every_entry_once(db)
    assert db.value("SELECT sum(n)::int FROM counts") == 450 and state(db) == (True, 0, 0)


def test_dropped_and_made_again_while_a_rebuild_waits(db):
    """The rebuild locks what has the name when it begins, not what had it before."""
    project(db)
    db.ingest(values(*"abc"))
    first = db.connect()
    with first.cursor() as cursor:
        cursor.execute("BEGIN; SELECT audit_drop_projection('feed'); TRUNCATE feed")
        cursor.execute("SELECT audit_create_projection('feed', %s)", (RULE,))
    waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"

    def let_go():
        until(lambda: db.value(waits))
        run(first, "COMMIT")

    in_threads([lambda: db.run("SELECT audit_rebuild_projection('feed')"), let_go])
    db.ingest(values(*"def", first=3))
    every_entry_once(db)


def test_locks_that_anybody_can_take_do_not_stop_a_projection(roles, db):
    project(db)
    nobody = db.connect(user=roles())
    run(nobody, "SELECT pg_advisory_lock(c.oid::int, i), pg_advisory_lock(i, c.oid::int), pg_advisory_lock(i) FROM pg_class c, generate_series(0, 50) i WHERE relname IN ('projections', 'log')")
    db.ingest(values("a"))
    every_entry_once(db)
    run(db.connect(options="-c statement_timeout=60s"), "SELECT audit_rebuild_projection('feed')")
    every_entry_once(db)


def test_rows_that_row_security_hides_are_not_doubled(roles, db):
    owner = roles("audit_cdc_reader")
    db.run(FEED + f"""; GRANT ALL ON feed TO {owner}; GRANT USAGE ON SEQUENCE feed_n_seq TO {owner};
        ALTER TABLE feed ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON feed FOR INSERT TO {owner} WITH CHECK (true)""")
    session = db.connect(user=owner)
    run(session, "SELECT audit_create_projection('feed', %s, fill => false)", RULE)
    db.ingest(values("a", "b"))
    assert code(session, "SELECT audit_rebuild_projection('feed')") == "42501"
    every_entry_once(db)


def test_a_rebuild_that_deletes_nothing_says_so(db):
    project(db)
    db.ingest(values("a"))
    db.run("CREATE RULE keep AS ON DELETE TO feed DO INSTEAD NOTHING")
    assert code(db.connect(), "SELECT audit_rebuild_projection('feed')") == "55000"
    every_entry_once(db)


def test_a_rule_that_gives_a_row_for_nothing(db):
    """It runs for entries only."""
    db.run("CREATE TABLE feed (n bigint)")
    db.run("SELECT audit_create_projection('feed', 'SELECT count(*) AS n FROM audit_new_logs')")
    db.run("SELECT audit_retry_projection('feed'); SELECT audit_rebuild_projection('feed')")
    assert db.rows("SELECT n FROM feed") == []
    db.ingest(values("a", "b"))
    db.run("SELECT audit_retry_projection('feed')")
    assert db.rows("SELECT n FROM feed") == [(2,)]


def test_constraints_are_deferred_again_afterwards(db):
    db.run("CREATE TABLE ref (value text PRIMARY KEY)")
    db.run("CREATE TABLE feed (log_id bigint, table_name text, value text REFERENCES ref DEFERRABLE INITIALLY DEFERRED)")
    db.run("SELECT audit_create_projection('feed', %s)", RULE)
    session = db.connect()
    with session.cursor() as cursor:
        cursor.execute("BEGIN; SELECT audit_ingest(%s)", (values("bad"),))
        cursor.execute("INSERT INTO feed VALUES (0, 't', 'later'); INSERT INTO ref VALUES ('later'); COMMIT")
    assert db.rows("SELECT value FROM feed") == [("later",)] and state(db) == (True, 0, 1)


@pytest.mark.parametrize("search_path", ["public", "public, pg_catalog"])
def test_functions_of_others_do_not_slip_into_a_history(db, search_path):
    """In a schema where everybody may create, as it was before PostgreSQL 15."""
    db.run(WHO + f"""CREATE TABLE cust (id int PRIMARY KEY, name text);
        CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT evil()::text';
        CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT evil()::text';
        CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE sql AS 'SELECT evil()::text';
        CREATE FUNCTION public.parse_ident(text) RETURNS text[] LANGUAGE sql AS 'SELECT ARRAY[evil()::text]';
        CREATE FUNCTION public.nothing(name, text) RETURNS text LANGUAGE sql AS 'SELECT evil()::text';
        CREATE OPERATOR public.|| (LEFTARG = name, RIGHTARG = text, FUNCTION = public.nothing)""")
    run(db.connect(options=f"-c search_path={search_path.replace(' ', '')}"), "SELECT public.audit_create_history_projection('cust')")
    db.ingest(batch([change(0, table="cust", record={"id": 1, "name": "a"})]))
    assert db.rows("SELECT id, name FROM cust_history") == [(1, "a")] and db.rows("SELECT * FROM loot") == []


def test_one_ingest_searches_only_so_long(db):
    """A dear rule that takes no entry: what is not looked at waits, and nothing is lost."""
    dear = RULE.replace("new_values ->> 'value'", "(new_values ->> 'value')::int::text") + ", (SELECT count(*) FROM generate_series(1, 400000)) AS lookup"
    db.run(FEED)
    db.run("SELECT audit_create_projection('feed', %s)", dear)
    assert db.ingest(batch([change(n, record={"value": "bad"}) for n in range(1000)]))[1] == 1000
    _, waiting, failures = state(db)
    assert waiting + failures == 1000 and waiting > 0
    db.run("SELECT audit_alter_projection('feed', %s)", RULE)
    assert db.value("SELECT audit_retry_projection('feed')") == 1000
    every_entry_once(db)
