import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

from psycopg_pool import ConnectionPool

from audit import signed, transaction

pool = ConnectionPool(min_size=2, max_size=4, kwargs={"prepare_threshold": None}, open=True)


def add_order(id, note):
    with transaction(pool) as connection:
        connection.execute("INSERT INTO orders VALUES (%s, %s)", (id, note))
        connection.execute("INSERT INTO order_events (order_id, note) VALUES (%s, %s)", (id, note))


def change_order(id, note):
    with transaction(pool) as connection:
        connection.execute("UPDATE orders SET note = %s WHERE id = %s", (note, id))


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.answer(lambda asked: add_order(asked["id"], asked["note"]))

    def do_PUT(self):
        self.answer(lambda asked: change_order(int(self.path.rsplit("/", 1)[1]), asked["note"]))

    def answer(self, work):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            with signed(self.headers["X-User"], "web", self.headers["X-Request-Id"] or str(uuid4())):
                work(asked)
            self.send_response(204)
        except Exception as error:
            self.log_error("%s", error)
            self.send_response(500)
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
