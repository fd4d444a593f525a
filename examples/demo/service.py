"""The full example: every guard of mlguard around a real model. Read it from top to bottom, and copy it.

::

    python -m examples.demo --serve

starts it with keys made for that run. With your own, it starts as any other app::

    export MLGUARD_API_KEYS_FILE=keys.toml
    mlguard keys new alice --scope predict
    PARTNER_SECRET='<secret>' TOKEN_SECRET='<secret>' DORA_PASSWORD_HASH='<hash>' \
        uvicorn --no-server-header examples.demo.service:app

Make each secret with ``python -c "import secrets; print(secrets.token_urlsafe(32))"``, and the hash with
``python -c "import asyncio, mlguard; print(asyncio.run(mlguard.Passwords().hash(input())))"``.
"""

import logging
import os
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security

from examples.demo.model import BLACK, CLASSES, PIXELS, WHITE, train
from mlguard import (
    AnyAuth,
    APIKeyAuth,
    APIKeys,
    Features,
    RateLimit,
    SignatureAuth,
    TokenIssuer,
    User,
    Users,
    harden,
    token_router,
    truncate_output,
)

logging.basicConfig(level=logging.INFO, format="%(levelname)s:  %(message)s")

app = FastAPI(title="Handwritten digits")
harden(app)  # errors that say nothing about the inside, headers, body limit, guards before bodies

model = train()

# Who is calling: programs by a key from a file that is watched, people by a token for their password, and another
# service by signing each request.
issuer = TokenIssuer(
    {"1": os.environ["TOKEN_SECRET"]}, algorithm="HS256", issuer="https://digits.example", audience="digits"
)
users = Users({"dora": User("dora", os.environ["DORA_PASSWORD_HASH"], scopes={"predict"})})
app.include_router(token_router(users, issuer))
caller = AnyAuth(
    APIKeyAuth(APIKeys.from_file()),
    issuer.auth(token_url="token", scopes={"predict": "Ask the model"}),
)
partner = SignatureAuth({"partner": os.environ["PARTNER_SECRET"]}, scopes={"partner": {"predict"}})

# How often. One bucket for each caller.
steady = RateLimit("60/minute", "1000/day", by=caller)
partner_steady = RateLimit("600/minute", by=partner)

# What comes in: rows of 64 finite numbers in range. What goes out: three classes, two decimals.
images = Features(columns=PIXELS, low=BLACK, high=WHITE, max_rows=100)
coarse = truncate_output(decimals=2, top_k=3, scores="probabilities", labels=CLASSES)


@app.post("/predict", dependencies=[Security(caller, scopes=["predict"]), Depends(steady)])
@coarse
def predict(x: Annotated[np.ndarray, Depends(images)]) -> dict[str, Any]:
    """The most likely digits of each image."""
    return {"probabilities": model.predict_proba(x)}


@app.post("/partner/predict", dependencies=[Security(partner, scopes=["predict"]), Depends(partner_steady)])
@coarse
def predict_for_partner(x: Annotated[np.ndarray, Depends(images)]) -> dict[str, Any]:
    """The same, for a service that signs its requests."""
    return {"probabilities": model.predict_proba(x)}
