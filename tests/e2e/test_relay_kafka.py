"""audit-relay kafka, beside a real broker: offsets are committed after the database's commit, and everything is there exactly once."""

import json
import random

import pytest
from confluent_kafka import Consumer, TopicPartition
from conftest import server_away, until
from relay_helpers import FAULTS, Relay, exactly, free_port, messages, run, stored, strike, url, wire_to_database
from relay_peers import broker  # noqa: F401

pytestmark = pytest.mark.once

TOPIC = "audit"


class Member(Relay):
    def __init__(self, db, broker, *arguments, **options):
        quick = ("session.timeout.ms=6000", "heartbeat.interval.ms=500", "reconnect.backoff.max.ms=500", "topic.metadata.refresh.interval.ms=1000")
        super().__init__(db, "kafka", "--brokers", broker.address, "--topic", TOPIC,
                         *(part for property in quick for part in ("--property", property)), *arguments, **options)


def committed(broker, partitions=3):
    """Messages before the group's offsets."""
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "audit-relay", "log_level": 0})
    try:
        found = consumer.committed([TopicPartition(TOPIC, n) for n in range(partitions)], timeout=30)
        return sum(max(partition.offset, 0) for partition in found)
    finally:
        consumer.close()


def test_consumes_stores_and_commits(db, broker):
    broker.create(TOPIC)
    broker.put(TOPIC, messages(2_000))
    with Member(db, broker) as relay:
        until(lambda: stored(db) == 2_000)
        broker.put(TOPIC, messages(10, 2_000))
        until(lambda: stored(db) == 2_010)
        until(lambda: committed(broker) == 2_010)
        assert relay.stop() == 0
    exactly(db, 2_010)


def test_tombstones_are_skipped_and_what_is_rejected_is_kept(db, broker):
    broker.create(TOPIC)
    broker.put(TOPIC, [None, *messages(3), None, json.dumps({"id": 1}), b"\xff", None])
    with Member(db, broker):
        until(lambda: committed(broker) == 8)
    assert stored(db) == 3
    assert sorted(db.rows("SELECT raw FROM audit_rejects")) == [('{"id": 1}',), ('{"not_text_base64":"/w=="}',)]


def test_no_offset_is_committed_while_the_database_is_away(db, broker):
    broker.create(TOPIC)
    with Member(db, broker) as relay:
        relay.says("assigned")
        with server_away():
            broker.put(TOPIC, messages(300))
            relay.says("not stored")
            assert committed(broker) == 0
        until(lambda: stored(db) == 300)
        until(lambda: committed(broker) == 300)
    exactly(db, 300)


def test_what_the_database_refuses_is_not_passed_over(db, broker):
    broker.create(TOPIC, 1)
    with Member(db, broker, "--connections", "1") as relay:
        db.run(f"ALTER ROLE tested_relay IN DATABASE {db.name} SET audit_cdc.on_reject = error")
        relay.says("assigned")
        broker.put(TOPIC, [json.dumps({"id": 1})])
        relay.says("refuses messages")
        broker.put(TOPIC, messages(5))
        relay.lines.clear()
        relay.says("refuses messages")
        assert committed(broker, 1) == 0
        db.run(f"ALTER ROLE tested_relay IN DATABASE {db.name} RESET audit_cdc.on_reject")
        relay.restart()
        until(lambda: stored(db) == 5)
        until(lambda: committed(broker, 1) == 6)


def test_partitions_are_kept_while_the_database_is_slow(db, broker):
    """Longer than a member may go without polling: the group takes nothing away, since it goes on polling."""
    broker.create(TOPIC)
    with db.connect() as holder, holder.cursor() as cursor, \
            Member(db, broker, "--batch-messages", "10", "--property", "max.poll.interval.ms=6000") as relay:
        cursor.execute("BEGIN; LOCK TABLE audit_cdc_internal.log")
        broker.put(TOPIC, messages(500))
        until(lambda: db.value("SELECT count(*) > 0 AND bool_and(clock_timestamp() - state_change > '10 s') FROM pg_stat_activity"
                               " WHERE application_name = 'audit-relay' AND wait_event_type = 'Lock'"))
        cursor.execute("COMMIT")
        until(lambda: committed(broker) == 500)
        assert "gave" not in relay.log and "not stored" not in relay.log
    exactly(db, 500)


def test_members_come_and_go(db, broker):
    """Rebalances in mid-work; one member is killed, one leaves."""
    broker.create(TOPIC, 6)
    count = 12_000
    with Member(db, broker, "--batch-messages", "50") as one:
        broker.put(TOPIC, messages(count // 2))
        until(lambda: stored(db) > 0)
        with Member(db, broker, "--batch-messages", "50") as other, Member(db, broker, "--batch-messages", "50") as third:
            until(lambda: "assigned" in other.log and "assigned" in third.log)
            broker.put(TOPIC, messages(count // 2, count // 2))
            third.kill()
            assert other.stop() == 0
        until(lambda: stored(db) == count, 120)
        until(lambda: committed(broker, 6) == count, 120)
        assert "gave" in one.log
    exactly(db, count)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_with_two_relays(db, broker, fault):
    chance, count = random.Random(5), 6_000
    broker.create(TOPIC)
    with wire_to_database() as wire:
        address = url(db, "127.0.0.1", wire.port)
        with Member(db, broker, "--batch-messages", "50", database=address) as one, Member(db, broker, "--batch-messages", "50", database=address) as other:
            twice = 0
            for first in range(0, count, 1_000):
                broker.put(TOPIC, messages(1_000, first))
                before = max(stored(db), 0)
                until(lambda: stored(db) > before)
                strike(fault, chance.choice([one, other]), wire)
                # some come twice, in another order
                again = messages(200, chance.randrange(first + 800))
                chance.shuffle(again)
                broker.put(TOPIC, again)
                twice += 200
            until(lambda: committed(broker) == count + twice, 180)
    exactly(db, count)


def test_the_broker_is_away_and_comes_back(db, broker):
    broker.create(TOPIC)
    broker.put(TOPIC, messages(2_000))
    with Member(db, broker, "--batch-messages", "50") as relay:
        for _ in range(3):
            before = stored(db)
            until(lambda: stored(db) > before)
            broker.wire.down()
            relay.says("kafka:")
            relay.lines.clear()
            broker.wire.up()
            if before > 1_000:
                break
        broker.put(TOPIC, messages(1_000, 2_000))
        until(lambda: committed(broker) == 3_000, 120)
    exactly(db, 3_000)


def test_the_broker_is_replaced(db, broker):
    """By an empty one: the sender sends everything again, at offsets from 0. Asked for the topic's old id, this broker answers with
    neither id nor name, at which librdkafka 2.12 falls over. Whoever starts services would start the relay again."""
    broker.create(TOPIC)
    broker.put(TOPIC, messages(2_000))
    with Member(db, broker, "--batch-messages", "50") as relay:
        until(lambda: stored(db) > 500)
        broker.kill()
        broker.wire.cut()
        relay.says("kafka:")
        broker.start()
        broker.create(TOPIC)
        broker.put(TOPIC, messages(3_000))

        def all_committed():
            if relay.process.poll() is not None:
                relay.start()
            return committed(broker) == 3_000
        until(all_committed, 120)
    exactly(db, 3_000)


def test_properties_that_keep_the_promise_cannot_be_set(db):
    for key in ("enable.auto.commit", "auto.offset.reset", "group.id"):
        done = run("kafka", "--brokers", "x:1", "--topic", "x", "--property", f"{key}=latest", AUDIT_RELAY_DATABASE=url(db))
        assert done.returncode == 1 and f"the property {key} keeps the relay's promise" in done.stderr


def test_a_wrong_topic_or_address_is_told(db, broker):
    broker.create(TOPIC)
    check = lambda address, topic: run("check", "kafka", "--brokers", address, "--topic", topic, AUDIT_RELAY_DATABASE=url(db, user="postgres"))
    good = check(broker.address, TOPIC)
    assert good.returncode == 0 and "3 partitions" in good.stdout, good.stdout
    assert 'FAILED  source: there is no topic "other"' in check(broker.address, "other").stdout
    assert "FAILED  source: no broker answers" in check(f"127.0.0.1:{free_port()}", TOPIC).stdout
