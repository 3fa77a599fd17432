"""A dependency: the transaction of a request, signed by its user."""

from typing import Annotated
from uuid import uuid4

from fastapi import Depends, Header, Request
from psycopg import AsyncConnection

SIGN = """SELECT set_config('audit_cdc.username', %s::text, true), set_config('audit_cdc.source', %s::text, true),
                 set_config('audit_cdc.request_id', %s::text, true)"""


async def user_of(x_user: Annotated[str | None, Header()] = None):
    return x_user


async def transaction(request: Request, user: Annotated[str | None, Depends(user_of)]):
    request_id = request.headers.get("X-Request-Id") or str(uuid4())
    async with request.app.state.pool.connection() as connection, connection.transaction():
        await connection.execute(SIGN, (user, "web", request_id))
        yield connection


Transaction = Annotated[AsyncConnection, Depends(transaction, scope="function")]
