"""audit-relay webhook, posted to as Sequin does: 2xx only for what is in the log, and everything in the log exactly once."""

import gzip
import json
import random
import threading
import time

import pytest
from conftest import batch, change, in_threads, server, server_away, until
from fault_helpers import kill_postmaster
from relay_helpers import SECRET, Relay, exactly, free_port, messages, metric, post, request, stored, url, wire_to_database

pytestmark = pytest.mark.once


class Webhook(Relay):
    def __init__(self, db, *arguments, **environment):
        self.port = free_port()
        super().__init__(db, "webhook", "--listen", f"127.0.0.1:{self.port}", *arguments, **environment)
        self.up()

    def up(self):
        self.says("listening at")

    def restart(self):
        super().restart()
        self.up()


@pytest.fixture
def webhook(db):
    with Webhook(db) as relay:
        yield relay


def deliver(port, bodies, attempts=1000):
    """As Sequin: each body until it is acknowledged."""
    for body in bodies:
        for _ in range(attempts):
            status = post(port() if callable(port) else port, body)
            if status is not None and 200 <= status < 300:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("never acknowledged")


def test_batch_single_and_gzip(db, webhook):
    one, two, three = messages(3)
    assert post(webhook.port, batch([one])) == 204
    assert post(webhook.port, two) == 204
    assert post(webhook.port, gzip.compress(batch([three, one]).encode()), headers={"Content-Encoding": "gzip"}) == 204
    exactly(db, 3)


def test_gzip_to_the_last_byte(db, webhook):
    """gzip may have several members; what is not whole is not acknowledged."""
    zipped = {"Content-Encoding": "GZIP"}
    body = batch(messages(4)).encode()
    members = gzip.compress(body[:700]) + gzip.compress(body[700:])
    for damaged in (members[:-1], members + b"garbage", gzip.compress(body) + b"\x1f", gzip.compress(body)[:-9]):
        assert post(webhook.port, damaged, headers=zipped) == 400
    assert stored(db) == 0
    assert post(webhook.port, members, headers=zipped) == 204
    exactly(db, 4)


def test_what_goes_to_a_wrong_path_is_told(db, webhook):
    assert post(webhook.port, "[]", path="/wrong") == 404
    webhook.says("request not taken: POST /wrong")
    assert metric(webhook.port, 'requests_total{code="404"}') == 1


def test_only_with_the_secret(db, webhook):
    body = batch(messages(1))
    for secret in ("wrong", SECRET + "x", SECRET[:-1], ""):
        assert post(webhook.port, body, secret=secret) == 401
    assert post(webhook.port, body, secret=None) == 401
    assert request(webhook.port, body=body, secret="wrong")[1]["www-authenticate"] == "Bearer"
    assert stored(db) == 0
    assert SECRET not in webhook.log


def test_a_header_of_ones_own_and_two_secrets_while_one_is_changed(db):
    with Webhook(db) as relay:
        assert post(relay.port, "[]", secret=None, headers={"Authorization": f"bearer {SECRET}"}) == 204
    with Webhook(db, "--secret-header", "X-Audit-Secret", AUDIT_RELAY_WEBHOOK_SECRET="old,new") as relay:
        for secret, status in (("old", 204), ("new", 204), ("old,new", 401), ("Bearer new", 401)):
            assert post(relay.port, "[]", secret=None, headers={"X-Audit-Secret": secret}) == status
        assert post(relay.port, "[]", secret="old") == 401


def test_what_is_rejected_is_kept_and_acknowledged(db, webhook):
    good = messages(1)
    assert post(webhook.port, batch(good + [{"id": 1}])) == 204
    assert post(webhook.port, '{"broken') == 204
    assert post(webhook.port, b"\xff\x00 no text") == 204
    assert stored(db) == 1
    assert [raw for (raw,) in db.rows("SELECT raw FROM audit_rejects ORDER BY id")] == ['{"id": 1}', '{"broken', '{"not_text_base64":"/wAgbm8gdGV4dA=="}']


def test_what_the_database_refuses_is_not_acknowledged_and_holds_up_no_other(db):
    role = "tested_relay"
    with Webhook(db, "--connections", "1", "--batch-wait", "300ms") as relay:
        db.run(f"ALTER ROLE {role} IN DATABASE {db.name} SET audit_cdc.on_reject = error")
        good = messages(4)
        answers = {}
        in_threads([lambda body=body: answers.__setitem__(body, post(relay.port, body)) for body in [*good, '{"id": 1}']])
        assert answers == {**{body: 204 for body in good}, '{"id": 1}': 500}
        exactly(db, 4)


def test_bodies_that_wait_together_share_a_call(db):
    with Webhook(db, "--connections", "1", "--batch-wait", "500ms") as relay:
        in_threads([lambda body=body: post(relay.port, body) for body in messages(8)])
        exactly(db, 8)
        assert metric(relay.port, "calls_total") < 8
        assert metric(relay.port, 'messages_total{outcome="inserted"}') == 8


def test_too_large_broken_and_full(db):
    with Webhook(db, "--max-body", "10kB", "--max-held", "10kB") as relay:
        large = batch(messages(1, text="x" * 20_000))
        assert post(relay.port, large) == 413
        assert post(relay.port, gzip.compress(large.encode()), headers={"Content-Encoding": "gzip"}) == 413
        assert post(relay.port, b"no gzip", headers={"Content-Encoding": "gzip"}) == 400
        assert post(relay.port, b"{}", headers={"Content-Encoding": "br"}) == 415
        with db.connect() as holder, holder.cursor() as cursor:
            cursor.execute("BEGIN; LOCK TABLE audit_cdc_internal.log")
            waiting = threading.Thread(target=post, args=(relay.port, messages(1, text="x" * 6_000)[0]))
            waiting.start()
            until(lambda: db.value("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0)
            status, headers, _ = request(relay.port, body=messages(1, first=1, text="x" * 6_000)[0])
            assert (status, int(headers["retry-after"]) > 0) == (503, True)
            cursor.execute("COMMIT")
        waiting.join()
        assert stored(db) == 1


def test_health_readiness_and_metrics(db, webhook):
    get = lambda path: request(webhook.port, "GET", path, secret=None)
    assert get("/healthz")[0] == 200
    until(lambda: get("/readyz")[0] == 200)
    assert post(webhook.port, batch(messages(3))) == 204
    assert post(webhook.port, batch(messages(3))) == 204
    assert (metric(webhook.port, 'messages_total{outcome="inserted"}'), metric(webhook.port, 'messages_total{outcome="duplicate"}')) == (3, 3)
    assert metric(webhook.port, 'requests_total{code="204"}') == 2
    assert metric(webhook.port, "last_stored_timestamp_seconds") >= time.time() - 60
    with server_away():
        until(lambda: get("/readyz")[0] == 503)
        assert get("/healthz")[0] == 200
    until(lambda: get("/readyz")[0] == 200)


def test_a_database_that_is_away_gives_503_and_retry_after(db, webhook):
    body = batch(messages(5))
    with server_away():
        status, headers, _ = request(webhook.port, body=body)
        assert (status, int(headers["retry-after"]) > 0) == (503, True)
    until(lambda: post(webhook.port, body) == 204)
    exactly(db, 5)


def test_a_database_without_room_for_the_role_gives_503(db):
    with Webhook(db) as relay:
        db.run("ALTER ROLE tested_relay CONNECTION LIMIT 0")
        try:
            assert post(relay.port, batch(messages(5))) == 503
            relay.says("53300")
        finally:
            db.run("ALTER ROLE tested_relay CONNECTION LIMIT -1")
        assert post(relay.port, batch(messages(5))) == 204
        exactly(db, 5)


def test_a_slow_database_is_given_up_before_sequin_gives_up(db):
    with Webhook(db, "--timeout", "1s", "--call-timeout", "2s") as relay:
        body = batch(messages(5))
        with db.connect() as holder, holder.cursor() as cursor:
            cursor.execute("BEGIN; LOCK TABLE audit_cdc_internal.log")
            status, headers, text = request(relay.port, body=body)
            assert (status, "retry-after" in headers, text) == (503, True, "not stored in time\n")
            # the call is cancelled by the server
            relay.says("57014")
            cursor.execute("COMMIT")
        deliver(relay.port, [body])
        exactly(db, 5)


def test_a_frozen_network_is_given_up_too(db):
    with wire_to_database() as wire:
        with Webhook(db, "--timeout", "1s", "--call-timeout", "1s", "--connections", "1", database=url(db, "127.0.0.1", wire.port)) as relay:
            assert post(relay.port, batch(messages(1))) == 204
            wire.frozen.set()
            assert post(relay.port, batch(messages(5))) == 503
            relay.says("no answer in time")
            wire.frozen.clear()
            deliver(relay.port, [batch(messages(5))])
            exactly(db, 5)


def test_a_connection_cut_before_the_answer_to_a_commit(db):
    """The commit waits for a standby that there is not, so that it is done but not answered when the wire is cut."""
    superuser = db.connect()
    with wire_to_database() as wire, superuser.cursor() as cursor:
        with Webhook(db, "--timeout", "3s", database=url(db, "127.0.0.1", wire.port)) as relay:
            body = batch(messages(5))
            cursor.execute("SET synchronous_commit = local")
            cursor.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            cursor.execute("SELECT pg_reload_conf()")
            try:
                answers = []
                posting = threading.Thread(target=lambda: answers.append(post(relay.port, body)))
                posting.start()
                until(lambda: db.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") > 0)
                assert wire.cut() > 0
                posting.join()
                assert answers == [503]
            finally:
                cursor.execute("ALTER SYSTEM RESET synchronous_standby_names")
                cursor.execute("SELECT pg_reload_conf()")
            deliver(relay.port, [body])
            exactly(db, 5)


def test_idle_connections_survive_a_restart_of_the_database(db, webhook):
    assert post(webhook.port, batch(messages(1))) == 204
    server("stop")
    server("start")
    assert post(webhook.port, batch(messages(2))) == 204
    exactly(db, 2)


def test_synchronous_commit_cannot_be_off(db):
    with Webhook(db) as relay:
        db.run(f"ALTER ROLE tested_relay IN DATABASE {db.name} SET synchronous_commit = off")
        with db.connect() as holder, holder.cursor() as cursor:
            cursor.execute("""CREATE TABLE seen (value text);
                CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                  INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
                CREATE TRIGGER note AFTER INSERT ON audit_cdc_internal.rejects FOR EACH STATEMENT EXECUTE FUNCTION note()""")
        assert post(relay.port, "{}") == 204
        assert db.value("SELECT min(value) FROM seen") == "on"


def test_sigterm_finishes_what_was_taken(db, webhook):
    with db.connect() as holder, holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE audit_cdc_internal.log")
        answers = []
        posting = threading.Thread(target=lambda: answers.append(post(webhook.port, batch(messages(5)))))
        posting.start()
        until(lambda: db.value("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0)
        webhook.asked_to_stop()
        until(lambda: post(webhook.port, "[]") is None)
        cursor.execute("COMMIT")
    posting.join()
    assert answers == [204]
    assert webhook.ended() == 0
    exactly(db, 5)


def chaos(db, relays, fault, bodies, total, senders=4):
    """Several senders with all bodies, in other orders and twice, through any of the relays; a fault again and again meanwhile."""
    chance = random.Random(11)
    done = threading.Event()
    faults = []

    def saboteur():
        while not done.wait(chance.uniform(0.1, 0.4)):
            if len(faults) < 6 and stored(db) > 0 and fault(chance):
                faults.append(1)

    def work():
        try:
            in_threads([lambda mine=chance.sample(bodies, len(bodies)): deliver(lambda: random.choice(relays).port, mine) for _ in range(senders)])
        finally:
            done.set()

    in_threads([work, saboteur])
    assert faults, "no fault happened: the test would prove nothing"
    exactly(db, total)


BODIES = [batch(messages(200, first)) for first in range(0, 20_000, 200)]


def test_two_relays_duplicates_reordered_and_kill_9_of_a_relay(db):
    with Webhook(db) as one, Webhook(db) as other:
        chaos(db, [one, other], lambda chance: chance.choice([one, other]).restart() or True, BODIES, 20_000)


def test_connections_cut_at_any_time(db):
    with wire_to_database() as wire, Webhook(db, database=url(db, "127.0.0.1", wire.port)) as relay:
        chaos(db, [relay], lambda _: wire.cut() > 0, BODIES, 20_000)


def test_kill_9_of_the_database(db, webhook):
    def fault(_):
        kill_postmaster()
        return True
    chaos(db, [webhook], fault, BODIES, 20_000)
