"""A service that incidents are played on, in several worker processes, each answer of which says in which."""

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from starlette.types import Message, Receive, Scope, Send

from mlguard import (
    NUMPY_ARRAYS,
    APIKeyAuth,
    APIKeys,
    Features,
    Lockdown,
    ModelStore,
    QueryBudget,
    RateLimit,
    RedisStore,
    ServedModel,
    TokenIssuer,
    harden,
    truncate_output,
)

logging.basicConfig(level=logging.INFO)

store = RedisStore(os.environ["MLGUARD_STORE_URL"])
lockdown = Lockdown(store=store)
models = ModelStore(os.environ["MODELS"], key=Path(os.environ["MODEL_KEY"]))
iris = ServedModel(models, "iris", allow=NUMPY_ARRAYS, follow=lockdown)
caller = APIKeyAuth(APIKeys.from_file())
issuer = TokenIssuer(
    os.environ["KEY"], algorithm="HS256", issuer="https://id.example", audience="https://api.example", store=store
)
user = issuer.auth(token_url=None)
rows = Features(columns=2, low=0.0, high=10.0, max_rows=10)
steady = RateLimit("100000/minute", by=caller, store=store)
budget = QueryBudget("100000/day", by=caller, cost=rows, name="predictions", store=store)

service = FastAPI(lifespan=iris.lifespan)
harden(service)
lockdown.install(service)


@service.get("/health")
async def health() -> None:
    """Whether it is there."""


@service.post("/predict", dependencies=[Security(caller), Depends(steady), Depends(budget)])
@truncate_output(decimals=2, scores="probabilities", labels=["setosa", "versicolor"])
async def predict(x: Annotated[np.ndarray, Depends(rows)], model: Annotated[Any, Depends(iris)]) -> dict[str, Any]:
    """The model's scores, which say which version it is: the first of them is a tenth of it."""
    scores = np.full((len(x), 2), float(model["version"]) / 10)
    scores[:, 1] = 1 - scores[:, 0]
    return {"probabilities": scores}


@service.get("/me", dependencies=[Security(user)])
async def me() -> None:
    """For who has a token."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The service, with the process in each answer."""

    async def send_with_process(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-process", str(os.getpid()).encode())]
        await send(message)

    await service(scope, receive, send_with_process)
