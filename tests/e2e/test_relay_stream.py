"""audit-relay stream, beside a stand-in for Sequin Stream: acked only what is in the log, and everything exactly once."""

import json
import random
import threading

import pytest
from conftest import server_away, until
from relay_helpers import FAULTS, Relay, exactly, free_port, messages, metric, run, stored, strike, url, wire_to_database
from sequin_stream import TOKEN, SequinStream

pytestmark = pytest.mark.once


class Pull(Relay):
    def __init__(self, db, stream, *arguments, **options):
        super().__init__(db, "stream", "--url", stream.url, "--wait", "500ms", *arguments, **{"AUDIT_RELAY_STREAM_TOKEN": TOKEN, **options})


@pytest.fixture
def stream():
    stream = SequinStream()
    yield stream
    stream.down()


def test_receives_stores_and_acks(db, stream):
    stream.put(messages(2_500))
    with Pull(db, stream) as relay:
        until(lambda: stream.pending() == 0)
        assert (stream.acked, stream.delivered, stream.nacked) == (2_500, 2_500, 0)
        assert relay.stop() == 0
        assert TOKEN not in relay.log
    exactly(db, 2_500)


def test_what_is_rejected_is_kept_and_acked(db, stream):
    stream.put([*messages(3), json.dumps({"id": 1})])
    with Pull(db, stream):
        until(lambda: stream.pending() == 0)
    assert stored(db) == 3
    assert db.rows("SELECT raw FROM audit_rejects") == [('{"id": 1}',)]


def test_nothing_is_acked_while_the_database_is_away(db, stream):
    with Pull(db, stream) as relay:
        with server_away():
            stream.put(messages(500))
            relay.says("not stored")
            assert stream.acked == 0
        until(lambda: stream.acked == 500)
        exactly(db, 500)


def test_a_stop_returns_what_cannot_be_stored(db, stream):
    with Pull(db, stream, "--stop-timeout", "500ms") as relay:
        with server_away():
            stream.put(messages(50))
            relay.says("not stored")
            assert relay.stop() == 0
            assert (stream.nacked, stream.acked, len(stream.waiting)) == (50, 0, 50)
    with Pull(db, stream):
        until(lambda: stream.pending() == 0)
    exactly(db, 50)


def test_a_stop_finishes_what_is_held(db, stream):
    with db.connect() as holder, holder.cursor() as cursor, Pull(db, stream) as relay:
        cursor.execute("BEGIN; LOCK TABLE audit_cdc_internal.log")
        stream.put(messages(50))
        until(lambda: db.value("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0)
        relay.asked_to_stop()
        cursor.execute("COMMIT")
        assert relay.ended() == 0
        assert (stream.acked, stream.pending()) == (50, 0)
    exactly(db, 50)


def test_lost_replies_and_late_acks(db, stream):
    stream.ack_wait = 0.3
    stream.lost_replies = 6
    stream.put(messages(3_000))
    with Pull(db, stream, "--batch-messages", "100"):
        until(lambda: stream.pending() == 0)
    assert stream.delivered > 3_000
    exactly(db, 3_000)


def test_sequin_restarted(db, stream):
    with Pull(db, stream, "--batch-messages", "50") as relay:
        for first in range(0, 2_000, 500):
            stream.put(messages(500, first))
            until(lambda: stream.acked > first)
            stream.down()
            with stream.lock:
                stream.expire(everything=True)
            relay.says("nothing received")
            relay.lines.clear()
            stream.up()
        until(lambda: stream.pending() == 0)
    exactly(db, 2_000)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_with_two_relays(db, stream, fault):
    chance, count = random.Random(5), 20_000
    stream.ack_wait = 2
    with wire_to_database() as wire:
        address = url(db, "127.0.0.1", wire.port)
        with Pull(db, stream, "--batch-messages", "100", database=address) as one, \
                Pull(db, stream, "--batch-messages", "100", database=address) as other:
            stream.put(messages(count))
            faults = 0
            while stream.pending() and faults < 6:
                before = stream.acked
                until(lambda: stream.acked > before + 500 or not stream.pending())
                if not stream.pending():
                    break
                strike(fault, chance.choice([one, other]), wire)
                faults += 1
                # some deliver twice
                stream.put(messages(300, chance.randrange(count - 300)))
            assert faults > 0
            until(lambda: not stream.pending())
    exactly(db, count)


def test_wrong_token_stream_and_address_are_told(db, stream):
    check = lambda url_, token: run("check", "stream", "--url", url_, AUDIT_RELAY_STREAM_TOKEN=token, AUDIT_RELAY_DATABASE=url(db, user="postgres"))
    good = check(stream.url, TOKEN)
    assert good.returncode == 0 and "knows token and stream" in good.stdout
    assert check(stream.url + "/", TOKEN).returncode == 0
    wrong = check(stream.url, "wrong")
    assert wrong.returncode == 1 and "FAILED  source: Sequin answers with 401 Unauthorized: the token is wrong" in wrong.stdout
    assert "there is no such stream" in check(stream.url.replace("/audit", "/other"), TOKEN).stdout
    assert "Sequin cannot be reached" in check(f"http://127.0.0.1:{free_port()}/api/sequin_streams/audit", TOKEN).stdout


def test_metrics_are_served_when_asked_for(db, stream):
    port = free_port()
    with Pull(db, stream, "--metrics", f"127.0.0.1:{port}"):
        stream.put(messages(10))
        until(lambda: stream.acked == 10)
        assert metric(port, 'messages_total{outcome="inserted"}') == 10
