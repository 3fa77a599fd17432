from uuid import uuid4

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from audit import AuditMiddleware, sign_transactions
from models import Change, NewOrder, Order, OrderEvent

through_pgbouncer = {"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: f"s{uuid4()}"}
engine = create_async_engine("postgresql+asyncpg://", pool_size=4, max_overflow=0, connect_args=through_pgbouncer)
sign_transactions(engine.sync_engine)
Session = async_sessionmaker(engine)

app = FastAPI()
app.add_middleware(AuditMiddleware)


@app.post("/orders", status_code=201)
async def add_order(order: NewOrder):
    async with Session.begin() as session:
        session.add(Order(id=order.id, note=order.note))
        await session.flush()
        session.add(OrderEvent(order_id=order.id, note=order.note))


@app.put("/orders/{id}", status_code=204)
async def change_order(id: int, change: Change):
    async with Session.begin() as session:
        (await session.get_one(Order, id)).note = change.note
