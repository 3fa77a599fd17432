"""One relay, several audit databases: each source has one, and nothing is guessed."""

import contextlib
import json
import random

import pytest
from conftest import batch, change, fresh, in_threads, until
from relay_helpers import Relay, exactly, free_port, post, request, role, run, url
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
        assert post(relay.port, batch(known + unknown)) == 500
        relay.says('no database takes messages of the source "nobody\'s" ("shop")')
        assert post(relay.port, "no JSON") == 500
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
