from contextlib import asynccontextmanager

from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

from audit import Transaction


@asynccontextmanager
async def lifespan(app):
    async with AsyncConnectionPool(min_size=2, max_size=4, kwargs={"prepare_threshold": None}, open=False) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


class NewOrder(BaseModel):
    id: int
    note: str


class Change(BaseModel):
    note: str


@app.post("/orders", status_code=201)
async def add_order(order: NewOrder, transaction: Transaction):
    await transaction.execute("INSERT INTO orders VALUES (%s, %s)", (order.id, order.note))
    await transaction.execute("INSERT INTO order_events (order_id, note) VALUES (%s, %s)", (order.id, order.note))


@app.put("/orders/{id}", status_code=204)
async def change_order(id: int, change: Change, transaction: Transaction):
    await transaction.execute("UPDATE orders SET note = %s WHERE id = %s", (change.note, id))
