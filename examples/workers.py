r"""Four worker processes that count, remember and hold places together, in Redis.

Limits, the monthly budget, places and used signatures hold for all workers as one, and over restarts. Needs
``pip install 'mlguard[redis]'`` and a Redis. Name it, make a key and a secret, start, call::

    export MLGUARD_STORE_URL=redis://localhost:6379/0
    export MLGUARD_API_KEYS_FILE=keys.toml PARTNER_SECRET=<secret>
    export KEY=$(mlguard keys new alice --scope predict)
    uvicorn --workers 4 --no-server-header examples.workers:app
    curl localhost:8000/predict -H "X-API-Key: $KEY" -H "Content-Type: application/json" \
        -d '{"features": [5.1, 3.5, 1.4, 0.2]}'
    mlguard budget show rows --caller alice

Make the secret with ``python -c "import secrets; print(secrets.token_urlsafe(32))"``. On a network that others share,
use ``rediss://`` and a password. Behind a proxy, see ``ClientAddress``.
"""

import os
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlguard import (
    APIKeyAuth,
    APIKeys,
    BudgetStatus,
    ConcurrencyLimit,
    Features,
    QueryBudget,
    RateLimit,
    SignatureAuth,
    harden,
    truncate_output,
)

model = LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))

app = FastAPI(title="Iris, four times")
harden(app)

# Who is calling: people by a key, a partner's service by signing each request, which is good once in all workers.
caller = APIKeyAuth(APIKeys.from_file())
partner = SignatureAuth({"partner": os.environ["PARTNER_SECRET"]}, scopes={"partner": {"predict"}})

flowers = Features(columns=4, low=0.0, high=10.0, max_rows=100)

# How often, and how much in a month. While Redis is away, a rate is counted by each worker for itself: four of them
# admit a quarter each. The budget is not: without Redis, nobody gets rows that nobody counts.
steady = RateLimit("60/minute", "1000/day", by=caller, name="people", on_store_error="local", local_share=0.25)
budget = QueryBudget("5000/month", by=caller, cost=flowers, name="rows", total="100000/month")
partner_steady = RateLimit("600/minute", by=partner, name="partners")

# How many at once, in all workers together.
places = ConcurrencyLimit(8, wait=0.5)

coarse = truncate_output(decimals=2, scores="probabilities")


@app.post(
    "/predict",
    dependencies=[Security(caller, scopes=["predict"]), Depends(steady), Depends(places), Depends(budget)],
)
@coarse
def predict(x: Annotated[np.ndarray, Depends(flowers)]) -> dict[str, Any]:
    """How likely each species is, for each flower."""
    return {"probabilities": model.predict_proba(x)}


@app.post(
    "/partner/predict",
    dependencies=[Security(partner, scopes=["predict"]), Depends(partner_steady), Depends(places)],
)
@coarse
def predict_for_partner(x: Annotated[np.ndarray, Depends(flowers)]) -> dict[str, Any]:
    """The same, for a service that signs its requests."""
    return {"probabilities": model.predict_proba(x)}


@app.get("/budget", dependencies=[Security(caller, scopes=["predict"])])
def left(status: Annotated[BudgetStatus, Depends(budget.status)]) -> BudgetStatus:
    """What is left to who is calling."""
    return status
