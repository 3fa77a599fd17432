"""Undo and redo of changes of keys, which foreign keys carry on, and of what is not known for sure."""

import pytest
from capture_helpers import publish, source, start, table  # noqa: F401 (fixtures)
from conftest import batch, change
from projection_helpers import code
from test_undo import committed, undone

CONFLICT = "conflict: the row was changed since, or others refer to it"


@pytest.fixture
def tables(source):
    def make(sql, *names):
        source.run(sql + "".join(f"; ALTER TABLE {name} REPLICA IDENTITY FULL" for name in names))
        publish(source, "TABLES IN SCHEMA public")
        start(source)
        return source
    return make


def family(tables, action, **columns):
    """Parents with children, of which the one that is 4 refers to parent 3."""
    db = tables(f"CREATE TABLE parents (id int PRIMARY KEY, v text); INSERT INTO parents VALUES (1, 'a'), (3, 'c'), (9, 'i');"
                f"CREATE TABLE children (id int PRIMARY KEY, parent int DEFAULT 9 REFERENCES parents ON UPDATE {action} ON DELETE {action}, v text)", "parents", "children")
    committed(db, "INSERT INTO children VALUES (1, 1, 'x'), (2, 1, NULL), (4, 3, 'z')")
    return db


def rows(db, *names):
    return tuple(db.rows(f"SELECT * FROM {name} AS t ORDER BY t") for name in names)


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_what_a_change_of_a_key_did_to_others_is_undone_and_redone(tables, action):
    db = family(tables, action)
    before = rows(db, "parents", "children")
    lsn = committed(db, "UPDATE parents SET id = 2 WHERE id = 1")
    after = rows(db, "parents", "children")
    for _ in range(2):
        assert undone(db, commit_lsn=lsn) == ["undone"] * 3
        assert rows(db, "parents", "children") == before
        assert undone(db, "redo", commit_lsn=lsn) == ["redone"] * 3
        assert rows(db, "parents", "children") == after


@pytest.mark.parametrize("action", ["SET NULL", "SET DEFAULT"])
def test_what_a_delete_did_to_others_is_undone_and_redone(tables, action):
    db = family(tables, action)
    before = rows(db, "parents", "children")
    lsn = committed(db, "DELETE FROM parents WHERE id = 1")
    after = rows(db, "parents", "children")
    assert undone(db, commit_lsn=lsn) == ["undone"] * 3 and rows(db, "parents", "children") == before
    assert undone(db, "redo", commit_lsn=lsn) == ["redone"] * 3 and rows(db, "parents", "children") == after


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
@pytest.mark.parametrize("since", ["INSERT INTO children VALUES (5, {0}, 'new')", "UPDATE children SET parent = {0} WHERE id = 4", "UPDATE children SET v = 'changed', parent = {0} WHERE id = 2",
                                   "UPDATE children SET v = 'changed', parent = {0} WHERE id = 1"])
def test_rows_that_refer_to_it_since_are_not_changed_along(tables, action, since):
    db = family(tables, action)
    lsn = committed(db, "UPDATE parents SET id = 2 WHERE id = 1")
    committed(db, since.format(2))
    before = rows(db, "parents", "children")
    assert CONFLICT in undone(db, commit_lsn=lsn) and rows(db, "parents", "children") == before
    undone(db, commit_lsn=lsn, despite_conflicts=True)
    assert rows(db, "parents")[0] == before[0], "not the key"


def test_a_move_is_taken_back_although_two_rows_had_the_key_before(tables):
    """The state of the key is in doubt then. What the change itself says of its row is not."""
    db = tables("CREATE TABLE items (pos int PRIMARY KEY DEFERRABLE INITIALLY IMMEDIATE, label text)", "items")
    committed(db, "INSERT INTO items VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    committed(db, "UPDATE items SET pos = pos + 1")
    committed(db, "UPDATE items SET pos = 20 WHERE pos = 3")
    before = rows(db, "items")
    lsn = committed(db, "UPDATE items SET pos = 3 WHERE pos = 4")
    assert db.rows("SELECT old_row, new_row FROM audit_history(commit_lsn => %s)", lsn) == [({"pos": 4, "label": "c"}, {"pos": 3, "label": "c"})]
    assert undone(db, commit_lsn=lsn) == ["undone"] and rows(db, "items") == before


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_rows_that_refer_to_it_since_are_not_changed_along_by_redo(tables, action):
    db = family(tables, action)
    lsn = committed(db, "UPDATE parents SET id = 2 WHERE id = 1")
    assert undone(db, commit_lsn=lsn) == ["undone"] * 3
    committed(db, "UPDATE children SET parent = 1 WHERE id = 4")
    before = rows(db, "parents", "children")
    assert CONFLICT in undone(db, "redo", commit_lsn=lsn) and rows(db, "parents", "children") == before


def test_the_change_of_a_key_alone_is_not_undone_where_it_was_carried_on(tables):
    db = family(tables, "CASCADE")
    lsn = committed(db, "UPDATE parents SET id = 2 WHERE id = 1")
    before = rows(db, "parents", "children")
    assert undone(db, table_name="parents", commit_lsn=lsn) == [CONFLICT] and rows(db, "parents", "children") == before
    lone = committed(db, "UPDATE parents SET id = 5 WHERE id = 9")
    assert undone(db, table_name="parents", commit_lsn=lone) == ["undone"]


def test_keys_that_are_carried_on_and_on(tables):
    db = tables("""CREATE TABLE shops (id int PRIMARY KEY); INSERT INTO shops VALUES (1);
        CREATE TABLE tills (shop int REFERENCES shops ON UPDATE CASCADE, nr int, PRIMARY KEY (shop, nr));
        CREATE TABLE sales (id int PRIMARY KEY, shop int, till int, FOREIGN KEY (shop, till) REFERENCES tills ON UPDATE CASCADE);
        CREATE TABLE remarks (shop int, till int, v text, FOREIGN KEY (shop, till) REFERENCES tills ON UPDATE SET NULL)""", "shops", "tills", "sales", "remarks")
    names = ("shops", "tills", "sales", "remarks")
    committed(db, "INSERT INTO tills VALUES (1, 1), (1, 2)", "INSERT INTO sales VALUES (1, 1, 1), (2, 1, 2)", "INSERT INTO remarks VALUES (1, 1, 'x'), (1, 1, 'x')")
    before = rows(db, *names)
    lsn = committed(db, "UPDATE shops SET id = 7")
    after = rows(db, *names)
    assert set(undone(db, commit_lsn=lsn)) == {"undone"} and rows(db, *names) == before
    assert set(undone(db, "redo", commit_lsn=lsn)) == {"redone"} and rows(db, *names) == after
    for since in ("INSERT INTO sales VALUES (3, 7, 2)", "INSERT INTO remarks VALUES (7, 1, 'y')"):
        last = committed(db, since)
        assert CONFLICT in undone(db, commit_lsn=lsn), "though it does not refer to the shop"
        assert undone(db, commit_lsn=last) == ["undone"]
    assert set(undone(db, commit_lsn=lsn)) == {"undone"} and rows(db, *names) == before
    committed(db, "INSERT INTO remarks VALUES (1, 1, 'x')")
    assert CONFLICT in undone(db, "redo", commit_lsn=lsn), "three rows that are equal, where two were"


def test_a_row_that_refers_to_it_twice(tables):
    db = tables("""CREATE TABLE people (id int PRIMARY KEY); INSERT INTO people VALUES (1);
        CREATE TABLE gifts (id int PRIMARY KEY, giver int REFERENCES people ON UPDATE CASCADE, taker int REFERENCES people ON UPDATE CASCADE)""", "people", "gifts")
    committed(db, "INSERT INTO gifts VALUES (1, 1, 1)")
    lsn = committed(db, "UPDATE people SET id = 2")
    assert undone(db, commit_lsn=lsn) == ["undone"] * 3 and rows(db, "people", "gifts") == ([(1,)], [(1, 1, 1)])
    assert undone(db, "redo", commit_lsn=lsn) == ["redone"] * 3 and rows(db, "people", "gifts") == ([(2,)], [(1, 2, 2)])


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
@pytest.mark.parametrize("columns", ["parent", "parent, other"])
def test_a_row_that_refers_to_itself(tables, action, columns):
    more = ", other int DEFAULT 9 REFERENCES folders ON UPDATE CASCADE" if "other" in columns else ""
    db = tables(f"CREATE TABLE folders (id int PRIMARY KEY, name text, parent int DEFAULT 9 REFERENCES folders ON UPDATE {action}{more})", "folders")
    own = ", 1" if more else ""
    committed(db, f"INSERT INTO folders (id, name, {columns}) VALUES (9, 'z', 9{own.replace('1', '9')}), (1, 'a', 1{own}), (5, 'b', 1{own})")
    before = rows(db, "folders")
    lsn = committed(db, "UPDATE folders SET id = 2 WHERE id = 1", "UPDATE folders SET name = 'c' WHERE id = 2")
    after = rows(db, "folders")
    for _ in range(2):
        assert set(undone(db, commit_lsn=lsn)) == {"undone"} and rows(db, "folders") == before
        assert set(undone(db, "redo", commit_lsn=lsn)) == {"redone"} and rows(db, "folders") == after
    committed(db, f"INSERT INTO folders (id, name, {columns}) VALUES (6, 'new', 2{own.replace('1', '2')})")
    since = rows(db, "folders")
    assert CONFLICT in undone(db, commit_lsn=lsn) and rows(db, "folders") == since


@pytest.fixture
def one(source):
    """Makes table t of these columns."""
    def make(columns, before="SELECT 1"):
        source.run(before)
        table(source, columns=columns)
        publish(source)
        start(source)
        return source
    return make


@pytest.mark.parametrize("column, kept", [("w text", "w = NULL"), ("w int DEFAULT 5", "w = 5"), ("w text[] DEFAULT '{\"a,b\"}'", "w = DEFAULT")])
def test_a_column_that_was_added_since_is_not_lost(one, column, kept):
    db = one("id int PRIMARY KEY, v text")
    lsn = committed(db, "INSERT INTO t VALUES (1, 'a')")
    db.run(f"ALTER TABLE t ADD COLUMN {column}")
    committed(db, "UPDATE t SET w = '{7}'" if "[]" in column else "UPDATE t SET w = '7'")
    assert undone(db, commit_lsn=lsn) == [CONFLICT] and db.value("SELECT count(*) FROM t") == 1
    committed(db, f"UPDATE t SET {kept}")
    assert undone(db, commit_lsn=lsn) == ["undone"] and db.value("SELECT count(*) FROM t") == 0
    assert undone(db, "redo", commit_lsn=lsn) == ["redone"]


FOLDING = "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"


def needs_icu(db):
    if code(db.connect(), FOLDING.replace("folding", "probe")) == "0A000":
        pytest.skip("this PostgreSQL is built without ICU: it has no collation that finds different texts equal")


@pytest.mark.parametrize("type_, before, one_, since", [
    ("text COLLATE folding", FOLDING, "'a'", "'A'"), ("varchar(5) COLLATE folding", FOLDING, "'a'", "'A'"), ("numeric", "SELECT 1", "1.0", "1.00"), ("numeric(4,2)", "SELECT 1", "1.0", "1.01"),
    ("jsonb", "SELECT 1", """'{"n": 1.0}'""", """'{"n": 1.00}'"""), ("json", "SELECT 1", """'{"n": 1.0}'""", """'{"n": 1.00}'"""),
    ("float8[]", "SELECT 1", "'{0.1}'", "'{0.10000000000000002}'"), ("jsonb", "SELECT 1", "NULL", "'null'"), ("citext", "CREATE EXTENSION citext", "'a'", "'A'")])
def test_what_is_equal_is_not_the_same(source, one, type_, before, one_, since):
    if before == FOLDING:
        needs_icu(source)
    db = one(f"id int PRIMARY KEY, v {type_}, w int", before)
    committed(db, f"INSERT INTO t VALUES (1, {one_}, 1)")
    lsn = committed(db, "UPDATE t SET w = 2")
    assert undone(db, commit_lsn=lsn) == ["undone"] and undone(db, "redo", commit_lsn=lsn) == ["redone"], "while it is the same"
    change_ = committed(db, f"UPDATE t SET v = {since}")
    db.run("ALTER DATABASE {} SET extra_float_digits = 0".format(db.name))
    text = db.value("SELECT v::text FROM t")
    assert undone(db, commit_lsn=lsn) == [CONFLICT]
    if since != "'null'":
        assert undone(db, commit_lsn=change_) == ["undone"] and db.value(f"SELECT v::text = ({one_})::{type_.split(' ')[0]}::text FROM t")
        assert undone(db, "redo", commit_lsn=change_) == ["redone"] and db.value("SELECT v::text FROM t") == text
    assert undone(db, change=db.value("SELECT min(id) FROM audit_logs")) == [CONFLICT]


def test_keys_that_are_equal_are_not_the_same(source, one):
    needs_icu(source)
    db = one("id text COLLATE folding PRIMARY KEY, v text", FOLDING)
    db.run("CREATE TABLE child (id int PRIMARY KEY, t text COLLATE folding REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE)")
    committed(db, "INSERT INTO t VALUES ('a', 'x')")
    lsn = committed(db, "UPDATE t SET v = 'y'")
    insert = committed(db, "INSERT INTO t VALUES ('b', 'x')")
    db.run("INSERT INTO child VALUES (1, 'B')")
    assert undone(db, commit_lsn=insert) == [CONFLICT], "one refers to it"
    committed(db, "UPDATE t SET id = 'A' WHERE id = 'a'")
    assert undone(db, commit_lsn=lsn) == [CONFLICT]


@pytest.mark.parametrize("type_", ["json", "jsonb", "settings"])
def test_null_of_json_is_not_null(one, type_):
    """Capture tells one from the other."""
    db = one(f"id int PRIMARY KEY, v {type_}", "CREATE DOMAIN settings AS jsonb")
    lsn = committed(db, "INSERT INTO t VALUES (1, 'null')")
    committed(db, "UPDATE t SET v = NULL")
    assert undone(db, commit_lsn=lsn) == [CONFLICT]
    committed(db, "UPDATE t SET v = 'null'")
    assert undone(db, commit_lsn=lsn) == ["undone"]
    db.run("ALTER TABLE t ALTER v SET NOT NULL")
    lsn = committed(db, "INSERT INTO t VALUES (2, 'null'), (3, '{}')")
    assert undone(db, commit_lsn=lsn) == ["undone"] * 2 and undone(db, "redo", commit_lsn=lsn) == ["redone"] * 2
    lsn = committed(db, "UPDATE t SET v = '1' WHERE id = 2")
    assert undone(db, commit_lsn=lsn) == ["undone"] and db.rows("SELECT id, v::text FROM t ORDER BY id") == [(2, "null"), (3, "{}")]


def test_changes_from_before_and_after_a_restore(one):
    db = one("id int PRIMARY KEY, v text")
    sent = [change(0, lsn=5000, table="t", record={"id": 1, "v": "a"}, time="2026-03-01T09:00:00Z"),
            change(0, lsn=9000, action="update", table="t", record={"id": 1, "v": "b"}, changes={"v": "a"}, time="2026-03-01T10:00:00Z", annotations={"username": "ada"}),
            change(0, lsn=7000, action="update", table="t", record={"id": 1, "v": "c"}, changes={"v": "a"}, time="2026-03-01T11:00:00Z", annotations={"username": "ada"}),
            change(0, lsn=9500, action="update", table="t", record={"id": 1, "v": "d"}, changes={"v": "c"}, time="2026-03-01T12:00:00Z", annotations={"username": "ada"})]
    for message in sent:
        db.ingest(batch([message]))
    session = db.connect()
    assert code(session, "SELECT * FROM audit_undo_sql(username => 'ada', since => '2026-03-01', until => '2026-03-02')") == "22023"
    assert code(session, "SELECT * FROM audit_undo(table_name => 't', key => '1', at => '2026-03-01 09:30Z', database_id => 'd1')") == "22023"
    since = "SELECT statement FROM audit_undo_sql({})"
    assert len(db.rows(since.format("username => 'ada', since => '2026-03-01 10:30Z', until => '2026-03-02'"))) == 2
    [(statement,)] = db.rows(since.format("table_name => 't', key => '1', at => '2026-03-01 11:30Z', database_id => 'd1'"))
    assert "'d'" in statement, "not what was before the moment, and has a higher position"


def test_an_old_key_that_was_not_sent(one):
    db = one("id int PRIMARY KEY, v text")
    sent = [change(0, lsn=5000, table="t", record={"id": 1, "v": "a"}, time="2026-03-01T09:00:00Z"),
            change(0, lsn=6000, action="update", table="t", record={"id": 1, "v": "b"}, changes={}, time="2026-03-01T10:00:00Z")]
    db.ingest(batch(sent))
    problems = "SELECT problem FROM audit_{}_sql(commit_lsn => 6000)"
    assert db.rows(problems.format("undo")) == [("old key unknown: it was not sent",)] == db.rows(problems.format("redo"))
    db.ingest(batch([change(0, lsn=7000, action="update", table="t", record={"id": 1, "v": "c"}, changes={"v": "b"}, time="2026-03-01T11:00:00Z")]))
    assert db.rows("SELECT problem FROM audit_undo_sql(commit_lsn => 7000)") == [(None,)]
