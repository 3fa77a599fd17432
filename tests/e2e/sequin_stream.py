"""A stand-in for Sequin Stream's HTTP API, built from what Sequin does: receive, ack, nack; at least once, in any order."""

import json
import random
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "a-token-of-the-tests"


class SequinStream:
    def __init__(self, ack_wait=30.0, port=0):
        self.ack_wait, self.chance, self.lock = ack_wait, random.Random(3), threading.Lock()
        self.waiting, self.out = [], {}
        self.delivered = self.acked = self.nacked = 0
        self.lost_replies = 0  # so many replies to receive and ack are lost on their way
        self.listen(port)

    def listen(self, port=0):
        stream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, reply = stream.answer(self.path, self.headers.get("authorization"), asked)
                with stream.lock:
                    lost = stream.lost_replies > 0 and (reply.get("data") or self.path.endswith("ack"))
                    stream.lost_replies -= bool(lost)
                if lost:
                    self.close_connection = True
                    return
                text = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/api/sequin_streams/audit"

    def down(self):
        self.server.shutdown()
        self.server.server_close()

    def up(self):
        self.listen(self.port)

    def put(self, messages):
        with self.lock:
            self.waiting += messages
            self.chance.shuffle(self.waiting)

    def pending(self):
        with self.lock:
            return len(self.waiting) + len(self.out)

    def expire(self, everything=False):
        for ack_id in [ack_id for ack_id, (_, until) in self.out.items() if everything or until < time.monotonic()]:
            self.waiting.append(self.out.pop(ack_id)[0])

    def answer(self, path, authorization, asked):
        if authorization != f"Bearer {TOKEN}":
            return 401, {"summary": "Unauthorized"}
        if not path.startswith("/api/sequin_streams/audit/"):
            return 404, {"summary": "Not found"}
        if path.endswith("/receive"):
            return self.receive(asked)
        ids = asked.get("ack_ids")
        if not ids:
            return 400, {"summary": "Invalid ack_ids"}
        with self.lock:
            found = [self.out.pop(ack_id)[0] for ack_id in ids if ack_id in self.out]
            if path.endswith("/nack"):
                self.waiting += found
                self.nacked += len(found)
            else:
                self.acked += len(found)
        return 200, {"success": True}

    def receive(self, asked):
        if not (1 <= asked["batch_size"] <= 1000 and 500 <= asked["wait_for"] <= 300_000):
            return 400, {"summary": "Invalid"}
        end = time.monotonic() + asked["wait_for"] / 1000
        while time.monotonic() < end:
            with self.lock:
                self.expire()
                if self.waiting:
                    break
            time.sleep(0.01)
        with self.lock:
            taken, self.waiting = self.waiting[:asked["batch_size"]], self.waiting[asked["batch_size"]:]
            deliveries = []
            for message in taken:
                ack_id = str(uuid.UUID(int=self.chance.getrandbits(128)))
                self.out[ack_id] = (message, time.monotonic() + self.ack_wait)
                deliveries.append({"ack_id": ack_id, "data": json.loads(message)})
            self.delivered += len(deliveries)
        return 200, {"data": deliveries}
