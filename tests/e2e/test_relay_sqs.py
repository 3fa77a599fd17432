"""audit-relay sqs, beside moto's SQS: deleted only what is in the log, and everything exactly once."""

import itertools
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import server_away, until
from relay_helpers import FAULTS, Relay, exactly, messages, run, stored, strike, url, wire_to_database
from relay_peers import CREDENTIALS, Queue, sqs  # noqa: F401

pytestmark = pytest.mark.once

numbers = itertools.count(1)


class Pull(Relay):
    def __init__(self, db, queue, *arguments, **options):
        # a reply that gets lost holds its messages that long, and tests wait for them
        if "--visibility-timeout" not in arguments:
            arguments = ("--visibility-timeout", "10s", *arguments)
        # moto's long poll does not see that a message group becomes free
        super().__init__(db, "sqs", "--queue-url", queue.url, "--endpoint-url", queue.server.url, "--wait", "1s", *arguments, **{**CREDENTIALS, **options})


@pytest.fixture
def queue(sqs):
    return Queue(sqs, f"audit{next(numbers)}")


@pytest.fixture(params=["", ".fifo"], ids=["standard", "fifo"])
def any_queue(sqs, request):
    return Queue(sqs, f"audit{next(numbers)}{request.param}")


def test_receives_stores_and_deletes(db, any_queue):
    count = 60 if any_queue.fifo else 300  # moto is slow
    any_queue.put(messages(count))
    with Pull(db, any_queue) as relay:
        until(lambda: any_queue.pending() == (0, 0))
        exactly(db, count)
        any_queue.put(messages(5, count))
        until(lambda: any_queue.pending() == (0, 0))
        assert relay.stop() == 0
    exactly(db, count + 5)


def test_what_is_rejected_is_kept_and_deleted(db, queue):
    queue.put([*messages(3), json.dumps({"id": 1}), "no JSON"])
    with Pull(db, queue):
        until(lambda: queue.pending() == (0, 0))
    assert stored(db) == 3
    assert sorted(db.rows("SELECT raw FROM audit_rejects")) == [("no JSON",), ('{"id": 1}',)]


def test_what_the_database_refuses_stays_in_the_queue(db, queue):
    with Pull(db, queue, "--visibility-timeout", "1s"):
        db.run(f"ALTER ROLE tested_relay IN DATABASE {db.name} SET audit_cdc.on_reject = error")
        queue.put([*messages(8), json.dumps({"id": 1})])
        until(lambda: stored(db) == 8 and sum(queue.pending()) == 1)
    exactly(db, 8)


def test_messages_stay_invisible_while_the_database_keeps_them_waiting(db, queue):
    with db.connect() as holder, holder.cursor() as cursor, Pull(db, queue, "--visibility-timeout", "2s", "--connections", "1"):
        cursor.execute("BEGIN; LOCK TABLE audit_cdc_internal.log")
        queue.put(messages(25))
        until(lambda: db.value("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0)
        until(lambda: db.value("SELECT clock_timestamp() - state_change > '5 s' FROM pg_stat_activity WHERE application_name = 'audit-relay' AND wait_event_type = 'Lock'"))
        taken = queue.client.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10).get("Messages", [])
        held = [body["record"]["id"] for body in map(json.loads, (message["Body"] for message in taken))]
        cursor.execute("COMMIT")
        until(lambda: stored(db) >= 10)
        for message in taken:
            queue.client.change_message_visibility(QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
        until(lambda: queue.pending() == (0, 0))
    exactly(db, 25)
    assert len(held) <= 15, "of what the relay held first, something became visible"


def test_nothing_is_deleted_while_the_database_is_away(db, queue):
    # after a reply that was lost on its way a message is invisible so long
    with Pull(db, queue, "--visibility-timeout", "10s") as relay:
        with server_away():
            queue.put(messages(40))
            relay.says("not stored")
            assert sum(queue.pending()) == 40
        until(lambda: queue.pending() == (0, 0))
    exactly(db, 40)


def test_a_stop_returns_what_cannot_be_stored(db, queue):
    with Pull(db, queue, "--stop-timeout", "500ms") as relay:
        with server_away():
            queue.put(messages(10))
            relay.says("not stored")
            assert relay.stop() == 0
            assert queue.pending() == (10, 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_with_two_relays(db, any_queue, fault):
    chance, step = random.Random(5), 30 if any_queue.fifo else 150
    count = 5 * step
    with wire_to_database() as wire:
        more = ("--visibility-timeout", "3s", "--batch-messages", "50")
        address = url(db, "127.0.0.1", wire.port)
        with Pull(db, any_queue, *more, database=address) as one, Pull(db, any_queue, *more, database=address) as other:
            for first in range(0, count, step):
                any_queue.put(messages(step, first))
                before = max(stored(db), 0)
                until(lambda: stored(db) > before or any_queue.pending() == (0, 0))
                strike(fault, chance.choice([one, other]), wire)
                # some come twice
                any_queue.put(messages(step // 5, chance.randrange(first + step * 4 // 5)))
            until(lambda: any_queue.pending() == (0, 0), 120)
    exactly(db, count)


class SlowSqs:
    """Gives ten new messages to each request, after a while; from `damaged` on, replies that break off."""

    def __init__(self, seconds):
        self.seconds, self.asked, self.given, self.damaged = seconds, 0, 0, False
        self.lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                reply = service.receive() if self.headers["x-amz-target"].endswith(".ReceiveMessage") else {
                    "Successful": [{"Id": entry["Id"]} for entry in asked.get("Entries", [])], "Failed": []}
                text = json.dumps(reply).encode()[:-100 if service.damaged else None]
                self.send_response(200)
                self.send_header("content-type", "application/x-amz-json-1.0")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def receive(self):
        self.asked += 1
        time.sleep(self.seconds)
        with self.lock:
            first, self.given = self.given, self.given + 10
        return {"Messages": [{"MessageId": str(n), "ReceiptHandle": str(n), "Body": body} for n, body in enumerate(messages(10, first))]}


@pytest.fixture
def slow():
    service = SlowSqs(0.7)
    yield service
    service.server.shutdown()


def test_a_slow_queue_holds_up_neither_the_database_nor_an_end(db, slow):
    with Relay(db, "sqs", "--queue-url", slow.url + "/1/audit", "--endpoint-url", slow.url, "--connections", "1", **CREDENTIALS) as relay:
        until(lambda: stored(db) > 0)
        assert slow.given < 400, "it gathered on and on"
        relay.asked_to_stop()
        given = slow.given
        assert relay.ended() == 0
        assert slow.given <= given + 160, "it received on and on"
    exactly(db, slow.given)


def test_what_a_request_takes_while_the_relay_stops_is_not_forgotten(db, slow):
    with Relay(db, "sqs", "--queue-url", slow.url + "/1/audit", "--endpoint-url", slow.url, "--connections", "1", **CREDENTIALS) as relay:
        until(lambda: slow.asked == 1)
        assert relay.stop() == 0
    assert slow.given == 10
    exactly(db, 10)


def test_a_reply_that_breaks_off_is_not_shown(db, slow):
    slow.damaged = True
    with Relay(db, "sqs", "--queue-url", slow.url + "/1/audit", "--endpoint-url", slow.url, **CREDENTIALS) as relay:
        relay.says("the reply cannot be understood")
        assert "lorem ipsum" not in relay.log


def test_the_service_restarted(db, sqs):
    """moto keeps nothing: after its restart the sender, which knows no better, sends everything again."""
    name = f"audit{next(numbers)}"
    queue = Queue(sqs, name)
    queue.put(messages(300))
    with Pull(db, queue, "--batch-messages", "20") as relay:
        until(lambda: stored(db) > 0)
        sqs.kill()
        relay.says("nothing received")
        sqs.start()
        queue = Queue(sqs, name)
        queue.put(messages(300))
        until(lambda: queue.pending() == (0, 0))
    exactly(db, 300)


def test_a_wrong_queue_or_address_is_told(db, queue):
    check = lambda *options: run("check", "sqs", "--endpoint-url", queue.server.url, *options, AUDIT_RELAY_DATABASE=url(db, user="postgres"), **CREDENTIALS)
    good = check("--queue-url", queue.url)
    assert good.returncode == 0 and "the queue answers" in good.stdout, good.stdout
    wrong = check("--queue-url", queue.url + "x")
    assert wrong.returncode == 1 and "FAILED  source: the queue cannot be reached" in wrong.stdout
