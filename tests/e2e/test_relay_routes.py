"""One relay, several audit databases: each source has one, and nothing is guessed."""

import contextlib
import json
import random
import threading

import pytest
from conftest import batch, change, fresh, in_threads, until
from relay_helpers import Relay, exactly, free_port, post, request, role, run, stored, url, wire_to_database
from test_links import serve
from test_relay_webhook import deliver

pytestmark = pytest.mark.once
SOURCES = [f"source-{n}" for n in range(4)]


@pytest.fixture
def four(template):
    with contextlib.ExitStack() as stack:
        databases = [stack.enter_context(contextlib.contextmanager(fresh)(template)) for _ in SOURCES]
        for db in databases:
            role(db)
        yield databases


def section(name, address, sources, more=""):
    return f"[database.{name}]\naddress = {json.dumps(address)}\nsources = {json.dumps(sources)}\n{more}\n"


def configured(folder, databases, more=""):
    file = folder / "relay.toml"
    file.write_text("\n".join(section(f"n{n}", url(db), [source]) for n, (db, source) in enumerate(zip(databases, SOURCES))) + more)
    return file


class Routing(Relay):
    def __init__(self, file, db):
        self.port = free_port()
        super().__init__(db, "webhook", "--listen", f"127.0.0.1:{self.port}", "--config", str(file), unset=["AUDIT_RELAY_DATABASE"])
        self.says("listening at")

    def restart(self):
        super().restart()
        self.says("listening at")


def messages(source, count, first=0):
    """As those of relay_helpers, of one source each."""
    return [json.dumps(change(n % 100, lsn=5_000_000 + n // 100 * 64, pks=(str(n),), record={"id": n}, database=source)) for n in range(first, first + count)]


def nameless(**metadata):
    """A change as old releases of Sequin sent it, which named no database."""
    message = change(record={"id": 1}, **metadata)
    del message["metadata"]["database"]
    return json.dumps(message)


def test_each_message_once_on_its_node_however_the_relay_is_killed(four, tmp_path):
    """Bodies hold messages of several sources, whose commits have the same numbers."""
    chance = random.Random(5)
    waiting = [messages(source, 600) for source in SOURCES]
    bodies = []
    while any(waiting):
        part = [source.pop(0) for source in chance.choices([source for source in waiting if source], k=chance.randrange(1, 40)) if source]
        if part:
            bodies.append(batch(part))
    with Routing(configured(tmp_path, four), four[0]) as relay:
        def kill():
            for _ in range(4):
                before = sum(db.value("SELECT count(*)::int FROM audit_logs") for db in four)
                until(lambda: sum(db.value("SELECT count(*)::int FROM audit_logs") for db in four) > before or before >= 2_000)
                relay.restart()
        in_threads([lambda part=part: deliver(lambda: relay.port, bodies[part::4]) for part in range(4)] + [kill])
    for db, source in zip(four, SOURCES):
        exactly(db, 600)
        assert db.rows("SELECT DISTINCT database_id FROM audit_logs") == [(source,)]
    # read as one, they are what each of them has
    reader, *others = four
    for n, other in enumerate(others, 1):
        serve(reader, f"n{n}", other)
        reader.run("SELECT audit_link(%s)", f"n{n}")
    entry = "database_id, record_id, commit_lsn, commit_idx, new_values"
    together = reader.rows(f"SELECT {entry} FROM audit_all_logs ORDER BY database_id, commit_lsn, commit_idx")
    assert together == [row for db in four for row in db.rows(f"SELECT {entry} FROM audit_logs ORDER BY commit_lsn, commit_idx")]


def test_check_shows_who_goes_where(four, tmp_path):
    file = configured(tmp_path, four, section("last", url(four[0]), ["one more"], "unreadable = true"))
    told = run("check", "file", "/dev/null", "--config", file).stdout
    for n, (db, source) in enumerate(zip(four, SOURCES)):
        assert f"[database.n{n}] takes {source}\nok      database: \"{db.name}\"" in told
    assert "[database.last] takes one more, and what names no source" in told and told.count("may call audit_ingest") == 5


def test_an_unknown_source_is_refused(four, tmp_path):
    known, unknown = messages(SOURCES[0], 1), messages("nobody's", 1)
    file = configured(tmp_path, four)
    with Routing(file, four[0]) as relay:
        status, _, told = request(relay.port, body=batch(known + unknown))
        assert (status, told) == (500, "no database takes a message of this body, as the log tells\n")
        relay.says('no database takes messages of the source "nobody\'s" ("shop")')
        for body in ("no JSON", nameless()):
            assert post(relay.port, body) == 500
        relay.says("a message names no source")
        exactly(four[0], 1)  # what could be stored is
        # by its name, once somebody has told where it goes
        file.write_text(file.read_text() + section("last", url(four[3]), ["shop"], "unreadable = true"))
        relay.restart()
        assert post(relay.port, batch(known + unknown)) == post(relay.port, "no JSON") == 204
        exactly(four[0], 1)
        assert four[3].rows("SELECT database_id FROM audit_logs") == [("nobody's",)] and four[3].value("SELECT count(*) FROM audit_rejects") == 1
        # an id goes before a name
        assert post(relay.port, messages(SOURCES[1], 1)[0]) == 204
        exactly(four[1], 1)


def test_one_that_is_away_holds_up_only_its_own(four, tmp_path):
    file = tmp_path / "relay.toml"
    file.write_text(section("here", url(four[0]), SOURCES[:1]) + section("away", "postgres://localhost:1/nothing", SOURCES[1:2]))
    with Routing(file, four[0]) as relay:
        mine, others = messages(SOURCES[0], 1)[0], messages(SOURCES[1], 1)[0]
        assert [post(relay.port, body) for body in (mine, others, batch([mine, others]))] == [204, 503, 503]
        exactly(four[0], 1)
        assert request(relay.port, "GET", "/readyz", secret=None)[0] == 503


@contextlib.contextmanager
def posting(relay, *bodies):
    """They are posted meanwhile; gives the list of what was answered."""
    answers = []
    threads = [threading.Thread(target=lambda body=body: answers.append(request(relay.port, body=body)[::2])) for body in bodies]
    for thread in threads:
        thread.start()
    yield answers
    for thread in threads:
        thread.join()


def locked(db, writers):
    """So many calls wait for a lock in this database."""
    return db.value("SELECT count(*)::int = %s FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'", (writers,))


def test_a_log_that_is_locked_holds_up_only_its_own(four, tmp_path):
    mine, others = messages(SOURCES[0], 20), messages(SOURCES[1], 4)
    with Routing(configured(tmp_path, four), four[0]) as relay, four[1].connect() as holder, holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE audit_cdc_internal.log")
        with posting(relay, others[0]) as first:
            until(lambda: locked(four[1], 1))
            with posting(relay, others[1]) as second:
                until(lambda: locked(four[1], 2))
                with posting(relay, others[2], batch([mine[0], others[3]])) as divided:
                    until(lambda: stored(four[0]) == 1)
                    assert [post(relay.port, body) for body in mine[1:]] == [204] * 19
                    # a body is acknowledged when all of it is stored
                    assert first == second == divided == []
                    cursor.execute("COMMIT")
        assert first + second + divided == [(204, "")] * 4
        exactly(four[0], 20)
        exactly(four[1], 4)


def test_one_that_never_answers_holds_up_only_its_own(four, tmp_path):
    file = tmp_path / "relay.toml"
    mine, others = messages(SOURCES[0], 20), messages(SOURCES[1], 2)
    with wire_to_database() as wire:
        silent = url(four[1], "127.0.0.1", wire.port)
        file.write_text(section("here", url(four[0]), SOURCES[:1]) + section("silent", silent, SOURCES[1:2]) + "[webhook]\ntimeout = '10s'\n")
        with Routing(file, four[0]) as relay:
            ready = lambda: request(relay.port, "GET", "/readyz", secret=None)[0]
            until(lambda: ready() == 200)
            wire.frozen.set()
            with posting(relay, others[0]) as first:
                until(lambda: len(wire.pairs) >= 2)
                with posting(relay, others[1]) as second:
                    until(lambda: len(wire.pairs) >= 3)
                    assert [post(relay.port, body) for body in mine] == [204] * 20
            assert first + second == [(503, "not stored in time\n")] * 2
            until(lambda: ready() == 503)
            relay.says("the database cannot be used: ")
            wire.frozen.clear()
            deliver(relay.port, others)
            until(lambda: ready() == 200)
    exactly(four[0], 20)
    exactly(four[1], 2)


def test_a_full_queue_holds_up_only_its_own(four, tmp_path):
    """Two databases share what bodies may take; one cannot take the share of the other."""
    file = configured(tmp_path, four[:2], "[webhook]\nmax_held = '40kB'\nmax_body = '20kB'\n")
    large = [json.dumps(change(n, record={"id": n, "text": "x" * 8_000}, pks=(str(n),), database=SOURCES[1])) for n in range(3)]
    with Routing(file, four[0]) as relay, four[1].connect() as holder, holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE audit_cdc_internal.log")
        with posting(relay, *large) as answers:
            until(lambda: answers)
            assert answers == [(503, "too many bodies are waiting\n")]
            assert [post(relay.port, body) for body in messages(SOURCES[0], 5)] == [204] * 5
            cursor.execute("COMMIT")
        assert answers[1:] == [(204, "")] * 2
        deliver(relay.port, large)
        exactly(four[1], 3)


def test_a_change_that_names_no_source(four, tmp_path):
    """It is stored where what is unreadable goes, or where the source "unknown" goes."""
    file = configured(tmp_path, four[:2], section("last", url(four[2]), ["one more"], "unreadable = true"))
    with Routing(file, four[0]) as relay:
        assert post(relay.port, batch([nameless(), nameless(table_name=None)])) == 204
    assert four[2].rows("SELECT database_id, record_id FROM audit_logs") == [("unknown", "1")]
    assert four[2].value("SELECT count(*)::int FROM audit_rejects") == 1
    file.write_text(file.read_text() + section("old", url(four[3]), ["unknown"]))
    with Routing(file, four[0]) as relay:
        assert post(relay.port, nameless()) == 204
    exactly(four[3], 1)


def test_sigterm_while_one_hangs(four, tmp_path):
    """What others take is finished. What hangs is answered with 503, so that Sequin delivers it again."""
    mine, others = messages(SOURCES[0], 1), messages(SOURCES[1], 1)
    file = configured(tmp_path, four[:2])
    file.write_text('stop_timeout = "1s"\n' + file.read_text())
    with Routing(file, four[0]) as relay, four[1].connect() as holder, holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE audit_cdc_internal.log")
        answers = []
        thread = threading.Thread(target=lambda: answers.append(post(relay.port, batch(mine + others))))
        thread.start()
        until(lambda: locked(four[1], 1) and stored(four[0]) == 1)
        assert relay.stop() == 0
        thread.join()
        assert answers == [503]
        cursor.execute("COMMIT")
        relay.start()
        relay.says("listening at")
        deliver(relay.port, [batch(mine + others)])
    exactly(four[0], 1)
    exactly(four[1], 1)


@pytest.mark.parametrize("sections, told", [
    (section("a", "postgres:", ["x"]) + section("b", "postgres:", ["y", "x"]), 'two databases take the source "x"'),
    (section("a", "postgres:", ["x"], "unreadable = true") + section("b", "postgres:", ["y"], "unreadable = true"), "two databases take what is unreadable"),
    ("[database.a]\nsources = ['x']\n", "[database.a] lacks its address"),
    ("[database.a]\naddress = 'postgres:'\n", "[database.a] lacks its sources"),
    ("[database.a]\naddress = 7\n", '"address" in [database.a] is of another type'),
    (section("a", "postgres:", ["x"], "weight = 3"), 'no option "weight" in section [database.a]'),
    ("[database]\naddress = 'postgres:'\n", "[database.address] must be a section"),
])
def test_what_cannot_be_meant(sections, told, tmp_path):
    (tmp_path / "relay.toml").write_text(sections)
    done = run("file", "/dev/null", "--config", tmp_path / "relay.toml")
    assert done.returncode == 2 and told in done.stderr


def test_one_database_or_several(tmp_path):
    (tmp_path / "relay.toml").write_text(section("a", "postgres:", ["x"]))
    for where in (["--database", "postgres:"], []):
        done = run("file", "/dev/null", "--config", tmp_path / "relay.toml", *where, **({} if where else {"AUDIT_RELAY_DATABASE": "postgres:"}))
        assert done.returncode == 2 and "give one or the other" in done.stderr
