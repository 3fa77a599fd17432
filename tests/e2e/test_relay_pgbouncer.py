"""audit-relay through pgbouncer in transaction mode, where the next transaction may have another connection."""

import contextlib
import random

import psycopg2
import pytest
from conftest import batch, in_threads, until
from pgbouncer import pgbouncer
from relay_helpers import Relay, exactly, free_port, messages, post, role, run

pytestmark = pytest.mark.once


@pytest.fixture
def pooled(db):
    role(db)
    with pgbouncer(db.name, "tested_relay", connections=2) as found:
        yield f"postgres:///{db.name}?user=tested_relay&host={found['PGHOST']}&port={found['PGPORT']}"


@contextlib.contextmanager
def listening(db, pooled):
    port = free_port()
    with Relay(db, "webhook", "--listen", f"127.0.0.1:{port}", "--call-timeout", "2s", database=pooled) as relay:
        relay.says("listening at")
        relay.port = port
        yield relay


@pytest.fixture
def webhook(db, pooled):
    with listening(db, pooled) as relay:
        yield relay


def sessions(db, where):
    return db.value(f"SELECT count(*) FROM pg_stat_activity WHERE usename = 'tested_relay' AND {where}")


def test_everything_once_and_no_call_fails(db, webhook):
    chosen = random.Random(6)
    bodies = [batch([message]) for message in messages(60)] * 2
    chosen.shuffle(bodies)
    answers = []
    in_threads([lambda part=bodies[n::8]: answers.extend(post(webhook.port, body) for body in part) for n in range(8)])
    assert set(answers) == {204}
    exactly(db, 60)
    assert sessions(db, "true") <= 2
    assert "not stored" not in webhook.log


def test_check_finds_everything(pooled):
    environment = {"AUDIT_RELAY_DATABASE": pooled, "AUDIT_RELAY_WEBHOOK_SECRET": "s", "AUDIT_RELAY_WEBHOOK_LISTEN": f"127.0.0.1:{free_port()}"}
    for _ in range(3):
        found = run("check", "webhook", **environment)
        assert found.returncode == 0, found.stdout


def test_who_shares_the_connections_keeps_his_settings(db, pooled):
    """And none of them is held between two calls, whatever became of the first."""
    for setting in ("audit_cdc.on_reject = error", "default_transaction_isolation = 'repeatable read'", "synchronous_commit = off"):
        db.run(f"ALTER ROLE tested_relay IN DATABASE {db.name} SET {setting}")
    with listening(db, pooled) as relay:
        assert [post(relay.port, body) for body in [*messages(8), '{"id": 1}']] == [204] * 8 + [500]
        assert sessions(db, "state <> 'idle'") == 0
    with psycopg2.connect(pooled) as shared, shared.cursor() as cursor:
        for name, value in {"statement_timeout": "0", "default_transaction_isolation": "repeatable read", "synchronous_commit": "off"}.items():
            cursor.execute("SELECT current_setting(%s)", (name,))
            assert cursor.fetchone() == (value,)
    exactly(db, 8)


def test_a_call_that_takes_too_long_ends_in_the_server(db, webhook):
    [body] = messages(1)
    with db.connect() as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE audit_cdc_internal.log")
        assert post(webhook.port, body) == 503
        webhook.says("SQLSTATE 57014")
        until(lambda: sessions(db, "state <> 'idle'") == 0)
    assert post(webhook.port, body) == 204
    exactly(db, 1)
