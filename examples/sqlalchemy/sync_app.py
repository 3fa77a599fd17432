from fastapi import FastAPI
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from audit import AuditMiddleware, sign_transactions
from models import Change, NewOrder, Order, OrderEvent

engine = create_engine("postgresql+psycopg://", pool_size=4, max_overflow=0, connect_args={"prepare_threshold": None})
sign_transactions(engine)
Session = sessionmaker(engine)

app = FastAPI()
app.add_middleware(AuditMiddleware)


@app.post("/orders", status_code=201)
def add_order(order: NewOrder):
    with Session.begin() as session:
        session.add(Order(id=order.id, note=order.note))
        session.flush()
        session.add(OrderEvent(order_id=order.id, note=order.note))


@app.put("/orders/{id}", status_code=204)
def change_order(id: int, change: Change):
    with Session.begin() as session:
        session.get_one(Order, id).note = change.note
