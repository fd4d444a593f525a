"""The full example: every guard of mlguard around a real model. Read it from top to bottom, and copy it.

::

    python -m examples.demo --serve

starts it with keys made for that run. With your own, it starts as any other app::

    MLGUARD_API_KEYS='alice=<secret>;predict' PARTNER_SECRET='<secret>' \
        uvicorn --no-server-header examples.demo.service:app

Make each secret with ``python -c "import secrets; print(secrets.token_urlsafe(32))"``.
"""

import logging
import os
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security

from examples.demo.model import BLACK, CLASSES, PIXELS, WHITE, train
from mlguard import APIKeyAuth, APIKeys, Features, RateLimit, SignatureAuth, harden, truncate_output

logging.basicConfig(level=logging.INFO, format="%(levelname)s:  %(message)s")

app = FastAPI(title="Handwritten digits")
harden(app)  # errors that say nothing about the inside, headers, body limit, guards before bodies

model = train()

# Who is calling: people by a key, another service by signing each request.
caller = APIKeyAuth(APIKeys.from_env())
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
