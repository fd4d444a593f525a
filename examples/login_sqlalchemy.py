r"""Users in a table: they log in with name and password, get tokens that renew themselves, and log out.

The table is in SQLite, in memory, unless DATABASE_URL says otherwise (``postgresql+psycopg://...``). The first user is
made at the start. Make a secret and a password, start, log in, call::

    export TOKEN_SECRET=$(python -c "import secrets; print(secrets.token_urlsafe(32))")
    export ALICE_PASSWORD=$(python -c "import secrets; print(secrets.token_urlsafe(12))")
    uvicorn --no-server-header examples.login_sqlalchemy:app
    curl localhost:8000/token -d username=alice --data-urlencode "password=$ALICE_PASSWORD"
    curl localhost:8000/predict -H "Authorization: Bearer <access_token>" -H "Content-Type: application/json" \
        -d '{"features": [5.1, 3.5, 1.4, 0.2]}'

With MLGUARD_ENV=development, the Authorize button of http://localhost:8000/docs does the same.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, FastAPI, Security
from fastapi.concurrency import run_in_threadpool
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sqlalchemy import (
    Boolean,
    Column,
    Engine,
    MetaData,
    StaticPool,
    String,
    Table,
    create_engine,
    insert,
    select,
    update,
)
from sqlalchemy.sql import ColumnElement

from mlguard import FiniteNumber, Passwords, TokenIssuer, User, harden, token_router

accounts = Table(
    "accounts",
    MetaData(),
    Column("id", String(32), primary_key=True),
    Column("name", String(320), unique=True, nullable=False),
    Column("password_hash", String(255)),
    Column("scopes", String(1024), nullable=False, default=""),
    Column("disabled", Boolean, nullable=False, default=False),
)


def connect() -> Engine:
    """To the database that is configured, or to one in memory. ``hide_parameters``: no name or hash in its errors."""
    url = os.environ.get("DATABASE_URL")
    if url is not None:
        return create_engine(url, hide_parameters=True, pool_pre_ping=True)
    # One connection for all threads: a second one would have a database of its own.
    one = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    return create_engine("sqlite://", hide_parameters=True, **one)


class AccountsTable:
    """The table as a directory of users. Queries run in threads, or they would hold up every other request."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def find(self, name: str) -> User | None:
        """The account with this login name."""
        return await run_in_threadpool(self._select, accounts.c.name == name)

    async def get(self, id: str) -> User | None:  # noqa: A002  # mlguard calls it so
        """The account with this id."""
        return await run_in_threadpool(self._select, accounts.c.id == id)

    async def update_hash(self, user: User, new_hash: str) -> None:
        """Replace an outdated hash, if the password was not changed in between."""
        unchanged = (accounts.c.id == user.id) & (accounts.c.password_hash == user.password_hash)
        await run_in_threadpool(self._update, unchanged, new_hash)

    def add(self, user: User, name: str) -> None:
        """Make the table, if there is none, and an account in it, if there is none of this id."""
        accounts.metadata.create_all(self._engine)
        if self._select(accounts.c.id == user.id) is None:
            row = {"id": user.id, "name": name, "password_hash": user.password_hash, "scopes": " ".join(user.scopes)}
            with self._engine.begin() as connection:
                connection.execute(insert(accounts).values(row))

    def _select(self, condition: ColumnElement[bool]) -> User | None:
        with self._engine.connect() as connection:
            row = connection.execute(select(accounts).where(condition)).one_or_none()
        if row is None:
            return None
        return User(row.id, row.password_hash, scopes=row.scopes.split(), disabled=row.disabled)

    def _update(self, condition: ColumnElement[bool], new_hash: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(update(accounts).where(condition).values(password_hash=new_hash))


passwords = Passwords()
users = AccountsTable(connect())
issuer = TokenIssuer(
    {"2026-01": os.environ["TOKEN_SECRET"]},
    algorithm="HS256",
    issuer="https://iris.example",
    audience="https://iris.example/predict",
)


@asynccontextmanager
async def make_first_user(_: FastAPI) -> AsyncIterator[None]:
    """Stands for your sign-up."""
    password_hash = await passwords.hash(os.environ["ALICE_PASSWORD"])
    await run_in_threadpool(users.add, User("1", password_hash, scopes={"predict"}), "alice")
    yield


app = FastAPI(title="Iris", lifespan=make_first_user)
harden(app)
app.include_router(token_router(users, issuer, passwords=passwords))
caller = issuer.auth(token_url="token", scopes={"predict": "Ask the model"})

model = LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))
Flower = Annotated[list[FiniteNumber], Body(embed=True, min_length=4, max_length=4)]


@app.post("/predict", dependencies=[Security(caller, scopes=["predict"])])
def predict(features: Flower) -> dict[str, int]:
    """The class of one flower: 0, 1 or 2."""
    return {"label": int(model.predict([features])[0])}
