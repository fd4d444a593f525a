"""The service that is called: only by who can sign, each signature once.

Start it with the secret that the caller has, too::

    SIGNING_SECRET='<secret>' uvicorn --no-server-header examples.signed_calls.server:app

Signatures keep a request from being forged, altered and replayed, not from being read: in production, use TLS as well
(see ``tls.py``). Used nonces are remembered in this process; run one worker, or set ``MLGUARD_STORE_URL``.
"""

import os
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlguard import Features, Principal, RateLimit, SignatureAuth, harden, truncate_output

model = LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))

app = FastAPI(title="Iris for services")
harden(app)

# To change the secret: add the new one under a new key id, move the callers over, remove the old one.
partner = SignatureAuth({"billing-2025": os.environ["SIGNING_SECRET"]}, scopes={"billing-2025": {"predict"}})
steady = RateLimit("600/minute", by=partner)
flowers = Features(columns=4, low=0.0, high=10.0, max_rows=1_000)


@app.post("/predict", dependencies=[Depends(steady)])
@truncate_output(decimals=2, scores="probabilities")
def predict(
    x: Annotated[np.ndarray, Depends(flowers)], service: Annotated[Principal, Security(partner, scopes=["predict"])]
) -> dict[str, Any]:
    """How likely each species is, for each flower."""
    return {"for": service.id, "probabilities": model.predict_proba(x)}
