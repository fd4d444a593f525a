"""A service that runs in several worker processes, each answer of which says in which."""

import asyncio
import os
from typing import Annotated

from fastapi import Depends, FastAPI
from starlette.types import Message, Receive, Scope, Send

from mlguard import (
    APIKeyAuth,
    APIKeys,
    ConcurrencyLimit,
    Principal,
    RateLimit,
    RedisStore,
    SignatureAuth,
    TokenIssuer,
    harden,
)

service = FastAPI()
harden(service)

store = RedisStore(os.environ["REDIS"], timeout=30)  # the machine of the tests may be busy
caller = APIKeyAuth(APIKeys.from_env())
steady = RateLimit(
    "12/minute", "100/day", by=caller, store=store
)  # unnamed: its bucket must be the same in every worker
signed = SignatureAuth({"billing": os.environ["KEY"]}, store=store)
issuer = TokenIssuer(
    os.environ["KEY"], algorithm="HS256", issuer="https://id.example", audience="https://api.example", store=store
)
user = issuer.auth(token_url="token")


@service.get("/limited", dependencies=[Depends(steady)])
async def limited() -> None:
    """One unit of the limit."""


@service.get("/held", dependencies=[Depends(ConcurrencyLimit(1, wait=0, lease=1, store=store))])
async def held(seconds: float) -> None:
    """The only place, for so long."""
    await asyncio.sleep(seconds)


@service.post("/signed", dependencies=[Depends(signed)])
async def call() -> None:
    """One nonce."""


@service.get("/me")
async def me(who: Annotated[Principal, Depends(user)]) -> str:
    """Whose token it is."""
    return who.id


@service.post("/revoke")
async def revoke(who: Annotated[Principal, Depends(user)]) -> None:
    """Take the token back."""
    await issuer.revoke(who.claims["jti"])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The service, with the process in each answer."""

    async def send_with_process(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-process", str(os.getpid()).encode())]
        await send(message)

    await service(scope, receive, send_with_process)
